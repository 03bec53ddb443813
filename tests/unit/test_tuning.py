"""Other plans at a speed, and the search among them by final pictures."""

import itertools

import pytest

from deepcache_ext import SamplerKind, Settings
from deepcache_ext.planning.alternatives import alternatives, cost, explicit
from deepcache_ext.planning.schedule import Action, Schedule, cost_on_sd
from deepcache_ext.planning.tuning import Question, answers, pictures
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.tuning.questions import PICTURES, questions

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


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("extrapolates", [False, True])
def test_where_reuses_are_corrected_only_what_is_corrected_too_is_tried(noisy, extrapolates):
    kind = SamplerKind(noisy=noisy, extrapolates=extrapolates, pays_back=True)
    found = alternatives(AUTO, 20, kind, cost_on_sd)
    assert len(found) >= 3
    for way in found:
        assert kind.corrects(way)
    assert [19 in way.steps for way in found] == [False] * (len(found) - 1) + [True]


def test_at_a_high_speed_a_full_evaluation_more_is_tried_first():
    fast = Settings(schedule="auto", speed_up=3.0, depth=1)
    first = alternatives(fast, 20, SamplerKind(), lambda depth: reuse_cost(depth, "SDXL"))[0]
    assert first.depth == 0


USUAL, NEAR, FAR, SLOW, OTHER = (
    Settings(schedule="list", steps=steps) for steps in ("0, 2, 4", "0, 1, 4", "0, 3, 4", "0-3", "0-2, 4")
)


def search(figures):
    """Return the answers, each question's last one, and what was asked for; `figures` are the PSNRs by way and seed."""
    asked = []

    def closeness(way, seed):
        asked.append((way, seed))
        return [figures[way][seed]]

    of_fast, of_quality = Question(USUAL, (NEAR, FAR), 9), Question(SLOW, (OTHER,), 13)
    found = list(answers({"Quality": of_quality, "Fast": of_fast}, closeness))
    assert [name for name, _ in found][:2] == ["Quality", "Fast"]
    assert len(asked) == pictures({"Quality": of_quality, "Fast": of_fast}) - 2  # the full ones of two seeds
    return dict(found), asked


OF_QUALITY = {SLOW: [30, 30], OTHER: [29, 29], 13: [25, 25]}


def test_a_clearly_closer_plan_takes_the_usual_ones_place():
    found, asked = search(OF_QUALITY | {USUAL: [20, 21], NEAR: [23, 24], FAR: [19, 40], 9: [25, 25]})
    answer = found["Fast"]
    assert (answer.settings, answer.fewer_steps) == (NEAR, 9)
    assert (answer.psnr, answer.usual, answer.fewer) == (23, 20, 25)
    assert not answer.is_worth_it
    assert found["Quality"].settings == SLOW
    assert found["Quality"].is_worth_it
    assert [way for way, seed in asked if seed] == [NEAR, USUAL]


@pytest.mark.parametrize(
    "near",
    [[19, 40], [20.2, 21.2], [30, 20]],
    ids=["not closer at first", "hardly closer", "closer once"],
)
def test_the_usual_plan_stays_unless_another_is_clearly_closer(near):
    found, _ = search(OF_QUALITY | {USUAL: [20, 21], NEAR: near, FAR: [1, 1], 9: [10, 10]})
    assert found["Fast"].settings == USUAL
    assert found["Fast"].psnr == found["Fast"].usual == 20
    assert found["Fast"].is_worth_it


def test_what_is_answered_stays_if_the_search_ends_early():
    def closeness(_way, _seed):
        if next(left, None) is None:
            raise InterruptedError
        return [20.0]

    left = iter(range(2))
    question = Question(USUAL, (), 10)
    search = answers({"Quality": question, "Fast": question}, closeness)
    assert next(search)[0] == "Quality"
    with pytest.raises(InterruptedError):
        next(search)


EVERY_KIND = [  # of two stages none pays back
    SamplerKind(stages, noisy, extrapolates, pays_back=pays_back)
    for stages, noisy, extrapolates, pays_back in itertools.product((1, 2), *[(False, True)] * 3)
    if stages == 1 or not pays_back
]


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
@pytest.mark.parametrize("family", ["SD1", "SDXL"])
@pytest.mark.parametrize("wins", [1, -1], ids=["others win", "others lose"])
def test_as_many_pictures_are_made_as_are_told_whatever_the_sampler(kind, family, wins):
    for total in (10, 11, 15, 19, 20, 30, 39, 59):
        asked = questions(kind, total, family, {steps: steps * kind.stages for steps in range(1, total + 1)})
        others = {way for question in asked.values() for way in question.others}
        made, seeds = [], set()

        def closeness(way, seed, made=made, seeds=seeds, others=others):
            made.append(way)
            seeds.add(seed)
            return [30.0 + 5 * wins * (way in others)]

        list(answers(asked, closeness))
        full = len(seeds)
        assert full + len(made) == pictures(asked) == PICTURES
        assert PICTURES <= 12
