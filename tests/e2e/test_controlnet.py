"""With ControlNet: the one that is built into Forge's family, or the extension.

CONTROLNET_DIR names a checkout of the extension whose packages WEBUI_PYTHON can import.
"""

import pytest

from tests.e2e.hosts import folder_named_by
from tests.e2e.pictures import HIRES, Maker, closeness, picture_of, psnr, same
from tests.e2e.server import EXTENSIONS, parts_of, serving

TEN = {"steps": 10}
FAR = 3.0
"""How many dB at least the cached picture is closer to the uncached one with control than that without control."""
SLACK = 3.0


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    extensions = dict(EXTENSIONS)
    if not webui.forge:
        checkout = folder_named_by("CONTROLNET_DIR", "checkout of the ControlNet extension")
        extensions["sd-webui-controlnet"] = parts_of(checkout)
    with serving(webui, tmp_path_factory.mktemp("controlnet"), extensions=extensions) as running:
        maker = Maker(running)
        maker.make(steps=1)
        running.post("/e2e/narrow")
        yield maker


@pytest.fixture(scope="module")
def unit(webui, maker):
    """Return a function from the beginning of a model's name, or a preprocessor's, to a unit that has it."""
    return units_on(maker, forge=webui.forge)


def units_on(maker, *, forge):
    """Return the function that `unit` is."""
    nothing = "None" if forge else "none"
    reference = {"model": "None", "weight": 2.0, "threshold_a": 0.5} if forge else {}
    models = maker.server.get("/controlnet/model_list")["model_list"]

    def made(wanted, **options):
        found = {"enabled": True, "image": picture_of(), "module": nothing, "weight": 1.0} | options
        if wanted == "reference_only":
            return found | {"module": wanted} | reference
        names = [name for name in models if name.startswith(wanted)]
        if not names:
            pytest.skip(f"ControlNet has no model {wanted}")
        return found | {"model": names[0]}

    return made


CASES = {
    "one unit": (["tiny-cn"], {}),
    "T2I adapter": (["tiny-t2i"], {}),
    "two units": (["tiny-cn", "tiny-t2i"], {}),
    "reference and control": (["tiny-cn", "reference_only"], {}),
    "one unit, split calls": (["tiny-cn"], {"override_settings": {"batch_cond_uncond": False}}),
    "hires fix": (["tiny-cn"], HIRES | {"hr_second_pass_steps": 10}),
    "SDXL": (["xl-cn"], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_controls_effect_is_all_there(maker, unit, case):
    wanted, request = CASES[case]
    if case == "SDXL":
        request = {"model": maker.model("SDXL")}
        maker.make(steps=1, **request)
        maker.server.post("/e2e/narrow")
    units = [unit(name) for name in wanted]
    controlled = request | {"alwayson_scripts": {"ControlNet": {"args": units}}}
    with_control, passes = closeness(maker, **controlled)
    plain, _ = closeness(maker, **request)
    without_control, _ = closeness(maker, against=request, **controlled)
    print(f"{case}: {with_control:.1f} dB with control, {plain:.1f} plain, {without_control:.1f} to the uncontrolled")
    assert all((done["reused"], done["missed"], done["error"]) == (6, 0, "") for done in passes), passes
    assert with_control > plain - SLACK
    assert with_control > without_control + FAR


def test_a_reference_changes_the_cached_picture_as_much_as_the_uncached_one(maker, unit):
    referring = TEN | {"alwayson_scripts": {"ControlNet": {"args": [unit("reference_only")]}}}
    cache = {"interval": 3, "depth": 2}
    uncached = psnr(maker.make(**referring), maker.make(**TEN))
    cached = psnr(maker.make(cache=cache, **referring), maker.make(cache=cache, **TEN))
    assert maker.counts() == [("txt2img", 4, 6)]
    print(f"{uncached:.1f} dB from the picture without a reference, {cached:.1f} cached")
    assert abs(cached - uncached) < SLACK
    assert uncached < 60


def test_the_controls_effect_is_there_without_any_block_too(maker, unit):
    units = [unit("tiny-cn"), unit("tiny-t2i")]
    request = {"steps": 10, "alwayson_scripts": {"ControlNet": {"args": units}}}
    cached = maker.make(cache={"interval": 3, "depth": 0}, **request)
    assert maker.counts() == [("txt2img", 4, 6)]
    assert psnr(cached, maker.make(**request)) > psnr(cached, maker.make(steps=10)) + FAR


def test_a_unit_that_ends_in_mid_run(maker, unit):
    units = [unit("tiny-cn", guidance_end=0.5)]
    found, (done,) = closeness(maker, alwayson_scripts={"ControlNet": {"args": units}})
    assert done["full"] + done["reused"] == 10
    assert done["error"] == ""
    assert found > closeness(maker)[0] - SLACK


@pytest.mark.parametrize("wanted", [["tiny-cn"], ["tiny-t2i"], ["tiny-cn", "tiny-t2i"]], ids="+".join)
@pytest.mark.parametrize("edge", ["guidance_start", "guidance_end"])
def test_a_unit_that_begins_or_ends_on_a_reuse_makes_the_evaluation_full(maker, unit, wanted, edge):
    units = [unit(name, weight=2.0) for name in wanted[:-1]] + [unit(wanted[-1], weight=2.0, **{edge: 0.5})]
    request = {"steps": 12, "alwayson_scripts": {"ControlNet": {"args": units}}}
    cached = maker.make(cache={"steps": "0-2, 11", "depth": 1, "preset": "Custom"}, **request)
    (done,) = maker.last_run()["passes"]
    first, last = (int(number) for number in done["in_full"].split(", ")[1].split("-"))
    assert (last - first, done["statistics"]["full"], done["statistics"]["switched"]) == (1, 6, 2)
    assert 4 <= first <= 8
    assert psnr(cached, maker.make(**request)) > psnr(cached, maker.make(steps=12))


def test_a_reuse_runs_only_the_control_blocks_that_it_needs(maker, unit):
    def blocks(**request):
        maker.state()
        maker.make(steps=10, cache={"interval": 3, "depth": 2}, **request)
        assert maker.counts() == [("txt2img", 4, 6)]
        return maker.state()["blocks"]

    of_control = blocks(alwayson_scripts={"ControlNet": {"args": [unit("tiny-cn")]}}) - blocks()
    input_blocks, middle, hint = 12, 1, 1
    full = 2 * input_blocks + 2 * middle + hint
    assert of_control == 4 * full + 6 * (2 * 2 + hint)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("wanted", [["tiny-cn"], ["tiny-cn", "tiny-t2i"], ["tiny-t2i", "tiny-cn"]], ids="+".join)
def test_short_control_models_make_the_picture_of_whole_ones(maker, unit, wanted, depth):
    request = {"steps": 10, "alwayson_scripts": {"ControlNet": {"args": [unit(name) for name in wanted]}}}
    short = maker.make(cache={"interval": 3, "depth": depth}, **request)
    of_short = maker.state()["blocks"]
    maker.server.post("/e2e/want?whole_controls=true")
    assert same(short, maker.make(cache={"interval": 3, "depth": depth}, **request))
    assert maker.counts() == [("txt2img", 4, 6)]
    assert maker.state()["blocks"] > of_short
