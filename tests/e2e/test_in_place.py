"""Corrections make the pictures of samplers that put their own x and outputs right.

These are in `inplace/scripts/e2e_in_place.py`. DeepCache's predictors tell them what a reuse is at first, so only what
is made of it is compared.
"""

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from tests.e2e.pictures import Maker, pixels
from tests.e2e.server import EXTENSIONS, serving

pytestmark = pytest.mark.usefixtures("a1111")
IN_FULL = [0, 1, 4, 5, 8, 11, 15, 18]
LIST = {"schedule": "list", "steps": ", ".join(map(str, IN_FULL)), "depth": 0}
REUSES = IN_FULL[-1] + 1 - len(IN_FULL)
SAMPLERS = ["Euler", "Euler a", "DDIM", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE"]
REQUEST = {"steps": 20, "width": 64, "height": 64, "scheduler": "Karras"}
WITHIN = 2
"""Of 255: what a picture may be off by the order in which the same is added up."""


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    helper = {"e2e-in-place": [Path(__file__).parent / "inplace/scripts"]}
    with serving(webui, tmp_path_factory.mktemp("inplace"), extensions=EXTENSIONS | helper) as running:
        maker = Maker(running)
        maker.make(steps=1)
        yield maker


def in_place(maker, sampler, steps, *, follows=True):
    """Return the picture of the sampler that puts itself right, and how many outputs it has put right."""
    path = f"/e2e/in-place?name={quote(sampler)}&follows={follows}"
    before = maker.last_run()
    maker.server.post(path, steps)
    try:
        made = maker.make(sampler_name=sampler, **REQUEST)
    finally:
        count = maker.server.get("/e2e/in-place")["put right"]
        maker.server.post(path, [])
    assert maker.last_run() == before  # without DeepCache
    return made, count


def apart(one, other):
    return int(np.abs(pixels(one["images"][0]) - pixels(other["images"][0])).max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_picture_is_that_of_a_sampler_whose_own_state_is_put_right(maker, sampler):
    corrected = maker.make(cache=LIST, sampler_name=sampler, **REQUEST)
    (done,) = maker.last_run()["passes"]
    assert (done["statistics"]["corrected"], done["statistics"]["uncorrected"]) == (REUSES, 0)
    assert done["in_full"] == "0-1, 4-5, 8, 11, 15, 18"  # IN_FULL
    wanted, count = in_place(maker, sampler, IN_FULL)
    assert count == REUSES
    still, _ = in_place(maker, sampler, IN_FULL, follows=False)
    off = maker.make(cache=LIST | {"correction": "off"}, sampler_name=sampler, **REQUEST)
    found = [apart(other, wanted) for other in (corrected, still, off)]
    print(f"{sampler}: {found} of 255 apart: corrected, if pictures did not follow, without corrections")
    assert found[0] <= WITHIN
    assert found[1] > WITHIN
    assert found[2] > 2 * WITHIN


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_reuses_it_makes_the_hosts_own_picture(maker, sampler):
    wanted, count = in_place(maker, sampler, [*range(20)])
    assert count == 0
    assert apart(wanted, maker.make(sampler_name=sampler, **REQUEST)) <= WITHIN
