"""Every sampler of the host."""

import pytest

from deepcache_ext import Action, SamplerKind, Schedule, Settings
from tests.e2e.pictures import picture_of, same

ADAPTIVE = "DPM adaptive"
SILENT = {"Forge": {"HeunPP2"}}
"""Samplers of which the host does not tell how often they evaluate; of reForge's only these are known."""
TOLD = (
    "Euler",
    "LMS",
    "DPM++ 2M",
    "LCM",
    "DDPM",
    "IPNDM",
    "IPNDM_V",
    "DEIS",
    "Euler Negative",
    "Heun",
    "Euler a",
    "DDIM",
)
SECOND_ORDER = ("DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart")


def is_told(webui, name, planned):
    """Tell whether a sampler's evaluations have to be planned: all of A1111's, and what the others tell of theirs."""
    if name == ADAPTIVE or name in SILENT.get(webui.name, ()):
        return False
    return webui.name != "reForge" or name in TOLD or planned is not None


def test_every_sampler_makes_the_same_picture_twice_and_is_counted_right(webui, maker):
    names = [sampler["name"] for sampler in maker.server.get("/sdapi/v1/samplers")]
    assert len(names) > 15
    wrong = {}
    for name in names:
        one = maker.make(cache={"interval": 3}, sampler_name=name)
        ((_, full, reused),) = maker.counts()
        (evaluations,) = maker.state()["evaluations"]
        (planned,) = [done["planned"] for done in maker.last_run()["passes"]]
        other = maker.make(cache={"interval": 3}, sampler_name=name)
        maker.state()
        total = evaluations if is_told(webui, name, planned) else None
        schedule = Schedule(
            Settings(interval=3), total, SamplerKind(2 if name.removesuffix(" Karras") in SECOND_ORDER else 1)
        )
        refreshes = sum(schedule.action(index) is not Action.REUSE for index in range(evaluations))
        expected = (True, evaluations, refreshes, total)
        found = (same(one, other), full + reused, full, planned)
        if found != expected:
            wrong[name] = (found, expected)
    assert wrong == {}


def test_every_sampler_is_planned_right_at_other_numbers_of_steps_and_from_a_picture(webui, maker):
    names = [sampler["name"] for sampler in maker.server.get("/sdapi/v1/samplers")]
    wrong = {}
    for name in names:
        for path, steps in (("txt2img", 21), ("img2img", 12)):
            picture = {"init_images": [picture_of(64)], "denoising_strength": 0.6} if path == "img2img" else {}
            maker.make(path, {"interval": 5}, sampler_name=name, steps=steps, width=64, height=64, **picture)
            (evaluations,) = maker.state()["evaluations"]
            (planned,) = [done["planned"] for done in maker.last_run()["passes"]]
            if planned != (evaluations if is_told(webui, name, planned) else None):
                wrong[name, path] = (planned, evaluations)
    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "scheduler", "steps"),
    [("Euler", "DDIM", 30), ("Euler", "DDIM", 60), ("Heun", "KL Optimal", 12), ("DPM++ 2M", "SGM Uniform", 13)],
)
def test_the_number_of_evaluations_follows_the_scheduler(maker, name, scheduler, steps):
    request = {"sampler_name": name, "scheduler": scheduler, "steps": steps, "width": 64, "height": 64}
    maker.make(cache={"interval": 5}, **request)
    (evaluations,) = maker.state()["evaluations"]
    (done,) = maker.last_run()["passes"]
    assert done["planned"] == evaluations
    assert done["statistics"]["reused"] > 0


def test_presets_leave_the_sampler_alone_that_decides_how_often_it_evaluates(maker):
    maker.make(cache={"preset": "Quality"}, sampler_name=ADAPTIVE, width=64, height=64)
    maker.state()
    (done,) = maker.last_run()["passes"]
    assert done["reason"].startswith("this sampler decides itself how often it evaluates")
    assert done["statistics"]["reused"] == 0


def test_restart_makes_the_rise_of_the_noise_in_full(maker):
    request = {"sampler_name": "Restart", "steps": 20, "width": 64, "height": 64}
    maker.make(cache={"schedule": "list", "steps": "0-16"}, **request)
    maker.state()
    (done,) = maker.last_run()["passes"]
    assert done["statistics"]["full"] == 17 + 1
