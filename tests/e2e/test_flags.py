"""Flags of the host's command line and fp8 weights: the picture is that of the ordinary server."""

import pytest

from tests.e2e.pictures import Maker, closeness, psnr, same
from tests.e2e.server import serving
from tests.e2e.test_combinations import ON, SLACK, TEN, settings

EXACT = {"--medvram-sdxl": "SDXL", "--nowebui": "SD1"}
"""Flags that leave the arithmetic on a CPU as it is, and the kind of checkpoint to try them with."""
OF_ALL = ("--nowebui",)
"""Those that Forge's family has as well."""
KINDS = EXACT | {"--opt-channelslast": "SD1"}


@pytest.fixture(scope="module", params=KINDS)
def flag(webui, request):
    if webui.forge and request.param not in OF_ALL:
        pytest.skip(f"{webui.name} has no {request.param}")
    return request.param


@pytest.fixture(scope="module")
def model(maker, flag):
    return maker.model(KINDS[flag])


@pytest.fixture(scope="module")
def flagged(webui, tmp_path_factory, flag, model):
    assert model
    with serving(webui, tmp_path_factory.mktemp("flagged"), flag) as running:
        yield Maker(running)


def test_the_picture_is_that_of_the_ordinary_server(webui, maker, flagged, flag, model):
    if not webui.forge:  # whose own route for its flags fails
        assert flagged.server.get("/sdapi/v1/cmd-flags")[flag.strip("-").replace("-", "_")]
    expected = maker.make(cache=ON, model=model, **TEN)
    found = flagged.make(cache=ON, model=model, **TEN)
    assert flagged.counts() == maker.counts() == [("txt2img", 4, 6)]
    assert same(expected, found) if flag in EXACT else psnr(expected, found) > 45
    assert same(flagged.make(cache=ON | {"interval": 1}, model=model, **TEN), flagged.make(model=model, **TEN))


def test_the_axes_are_there(maker, flagged):
    assert flagged.state()["axes"] == maker.state()["axes"]


@pytest.fixture
def fp8(webui, tmp_path):
    """Return a maker on a server of its own: on a CPU the host itself makes NaNs once fp8 is switched off again."""
    with serving(webui, tmp_path) as running:
        yield Maker(running)


@pytest.mark.usefixtures("a1111")
def test_fp8_weights(maker, fp8):
    options = settings(fp8_storage="Enable")
    found, (done,) = closeness(fp8, **options)
    assert (done["full"], done["reused"], done["missed"]) == (4, 6, 0)
    assert found > closeness(maker)[0] - SLACK
    options["override_settings"]["sd_model_checkpoint"] = maker.model("SD1")
    uncached = fp8.make(**TEN, **options)
    assert "FP8 weight: Enable" in uncached["info"]["infotexts"][0]
    assert 20 < psnr(uncached, maker.make(**TEN)) < 45
    assert same(uncached, fp8.make(cache=ON | {"interval": 1}, **TEN, **options))
