"""Other plans at a speed, and the search among them by final pictures."""

import pytest

from deepcache_ext import SamplerKind, Settings
from deepcache_ext.planning.alternatives import alternatives, cost, explicit
from deepcache_ext.planning.schedule import Action, Schedule, cost_on_sd
from deepcache_ext.planning.tuning import Question, answers, runs

KINDS = [SamplerKind(), SamplerKind(extrapolates=True), SamplerKind(noisy=True), SamplerKind(stages=2)]
AUTO = Settings(schedule="auto", speed_up=2.0, depth=0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("speed_up", [1.5, 2.0, 3.0])
def test_alternatives_cost_about_the_same_and_differ(kind, speed_up):
    settings = Settings(schedule="auto", speed_up=speed_up, depth=0)
    total = 20 * kind.stages - (kind.stages == 2)
    usual = explicit(settings, total, kind, cost_on_sd)
    found = alternatives(settings, total, kind, cost_on_sd)
    assert len({usual, *found}) == len(found) + 1 >= 4
    for way in found:
        assert cost(way, total, kind, cost_on_sd) <= max(cost(usual, total, kind, cost_on_sd), total / speed_up + 0.5)
        assert kind.depth(way) == way.depth


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_explicit_settings_make_the_same_plan(kind):
    depth = kind.depth(AUTO)
    usual = explicit(AUTO, 20, kind, cost_on_sd)
    auto, own = (Schedule(settings, 20, kind, cost_on_sd(depth)).actions() for settings in (AUTO, usual))
    assert [action is Action.REUSE for action in auto] == [action is Action.REUSE for action in own]


USUAL, NEAR, FAR = (Settings(schedule="list", steps=steps) for steps in ("0, 2, 4", "0, 1, 4", "0, 3, 4"))


def search(figures, seeds=3):
    """Return the answer, and what was asked for; `figures` are the PSNR of each way by seed."""
    asked = []

    def closeness(way, seed):
        asked.append((way, seed))
        return [figures[way][seed]]

    question = Question(USUAL, (NEAR, FAR), {USUAL: 10, NEAR: 9, FAR: 11})
    ((name, answer),) = answers({"Fast": question}, closeness, seeds)
    assert name == "Fast"
    return answer, asked


def test_a_clearly_closer_plan_takes_the_usual_ones_place():
    figures = {USUAL: [20, 21, 22], NEAR: [23, 24, 22], FAR: [19, 40, 40], 9: [25, 25, 25]}
    answer, asked = search(figures)
    assert (answer.settings, answer.fewer_steps) == (NEAR, 9)
    assert (answer.psnr, answer.usual, answer.fewer) == (23, 21, 25)
    assert not answer.is_worth_it
    assert [seed for way, seed in asked if way == FAR] == [0]


@pytest.mark.parametrize(
    "near",
    [[19, 40, 40], [20.2, 21.2, 22.2], [30, 20, 21]],
    ids=["not closer at first", "hardly closer", "closer once"],
)
def test_the_usual_plan_stays_unless_another_is_clearly_closer(near):
    answer, _ = search({USUAL: [20, 21, 22], NEAR: near, FAR: [1, 1, 1], 10: [10, 10, 10]})
    assert answer.settings == USUAL
    assert answer.psnr == answer.usual == 21
    assert answer.is_worth_it


def test_what_is_answered_stays_if_the_search_ends_early():
    def closeness(_way, _seed):
        if next(left, None) is None:
            raise InterruptedError
        return [20.0]

    left = iter(range(6))
    question = Question(USUAL, (), {USUAL: 10})
    search = answers({"Quality": question, "Fast": question}, closeness)
    assert next(search)[0] == "Quality"
    with pytest.raises(InterruptedError):
        next(search)


def test_runs_tells_how_long_a_search_takes():
    assert runs({"Fast": Question(USUAL, (NEAR,), {})}, {"Fast": 0.5}, seeds=3) == 3 + 0.5 * (2 + 3 + 3)
