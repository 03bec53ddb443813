"""Every sampler of the host."""

import pytest

from deepcache_ext import Action, SamplerKind, Schedule, Settings
from tests.e2e.pictures import STEPS, picture_of, same

ADAPTIVE = "DPM adaptive"
DECIDE_THEMSELVES = {
    ADAPTIVE, "ODE (Bosh3)", "ODE (Fehlberg2)", "ODE (Adaptive Heun)", "ODE (Dopri5)", "ODE Custom",
}  # fmt: skip
"""Samplers whose number of evaluations nobody knows beforehand."""
GO_BACK_UP = DECIDE_THEMSELVES - {ADAPTIVE} | {"DPM++ 2S Ancestral CFG++ Dyn", "RES Solver"}
"""Samplers that go back up in noise in mid-run, where an evaluation is made in full whatever the plan says."""
TOLD = {
    "Euler", "Euler a", "DDIM", "PLMS", "UniPC", "LMS", "LCM", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM++ SDE",
    "DPM++ 2S a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "Restart", "DDPM", "DEIS", "IPNDM",
}  # fmt: skip
"""Samplers whose number of evaluations is known before their first run."""
SECOND_ORDER = ("DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart")


def stages_of(name, evaluations, *, told):
    """Return how many evaluations a step of the named sampler has, as far as anybody can know."""
    if not told:
        return 2 if evaluations in {2 * STEPS - 1, 2 * STEPS} else 1
    return 2 if name.removesuffix(" Karras") in SECOND_ORDER else 1


def test_every_sampler_makes_the_same_picture_twice_and_is_counted_right(maker):
    names = [sampler["name"] for sampler in maker.server.get("/sdapi/v1/samplers")]
    assert len(names) > 15
    wrong = {}
    for name in names:
        one = maker.make(cache={"interval": 3}, sampler_name=name)
        (told,) = [done["planned"] for done in maker.last_run()["passes"]]
        if told is None and name not in DECIDE_THEMSELVES:  # that run has counted the evaluations for the next
            maker.state()
            one = maker.make(cache={"interval": 3}, sampler_name=name)
        (done,) = maker.last_run()["passes"]
        full, reused, missed = (done["statistics"][name] for name in ("full", "reused", "missed"))
        (evaluations,) = maker.state()["evaluations"]
        other = maker.make(cache={"interval": 3}, sampler_name=name)
        maker.state()
        total = None if name in DECIDE_THEMSELVES else evaluations
        stages = stages_of(name, evaluations, told=told is not None)
        schedule = Schedule(Settings(interval=3), total, SamplerKind(stages))
        refreshes = sum(schedule.action(index) is not Action.REUSE for index in range(evaluations))
        # some samplers evaluate at other sizes as well, for which nothing is kept
        expected = (True, evaluations, refreshes, total)
        found = (same(one, other), full + reused, full - missed, done["planned"])
        if name in GO_BACK_UP:
            found = (*found[:2], min(refreshes, found[2]), found[3])
        if found != expected or told not in {None, evaluations} or (not reused and not done["reason"]):
            wrong[name] = (found, expected, told)
    assert wrong == {}


def test_every_sampler_is_planned_right_at_other_numbers_of_steps_and_from_a_picture(maker):
    names = [sampler["name"] for sampler in maker.server.get("/sdapi/v1/samplers")]
    wrong = {}
    for name in names:
        for path, steps in (("txt2img", 21), ("img2img", 12)):
            picture = {"init_images": [picture_of(64)], "denoising_strength": 0.6} if path == "img2img" else {}
            maker.make(path, {"interval": 5}, sampler_name=name, steps=steps, width=64, height=64, **picture)
            (evaluations,) = maker.state()["evaluations"]
            (planned,) = [done["planned"] for done in maker.last_run()["passes"]]
            if planned != evaluations and (planned is not None or name in TOLD):
                wrong[name, path] = (planned, evaluations)
    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "scheduler", "steps"),
    [
        ("Euler", "DDIM", 30),
        ("Euler", "DDIM", 60),
        ("Restart", "DDIM", 30),
        ("DPM fast", "DDIM", 30),
        ("Heun", "KL Optimal", 12),
        ("DPM++ 2M", "SGM Uniform", 13),
    ],
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
