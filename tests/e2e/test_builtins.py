"""What Forge's family has built in and people use: found by the title of its script, its arguments by their labels."""

import pytest

from deepcache_ext.statistics import OTHERS
from tests.e2e.pictures import closeness, psnr, same

ON = {"interval": 3, "depth": 2}
TEN = {"steps": 10}
SLACK = 3.0
"""How many dB a combination may be less close than the plain picture."""
TILES = {"Tile Width": 48, "Tile Height": 48, "Tile Overlap": 0}
RESCALED = {
    "rescalecfg for reforge": {"RescaleCFG Multiplier": 0.7},
    "rescalecfg": {"Rescale CFG": 0.7},
    "latentmodifier": {"Rescale Cfg Phi": 0.7},
}
"""What rescales a guided output, which host has it, and by how much."""
GUIDANCES = ("selfattentionguidance", "perturbedattentionguidance")
CASES = {
    "Kohya HRFix": ("kohya hrfix", {}),
    "Kohya HRFix, another block, before the skip": ("kohya hrfix", {"Block Number": 5, "Downscale After Skip": False}),
    "Kohya HRFix to the end": ("kohya hrfix", {"End Percent": 1.0}),
    "SAG": ("selfattentionguidance", {}),
    "PAG": ("perturbedattentionguidance", {}),
    "FreeU": ("freeu", {}),
    "Never OOM": ("never oom", {}),
}


def arguments_of(webui, maker, title, changes):
    """Return what switches on the script whose title begins so, with some arguments changed by their labels."""
    infos = [info for info in maker.server.get("/sdapi/v1/script-info") if not info["is_img2img"]]
    info = next((info for info in infos if webui.forge and info["name"].startswith(title)), None)
    if info is None:
        pytest.skip(f"{webui.name} has no {title} built in")
    values = [changes.get(argument["label"], argument["value"]) for argument in info["args"]]
    switch = [] if info["args"][0]["label"] in changes else [True]
    return {"alwayson_scripts": {info["name"]: {"args": [*switch, *values[len(switch) :]]}}}


@pytest.fixture
def switched_on(webui, maker):
    return lambda title, changes: arguments_of(webui, maker, title, changes)


@pytest.mark.parametrize("case", CASES)
def test_a_builtin_is_as_close_as_the_plain_picture(maker, usual, switched_on, case):
    title, changes = CASES[case]
    found, (done,) = closeness(maker, **switched_on(title, changes))
    print(f"{case}: {found:.1f} dB, {usual:.1f} plain")
    assert (done["full"] + done["reused"], done["error"], done["others"]) == (10, "", False)
    assert done["reused"] >= 5
    assert found > usual - SLACK


@pytest.mark.parametrize("title", ["freeu", "kohya hrfix", *GUIDANCES])
def test_a_builtin_has_its_effect_on_cached_pictures_too(maker, switched_on, title):
    request = TEN | switched_on(title, {})
    cached, uncached = maker.make(cache=ON, **request), maker.make(**request)
    assert not same(uncached, maker.make(**TEN))
    assert psnr(cached, uncached) > psnr(cached, maker.make(**TEN)) - SLACK
    assert same(cached, maker.make(cache=ON, **request))


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Euler a"])
def test_reuses_are_corrected_where_the_guided_output_is_rescaled(webui, maker, sampler):
    names = [info["name"] for info in maker.server.get("/sdapi/v1/script-info")]
    title = next((title for title in RESCALED if any(name.startswith(title) for name in names)), "rescalecfg")
    plain = {"steps": 20, "width": 64, "height": 64, "sampler_name": sampler, "scheduler": "Karras", "batch_size": 2}
    request, cache = plain | arguments_of(webui, maker, title, RESCALED[title]), {"preset": "Balanced"}
    uncached, cached = maker.make(**request), maker.make(cache=cache, **request)
    (done,) = maker.last_run()["passes"]
    assert same(cached, maker.make(cache=cache, **request))
    found, usual = psnr(cached, uncached), psnr(maker.make(cache=cache | {"correction": "off"}, **request), uncached)
    print(f"{title}, {sampler}: {found:.1f} dB, {usual:.1f} without corrections")
    assert not same(uncached, maker.make(**plain))
    assert (done["statistics"]["corrected"], done["statistics"]["uncorrected"], done["reason"]) == (9, 0, "")
    assert found > usual - 1


def test_multidiffusions_tiles_are_computed_in_full_and_said(maker, switched_on):
    request = TEN | switched_on("multidiffusion", TILES)
    cached = maker.make(cache=ON, **request)
    (done,) = maker.last_run()["passes"]
    assert (done["statistics"]["reused"], done["reason"]) == (0, OTHERS)
    assert same(cached, maker.make(**request))
