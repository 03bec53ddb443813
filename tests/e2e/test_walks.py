"""On the hosts' own ways to walk the U-Net: a reuse makes what the same decisions make with all blocks run.

What a host or what is built into it does between blocks, looked up by their number, then goes on as before.
"""

import numpy as np
import pytest

from tests.e2e.pictures import HIRES, Maker, mask_of, picture_of, pixels, same
from tests.e2e.replaying import HELPER, replayed
from tests.e2e.server import EXTENSIONS, serving
from tests.e2e.test_builtins import CASES as BUILTINS
from tests.e2e.test_builtins import arguments_of
from tests.e2e.test_combinations import FAULTS, LONG, PROMPTS

ON = {"interval": 3, "depth": 2}
TEN = {"steps": 10}
NEAR = 2
"""How many of 255 the two may be apart: on reuses the skipped blocks' work may round the rest differently."""
FURTHER = {"SAG": 10}
"""The same of what looks at a block that a reuse skips: SAG's mask is then the last refresh's."""
SAMPLERS = ("Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "DDIM", "LCM", "DPM2 a", "UniPC", "LMS")
IMAGE = {"path": "img2img", "init_images": [picture_of()], "denoising_strength": 0.9}
DEPTHS = {f"depth {depth}": {"interval": 3, "depth": depth} for depth in (0, 1, 3, 5, 11)}
CACHES = DEPTHS | {"a preset": {"preset": "Balanced"}, "interval 2": {"interval": 2, "depth": 1}}
DRAWN = ("token merging",)
"""What draws random numbers in every block that runs, and so others where blocks are skipped."""
CASES = {
    **{name: request for name, request in PROMPTS.items() if "batch_cond" not in name and name not in DRAWN},
    **{sampler: {"sampler_name": sampler} for sampler in SAMPLERS},
    "img2img": IMAGE,
    "inpainting": IMAGE | {"mask": mask_of()},
    "hires fix": HIRES | {"hr_second_pass_steps": 10},
    "a prompt that changes": {"prompt": f"a house [: {LONG}:0.5]"},
    "LoRA": {"prompt": "a house <lora:tiny-lora:1>"},
}


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    with serving(webui, tmp_path_factory.mktemp("walks"), extensions=EXTENSIONS | HELPER) as running:
        maker = Maker(running)
        maker.make(steps=1)
        yield maker


def apart(maker, cache, **request):
    """Return how far the picture with skipped blocks is from the replayed one, and the passes of the first."""
    options = {"sd_model_checkpoint": maker.model("SD1")} | request.pop("override_settings", {})
    request = TEN | request | {"override_settings": options}
    skipped, whole, passes = replayed(maker, cache, **request)
    return difference(skipped, whole), [done["statistics"] for done in passes]


def difference(one, other):
    """Return how far the pictures of two replies are apart at most, of 255."""
    pairs = [(pixels(a), pixels(b)) for a, b in zip(one["images"], other["images"], strict=True)]
    return max(int(np.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize("case", CASES)
def test_a_request_is_replayed_to_the_same_picture(webui, maker, case):
    if fault := FAULTS.get((webui.name, case)):
        pytest.skip(f"{webui.name} {fault}")
    found, passes = apart(maker, ON, **CASES[case])
    assert all(done["reused"] > 0 and not done["error"] for done in passes), passes
    assert found <= NEAR


@pytest.mark.parametrize("cache", CACHES)
def test_a_setting_is_replayed_to_the_same_picture(maker, cache):
    found, (done,) = apart(maker, CACHES[cache])
    assert done["reused"] > 0
    assert found <= NEAR


@pytest.mark.parametrize("case", BUILTINS)
def test_a_builtin_is_replayed_to_the_same_picture(webui, maker, case):
    found, (done,) = apart(maker, ON, **arguments_of(webui, maker, *BUILTINS[case]))
    assert done["reused"] > 0
    assert found <= FURTHER.get(case, NEAR)


def script(name, *arguments):
    return {"script_name": name, "script_args": list(arguments)}


FROM_PICTURE = {"path": "img2img", "init_images": [picture_of()], "denoising_strength": 1}
SCRIPTS = {
    "prompt matrix": {"prompt": "a house|red|old"} | script("Prompt matrix", False, False, "positive", "comma", 0),
    "prompts from file": script("Prompts from file or textbox", False, False, "start", "a red house\nan old tree"),
    "SD upscale": FROM_PICTURE | script("SD upscale", None, 64, 1, 1.5),
    "loopback": FROM_PICTURE | script("Loopback", 2, 1, "Linear", "None"),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_script_of_the_host_is_replayed_to_the_same_picture(webui, maker, case):
    scripts = maker.server.get("/sdapi/v1/scripts")
    if SCRIPTS[case]["script_name"].lower() not in {*scripts["txt2img"], *scripts["img2img"]}:
        pytest.skip(f"{webui.name} has no script {SCRIPTS[case]['script_name']}")
    # some scripts' replies name the checkpoint that is left
    request = TEN | {"override_settings_restore_afterwards": False} | SCRIPTS[case]
    if webui.name == "Forge Classic" and case == "SD upscale":
        request["script_args"] = request["script_args"][1:]  # its text is no component
    maker.make(**request)  # the host's very first picture from a picture differs by 1 of 255 from its second
    skipped, whole, passes = replayed(maker, ON, **request)
    found = [done["statistics"] for done in passes]
    assert [(done["full"], done["reused"], done["missed"]) for done in found] == [(4, 6, 0)] * len(found)
    assert difference(skipped, whole) <= NEAR
    alone = {key: value for key, value in request.items() if not key.startswith("script_")}
    assert len(skipped["images"]) > 1 or not same(skipped, maker.make(cache=ON, **alone))


@pytest.mark.parametrize(
    "prompt", ["a [house:tree:0.5] by the sea", "a [house|tree] by the sea"], ids=["a switch", "turns"]
)
def test_prompts_that_change_are_replayed_to_the_same_picture(maker, prompt):
    auto = {"schedule": "auto", "speed_up": 2, "depth": 1}
    found, (done,) = apart(maker, auto, prompt=prompt, steps=20)
    assert done["reused"] + done["full"] == 20
    assert (done["reused"] > 7) == ("|" not in prompt)
    assert found <= NEAR
    assert not same(maker.make(cache=auto, prompt=prompt, steps=20), maker.make(cache=auto, steps=20))
