"""Every sampler of the host."""

from deepcache_ext import Action, Schedule, Settings
from tests.e2e.pictures import picture_of, same

ADAPTIVE = "DPM adaptive"
SECOND_ORDER = ("DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart")


def test_every_sampler_makes_the_same_picture_twice_and_is_counted_right(maker):
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
        total = None if name == ADAPTIVE else evaluations
        schedule = Schedule(Settings(interval=3), total, 2 if name in SECOND_ORDER else 1)
        refreshes = sum(schedule.action(index) is not Action.REUSE for index in range(evaluations))
        expected = (True, evaluations, refreshes, total)
        found = (same(one, other), full + reused, full, planned)
        if found != expected:
            wrong[name] = (found, expected)
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
            if planned != (None if name == ADAPTIVE else evaluations):
                wrong[name, path] = (planned, evaluations)
    assert wrong == {}
