"""Two hosts of the family that walk the U-Net in different ways make the same pictures, cached or not."""

import numpy as np
import pytest

from tests.e2e.hosts import FORGE, REFORGE
from tests.e2e.pictures import Maker, pixels
from tests.e2e.server import serving

CACHES = {
    "uncached": None,
    "depth 1": {"interval": 3, "depth": 1},
    "depth 4": {"interval": 3, "depth": 4},
    "a preset": {"preset": "Balanced"},
}
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return the pixels of every request on each host, by host."""
    if not (FORGE.is_named and REFORGE.is_named):
        pytest.skip("FORGE_DIR and REFORGE_DIR do not name both hosts")
    found = {}
    for host in (FORGE, REFORGE):
        with serving(host, tmp_path_factory.mktemp("between")) as server:
            maker = Maker(server)
            found[host] = {
                (name, sampler): pixels(maker.make(cache=cache, steps=10, sampler_name=sampler)["images"][0])
                for name, cache in CACHES.items()
                for sampler in SAMPLERS
            }
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_they_differ_with_caching_by_no_more_than_without(pictures, sampler):
    off = {
        name: int(np.abs(pictures[FORGE][name, sampler] - pictures[REFORGE][name, sampler]).max()) for name in CACHES
    }
    print(f"{sampler}: at most {off} of 255 apart")
    assert max(off.values()) <= max(2, off["uncached"])
