"""With the ControlNet extension: CONTROLNET_DIR names a checkout of it whose packages WEBUI_PYTHON can import."""

import pytest

from tests.e2e.hosts import folder_named_by
from tests.e2e.pictures import HIRES, Maker, closeness, picture_of, psnr
from tests.e2e.server import EXTENSIONS, parts_of, serving

FAR = 3.0
"""How many dB at least the cached picture is closer to the uncached one with control than that without control."""
SLACK = 3.0


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    checkout = folder_named_by("CONTROLNET_DIR", "checkout of the ControlNet extension")
    extensions = EXTENSIONS | {"sd-webui-controlnet": parts_of(checkout)}
    with serving(webui, tmp_path_factory.mktemp("controlnet"), extensions=extensions) as running:
        maker = Maker(running)
        maker.make(steps=1)
        running.post("/e2e/narrow")
        yield maker


def unit(maker, wanted, **options):
    """Return a unit of the model whose name begins with `wanted`, or of the preprocessor of that name."""
    found = {"enabled": True, "image": picture_of(), "module": "none", "weight": 1.0} | options
    if wanted == "reference_only":
        return found | {"module": wanted}
    names = [name for name in maker.server.get("/controlnet/model_list")["model_list"] if name.startswith(wanted)]
    if not names:
        pytest.skip(f"the ControlNet extension has no model {wanted}")
    return found | {"model": names[0]}


CASES = {
    "one unit": (["tiny-cn"], {}),
    "T2I adapter": (["tiny-t2i"], {}),
    "two units": (["tiny-cn", "tiny-t2i"], {}),
    "reference only": (["reference_only"], {}),
    "reference and control": (["tiny-cn", "reference_only"], {}),
    "one unit, split calls": (["tiny-cn"], {"override_settings": {"batch_cond_uncond": False}}),
    "hires fix": (["tiny-cn"], HIRES | {"hr_second_pass_steps": 10}),
    "SDXL": (["xl-cn"], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_controls_effect_is_all_there(maker, case):
    wanted, request = CASES[case]
    if case == "SDXL":
        request = {"model": maker.model("SDXL")}
        maker.make(steps=1, **request)
        maker.server.post("/e2e/narrow")
    units = [unit(maker, name) for name in wanted]
    controlled = request | {"alwayson_scripts": {"ControlNet": {"args": units}}}
    with_control, passes = closeness(maker, **controlled)
    plain, _ = closeness(maker, **request)
    without_control, _ = closeness(maker, against=request, **controlled)
    print(f"{case}: {with_control:.1f} dB with control, {plain:.1f} plain, {without_control:.1f} to the uncontrolled")
    assert all((done["reused"], done["missed"], done["error"]) == (6, 0, "") for done in passes), passes
    assert with_control > plain - SLACK
    assert with_control > without_control + FAR


def test_the_controls_effect_is_there_without_any_block_too(maker):
    units = [unit(maker, "tiny-cn"), unit(maker, "tiny-t2i")]
    request = {"steps": 10, "alwayson_scripts": {"ControlNet": {"args": units}}}
    cached = maker.make(cache={"interval": 3, "depth": 0}, **request)
    assert maker.counts() == [("txt2img", 4, 6)]
    assert psnr(cached, maker.make(**request)) > psnr(cached, maker.make(steps=10)) + FAR


def test_a_unit_that_ends_in_mid_run(maker):
    units = [unit(maker, "tiny-cn", guidance_end=0.5)]
    found, (done,) = closeness(maker, alwayson_scripts={"ControlNet": {"args": units}})
    assert done["full"] + done["reused"] == 10
    assert done["error"] == ""
    assert found > closeness(maker)[0] - SLACK


def test_a_reuse_runs_only_the_control_blocks_that_it_needs(maker):
    def blocks(**request):
        maker.state()
        maker.make(steps=10, cache={"interval": 3, "depth": 2}, **request)
        assert maker.counts() == [("txt2img", 4, 6)]
        return maker.state()["blocks"]

    of_control = blocks(alwayson_scripts={"ControlNet": {"args": [unit(maker, "tiny-cn")]}}) - blocks()
    input_blocks, middle, hint = 12, 1, 1
    full = 2 * input_blocks + 2 * middle + hint
    assert of_control == 4 * full + 6 * (2 * 2 + hint)
