"""Prompts that change in mid-run, [a:b:n], on the trained model."""

import functools

import pytest

from bench import identity
from deepcache_ext import Action, Schedule, Settings
from demo.pictures import psnr
from demo.tiny_model import TinyModel

AUTO = identity.PLANS["auto, 2x"]
AT_LEAST = {5: 32.0, 9: 29.0, 12: 32.5, 15: 35.0}
"""PSNR in dB by the switch, a dB below what was found. A plain prompt has 38.7; with all evaluations after a switch at
9 in full it is 34.9, since another prompt enlarges the difference that there was before it."""


@pytest.fixture(scope="module")
def model():
    return TinyModel()


@pytest.mark.parametrize("at", AT_LEAST)
def test_a_switch_is_planned_anew(model, at):
    denoise, keys = identity.prompted(model, functools.partial(lambda at, number: int(number >= at), at))
    uncached, _ = identity.sampled(model, "Euler", denoise)
    cached, run = identity.sampled(model, "Euler", denoise, AUTO, keys)
    found = float(psnr(cached, uncached).mean())
    print(f"[a:b:{at}]: {found:.1f} dB, {run.statistics.full} full")
    assert found > AT_LEAST[at]
    assert run.statistics.full <= sum(action is not Action.REUSE for action in run.schedule.actions()) + 3
    assert run.statistics.reason == ""


def test_the_plan_from_an_evaluation_on_is_that_of_a_run_of_what_is_left():
    plan = Schedule(AUTO, 20).anew(9)
    assert [plan.action(9 + index) for index in range(11)] == list(Schedule(AUTO, 11).actions())
    again = plan.anew(14)
    assert [again.action(14 + index) for index in range(6)] == list(Schedule(AUTO, 6).actions())


def test_a_plan_anew_keeps_the_window():
    settings = Settings(schedule="auto", speed_up=2.0, start=0.25, end=0.75)
    for at in (2, 8):
        plan = Schedule(settings, 20).anew(at)
        reused = [index for index in range(at, 20) if plan.action(index) is Action.REUSE]
        assert max(5, at) < min(reused)
        assert max(reused) < 15
    assert Schedule(settings, 20).anew(16) == Schedule(settings, 20)


@pytest.mark.parametrize("settings", [Settings(interval=3), Settings(schedule="list", steps=(0, 5))])
def test_other_schedules_do_what_they_say(settings):
    assert Schedule(settings, 20).anew(9) == Schedule(settings, 20)
    assert Schedule(AUTO, None).anew(9) == Schedule(AUTO, None)
