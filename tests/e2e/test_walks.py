"""On the hosts' own ways to walk the U-Net: a reuse makes what the same decisions make with all blocks run.

What a host or what is built into it does between blocks, looked up by their number, then goes on as before.
"""

import numpy as np
import pytest

from tests.e2e.pictures import HIRES, Maker, mask_of, picture_of, pixels
from tests.e2e.replaying import HELPER, replayed
from tests.e2e.server import EXTENSIONS, serving
from tests.e2e.test_builtins import CASES as BUILTINS
from tests.e2e.test_builtins import arguments_of
from tests.e2e.test_combinations import FAULTS, LONG, PROMPTS

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
    pairs = [(pixels(a), pixels(b)) for a, b in zip(skipped["images"], whole["images"], strict=True)]
    return max(int(np.abs(a - b).max()) for a, b in pairs), [done["statistics"] for done in passes]


@pytest.mark.parametrize("case", CASES)
def test_a_request_is_replayed_to_the_same_picture(webui, maker, case):
    if fault := FAULTS.get((webui.name, case)):
        pytest.skip(f"{webui.name} {fault}")
    found, passes = apart(maker, {"interval": 3, "depth": 2}, **CASES[case])
    assert all(done["reused"] > 0 and not done["error"] for done in passes), passes
    assert found <= NEAR


@pytest.mark.parametrize("cache", CACHES)
def test_a_setting_is_replayed_to_the_same_picture(maker, cache):
    found, (done,) = apart(maker, CACHES[cache])
    assert done["reused"] > 0
    assert found <= NEAR


@pytest.mark.parametrize("case", BUILTINS)
def test_a_builtin_is_replayed_to_the_same_picture(webui, maker, case):
    found, (done,) = apart(maker, {"interval": 3, "depth": 2}, **arguments_of(webui, maker, *BUILTINS[case]))
    assert done["reused"] > 0
    assert found <= FURTHER.get(case, NEAR)
