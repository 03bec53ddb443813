"""Presets leave passes alone in which there is little to gain, on the stand-in."""

import pytest

from deepcache_ext.webui import infotext
from deepcache_ext.webui.options import CONTROLS
from tests.webui.support import Processing, job


@pytest.mark.parametrize(
    ("steps", "img2img", "cached"), [(9, False, False), (10, False, True), (5, True, False), (6, True, True)]
)
def test_presets_leave_passes_of_few_steps_alone_and_infotext_repeats_that(controller, steps, img2img, cached):
    p = Processing(img2img=img2img)
    job(controller, p, True, "Quality", steps=steps)
    (done,) = controller.last_report.passes
    assert (done.statistics.reused > 0, "little to gain" in done.reason) == (cached, not cached)
    text = {key: str(value) for key, value in p.extra_generation_params.items()}
    pasted = [read(text) for _, read in infotext.fields(list(CONTROLS))]
    job(controller, Processing(img2img=img2img), *pasted, steps=steps)
    assert controller.last_report.passes[0].statistics == done.statistics
    job(controller, Processing(img2img=img2img), True, "Custom", steps=steps)
    assert controller.last_report.passes[0].statistics.reused > 0


def test_presets_leave_a_sampler_alone_that_decides_how_often_it_evaluates(controller):
    job(controller, Processing(), {"enabled": True, "preset": "Quality"}, name="DPM adaptive", steps=20)
    (done,) = controller.last_report.passes
    assert done.reason.startswith("this sampler decides itself how often it evaluates")
    assert done.statistics.full == done.statistics.reused == 0


@pytest.mark.parametrize(
    ("steps", "denoising", "reason"),
    [
        (3, 0.1, "with 3 evaluations in this pass there is little to gain, only Custom caches below 6"),
        (1, 0.05, "with 1 evaluation in this pass there is little to gain, only Custom caches below 6"),
        (5, 0.25, "with 5 evaluations in this pass there is little to gain, only Custom caches below 6"),
        (6, 0.3, ""),
        (1, 1.0, "with 1 step from noise to picture there is little to gain, only Custom caches below 10"),
        (10, 0.5, ""),
    ],
)
def test_presets_leave_passes_of_few_evaluations_alone(controller, steps, denoising, reason):
    p = Processing(img2img=True)
    p.denoising_strength = denoising
    job(controller, p, {"enabled": True, "preset": "Balanced"}, steps=steps)
    (done,) = controller.last_report.passes
    assert done.reason == reason
    assert (done.statistics.reused > 0) == (not reason)
