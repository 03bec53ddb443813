"""The schedule "auto": what it plans for the sampler's own evaluations, and that its pictures can be made again."""

import pytest

from deepcache_ext import Action, SamplerKind, Schedule, Settings
from deepcache_ext.webui.plan import reuse_cost
from tests.e2e.pictures import picture_of, same

AUTO = {"speed_up": 2.5}
SMALL = {"steps": 20, "width": 64, "height": 64}


USUAL, TWO_STAGES, EXTRAPOLATING = SamplerKind(), SamplerKind(stages=2), SamplerKind(extrapolates=True)


def full(total, kind, reuse):
    actions = Schedule(Settings(schedule="auto", **AUTO), total, kind, reuse).actions()
    return {index for index, action in enumerate(actions) if action is not Action.REUSE}


def planned(maker, path="txt2img", **request):
    """Return what the pass of a request planned in full, after checking that it was made so."""
    maker.make(path, AUTO, **SMALL, **request)
    (done,) = maker.last_run()["passes"]
    found = set(Settings(schedule="list", steps=done["plan"]).steps)
    assert (done["statistics"]["full"], done["statistics"]["reused"]) == (len(found), done["planned"] - len(found))
    return found


@pytest.mark.parametrize(
    ("sampler", "total", "kind"),
    [("Euler", 20, USUAL), ("DPM++ 2M", 20, EXTRAPOLATING), ("DDIM", 19, USUAL), ("Heun", 39, TWO_STAGES)],
)
def test_the_plan_fits_the_samplers_evaluations(maker, sampler, total, kind):
    assert planned(maker, sampler_name=sampler) == full(total, kind, reuse_cost(0, "SD1"))


def test_img2img_is_planned_for_the_part_of_the_way_that_it_makes(maker):
    request = {"init_images": [picture_of(64)], "denoising_strength": 0.6, "sampler_name": "DPM++ 2M"}
    assert planned(maker, "img2img", **request) == full(13, EXTRAPOLATING, reuse_cost(0, "SD1"))


def test_an_sdxl_reuse_is_cheaper_and_leaves_more_full_evaluations(maker):
    assert planned(maker, model=maker.model("SDXL")) == full(20, USUAL, reuse_cost(1, "SDXL"))


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ SDE"])
def test_the_same_picture_twice(maker, sampler):
    request = {"cache": AUTO, "steps": 20, "sampler_name": sampler}
    assert same(maker.make(**request), maker.make(**request))
