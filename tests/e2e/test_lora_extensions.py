"""Extensions that change a LoRA's strength in mid-run: LoRA Block Weight, and Dynamic Lora Weights (loractl).

EXTENSIONS_DIR names a folder of checkouts. A jump makes the evaluation full, weights that change at every step do not.
"""

import pytest

from tests.e2e.hosts import folder_named_by
from tests.e2e.pictures import HIRES, Maker, psnr, same
from tests.e2e.server import EXTENSIONS, parts_of, serving

pytestmark = pytest.mark.usefixtures("a1111")
BLOCKS, RAMPS = "LoRA Block Weight", "Dynamic Lora Weights"
REPOSITORIES = {BLOCKS: "sd-webui-lora-block-weight", RAMPS: "sd-webui-loractl"}
TWENTY = {"steps": 20, "width": 64, "height": 64, "scheduler": "Karras"}
FEW = {"preset": "Custom", "steps": "0-3, 9, 15"}
SWITCHED = "2 evaluations more than planned made in full, as prompts, unconds or the network changed there"
OUTER = "0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    folder = folder_named_by("EXTENSIONS_DIR", "folder of other extensions")
    others = {name: parts_of(folder / name) for name in REPOSITORIES.values() if (folder / name).is_dir()}
    where = tmp_path_factory.mktemp("lora")
    (where / "ui-config.json").write_text("{}")  # LoRA Block Weight reads it before the host has made it
    with serving(webui, where, extensions=EXTENSIONS | others) as running:
        maker = Maker(running)
        maker.found = others
        if not any("tiny" in lora["name"] for lora in running.get("/sdapi/v1/loras")):
            pytest.skip("the WebUI has no LoRA for the small checkpoint")
        maker.make(steps=1)
        yield maker


def asked(maker, title, lora):
    """Return the request for a picture with this LoRA's text, the other extension off; skips where it is missing."""
    if REPOSITORIES[title] not in maker.found:
        pytest.skip(f"EXTENSIONS_DIR has no {REPOSITORIES[title]}")
    infos = {info["name"]: info for info in maker.server.get("/sdapi/v1/script-info") if not info["is_img2img"]}
    scripts = {}
    if BLOCKS.lower() in infos:
        values = [argument["value"] for argument in infos[BLOCKS.lower()]["args"]]
        scripts[BLOCKS] = {"args": [values[0], title == BLOCKS, *values[2:]]}
    if RAMPS.lower() in infos:
        scripts[RAMPS] = {"args": [title == RAMPS, False]}
    return TWENTY | {"prompt": f"a house <lora:tiny-lora:{lora}>", "alwayson_scripts": scripts}


def made(maker, cache, request):
    """Return the uncached picture, the cached one and its passes; it is the same twice."""
    uncached, cached = maker.make(**request), maker.make(cache=cache, **request)
    passes = maker.last_run()["passes"]
    assert same(cached, maker.make(cache=cache, **request))
    assert not any(done["statistics"]["error"] for done in passes)
    return uncached, cached, passes


JUMPS = {
    "stop": (BLOCKS, "1:stop=7", "7-9"),
    "start": (BLOCKS, "1:start=7", "7-9"),
    "stop of some blocks": (BLOCKS, f"1:lbw={OUTER}:stop=7", "7-9"),
    "a jump of a curve": (RAMPS, "1@0,1@0.5,0@0.51", "9, 11-12"),
}
"""The extension, what is written of the LoRA, and what is made in full around its switch."""


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("case", JUMPS)
def test_a_strength_that_jumps_makes_the_evaluation_full(maker, case, depth):
    title, lora, in_full = JUMPS[case]
    request = asked(maker, title, lora)
    uncached, cached, (done,) = made(maker, FEW | {"depth": depth}, request)
    found, still = psnr(cached, uncached), psnr(maker.make(**asked(maker, title, "1")), uncached)
    print(f"{case}, depth {depth}: {found:.1f} dB, {still:.1f} from a LoRA that stays")
    assert done["in_full"] == f"0-3, {in_full}, 15"
    assert (done["statistics"]["switched"], done["reason"]) == (2, SWITCHED)
    if depth == 0:
        assert done["statistics"]["uncorrected"] == (1 if title == RAMPS else 3)


def test_blocks_of_a_lora_as_they_are_all_the_time_are_cached_as_planned(maker):
    request = asked(maker, BLOCKS, f"1:lbw={OUTER}")
    uncached, _, (done,) = made(maker, FEW, request)
    assert (done["in_full"], done["reason"]) == ("0-3, 9, 15", "")
    assert not same(uncached, maker.make(**asked(maker, BLOCKS, "1")))


@pytest.mark.parametrize("lora", ["1@0,0@1", "1@0,0@0.5"], ids=["to the end", "to the middle"])
def test_a_strength_that_changes_with_every_step_is_cached_as_planned(maker, lora):
    request = asked(maker, RAMPS, lora)
    uncached, cached, (done,) = made(maker, {"preset": "Balanced"}, request)
    fewer = psnr(maker.make(**request | {"steps": done["statistics"]["full"]}), uncached)
    print(f"{psnr(cached, uncached):.1f} dB, {fewer:.1f} with fewer steps")
    assert (done["plan"], done["reason"]) == (done["in_full"], "")
    assert (done["statistics"]["corrected"], done["statistics"]["uncorrected"]) == (9, 0)
    assert psnr(cached, uncached) > fewer
    assert not same(uncached, maker.make(**asked(maker, RAMPS, "1")))


def test_a_ramp_in_both_passes_of_hires_fix(maker):
    request = asked(maker, RAMPS, "1@0,0@0.5:hr=0.5@0,1@0.5") | HIRES | {"hr_second_pass_steps": 20}
    _, _, passes = made(maker, {"preset": "Balanced"}, request)
    assert [(done["name"], done["reason"]) for done in passes] == [("txt2img", ""), ("hires", "")]
    assert all(done["statistics"]["corrected"] == 9 for done in passes)
