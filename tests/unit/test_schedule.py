"""Which evaluations refresh."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcache_ext import Action, SamplerKind, Schedule, Settings
from deepcache_ext.planning.schedule import non_uniform, uniform, window

# (total, interval, centre, power): what the function published with the paper returns
PUBLISHED = {
    (50, 5, 15, 1.4): "0,5,9,13,17,21,26,31,37,43",
    (50, 5, 15, 1.2): "0,5,10,14,18,22,27,32,38,44",
    (50, 5, 10, 1.4): "0,4,8,11,15,20,25,30,36,43",
    (50, 5, 10, 1.2): "0,5,9,12,16,21,26,32,38,43",
    (50, 5, 20, 1.4): "0,6,10,15,19,23,27,32,38,43",
    (50, 5, 25, 1.4): "0,6,11,16,21,25,29,34,39,44",
    (50, 5, 0, 1.4): "0,1,5,9,13,18,24,30,36,43",
    (50, 5, 15, 2.0): "0,4,7,11,15,20,25,30,36,43",
    (50, 2, 15, 1.4): "0,2,4,6,7,9,11,12,14,15,17,18,20,22,24,26,28,30,32,35,37,39,42,44,47",
    (50, 3, 15, 1.4): "0,3,6,8,11,13,15,17,20,22,25,28,32,35,38,42,46",
    (50, 4, 15, 1.4): "0,4,7,10,14,16,19,23,27,31,35,40,45",
    (50, 6, 15, 1.4): "0,5,10,15,18,24,29,36,42",
    (50, 7, 15, 1.4): "0,6,11,15,21,27,34,42",
    (50, 8, 15, 1.4): "0,7,13,18,25,32,40",
    (50, 10, 15, 1.4): "0,9,17,26,37",
    (30, 3, 10, 1.4): "0,3,6,8,10,13,16,19,22,26",
    (20, 5, 6, 1.4): "0,5,8,13",
    (20, 3, 6, 1.4): "0,3,5,7,10,13,16",
    (20, 2, 6, 1.4): "0,2,4,6,7,8,10,12,15,17",
    (250, 10, 120, 1.2): "0,12,22,33,44,54,64,74,83,93,102,111,120,128,137,146,155,165,175,185,195,206,216,227,238",
}


@pytest.mark.parametrize("arguments", PUBLISHED, ids=str)
def test_non_uniform_is_the_published_schedule(arguments):
    assert non_uniform(*arguments) == tuple(map(int, PUBLISHED[arguments].split(",")))


def published_algorithm(total, interval, center, power):
    """The steps that the paper's repository documents, spelled out; None where it raises."""
    count = -(-total // interval)
    while power > 1:
        low = (-center) ** (1 / power)  # complex for a positive centre, as Python has it
        points = np.linspace(low, (total - center) ** (1 / power), count + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's that the cast drops the imaginary part
            offsets = np.unique(np.int32(points**power))[1:-1]
        indices = [0, *(int(offset) + center for offset in offsets)]
        if len(indices) == count:
            return tuple(indices)
        power -= 0.02
    return None


@given(
    st.integers(1, 300), st.integers(2, 25), st.floats(0, 1), st.sampled_from([1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 2.0])
)
def test_non_uniform_is_the_published_algorithm_wherever_that_gives_a_schedule(total, interval, where, power):
    center = int(where * total)
    published = published_algorithm(total, interval, center, power) or uniform(total, interval)
    assert non_uniform(total, interval, center, power) == published


@given(st.integers(1, 300), st.integers(1, 50), st.integers(-400, 400), st.floats(1, 5))
def test_non_uniform_never_fails_and_always_spends_as_much_as_uniform(total, interval, center, power):
    indices = non_uniform(total, interval, center, power)
    assert len(indices) == len(uniform(total, interval))
    assert indices[0] == 0
    assert all(before < after for before, after in itertools.pairwise(indices))
    assert indices[-1] < total


def test_power_one_is_uniform():
    assert non_uniform(50, 5, 15, 1.0) == uniform(50, 5) == tuple(range(0, 50, 5))


def full(schedule):
    return [index for index, action in enumerate(schedule.actions()) if action is not Action.REUSE]


def test_uniform():
    assert full(Schedule(Settings(interval=5), 20)) == [0, 5, 10, 15]
    assert full(Schedule(Settings(interval=7), 20)) == [0, 7, 14]


def test_interval_one_keeps_nothing():
    assert set(Schedule(Settings(interval=1), 20).actions()) == {Action.FULL}


def test_a_list_written_by_hand():
    schedule = Schedule(Settings(schedule="list", steps="0, 5, 9, 13"), 16)
    assert full(schedule) == [0, 5, 9, 13]


def test_several_windows_are_a_list():
    precise_in_the_middle = Schedule(Settings(schedule="list", steps="0, 3, 6-9, 12"), 14)
    assert full(precise_in_the_middle) == [0, 3, 6, 7, 8, 9, 12]


@pytest.mark.parametrize(("forecast", "refreshes"), [("off", [8, 11, 14]), ("on", [7, 8, 11, 14])])
def test_outside_the_window_every_evaluation_is_full(forecast, refreshes):
    schedule = Schedule(Settings(interval=3, start=0.4, end=0.8, forecast=forecast), 20)
    assert full(schedule) == [*range(8), 8, 11, 14, *range(16, 20)]
    assert [index for index, action in enumerate(schedule.actions()) if action is Action.REFRESH] == refreshes


@pytest.mark.parametrize(
    ("total", "start", "end", "inside"),
    [
        (20, 0, 1, range(20)),
        (50, 0.4, 1, range(20, 50)),
        (30, 0.1, 0.9, range(3, 27)),
        (7, 0.5, 0.5, range(0)),
        (10, 0.25, 0.55, range(3, 6)),
        (3, 0.9, 1, range(0)),
    ],
)
def test_the_window_is_the_fractions_of_the_run(total, start, end, inside):
    assert window(total, start, end) == inside


settings = st.builds(
    Settings,
    interval=st.integers(1, 12),
    schedule=st.sampled_from(["uniform", "non-uniform", "list"]),
    center=st.integers(-20, 80),
    power=st.floats(1, 2),
    steps=st.lists(st.integers(0, 60), min_size=1),
    start=st.floats(0, 0.5),
    end=st.floats(0.5, 1),
)


@given(settings, st.integers(1, 60))
def test_a_reuse_always_follows_a_refresh_or_a_reuse(chosen, total):
    actions = [Action.FULL, *Schedule(chosen, total).actions()]
    for before, after in itertools.pairwise(actions):
        if after is Action.REUSE:
            assert before is not Action.FULL


@given(settings, st.integers(1, 60))
def test_evaluations_past_the_total_have_a_plan(chosen, total):
    schedule = Schedule(chosen, total)
    beyond = [schedule.action(index) for index in range(total, total + 40)]
    if chosen.end < 1:
        assert set(beyond[1:]) == {Action.FULL}
    elif chosen.schedule != "list" and window(total, chosen.start, chosen.end):
        assert beyond.count(Action.REUSE) >= 40 - 40 // chosen.interval - 2


@given(settings)
def test_an_unknown_total_has_a_plan_too(chosen):
    schedule = Schedule(chosen)
    plan = [schedule.action(index) for index in range(30)]
    assert plan[0] is not Action.REUSE
    if chosen.schedule != "list":
        assert full_indices(plan) == list(uniform(30, chosen.interval))
    with pytest.raises(ValueError, match="number of evaluations"):
        schedule.actions()


def full_indices(plan):
    return [index for index, action in enumerate(plan) if action is not Action.REUSE]


def test_a_total_below_one_is_refused():
    with pytest.raises(ValueError, match="total must be a whole number from 1"):
        Schedule(Settings(), 0)


def full_of(settings, total, **options):
    actions = Schedule(settings, total, **options).actions()
    return [index for index, action in enumerate(actions) if action is not Action.REUSE]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (1, list(range(13))),
        (2, [0, 1, 3, 5, 7, 9, 11]),
        (3, [0, 1, 3, 7, 9]),
        (4, [0, 1, 5, 9]),
        (5, [0, 1, 5, 11]),
    ],
)
def test_two_stages_make_the_second_evaluation_of_a_step_in_full(interval, expected):
    assert full_of(Settings(interval=interval), 13, sampler=SamplerKind(2)) == expected


def test_two_stages_in_a_window_of_unknown_length_and_by_hand():
    assert full_of(Settings(interval=4, start=0.5), 20, sampler=SamplerKind(2)) == [*range(10), 10, 11, 15, 19]
    unknown = Schedule(Settings(interval=2), None, SamplerKind(2))
    assert [unknown.action(index) is Action.REUSE for index in range(6)] == [False, False, True, False, True, False]
    assert full_of(Settings(schedule="list", steps="0, 4, 8"), 10, sampler=SamplerKind(2)) == [0, 4, 8]


@given(interval=st.integers(2, 12), total=st.integers(2, 80), power=st.floats(1, 3))
def test_two_stages_cost_at_most_one_evaluation_more(interval, total, power):
    for schedule in ("uniform", "non-uniform"):
        settings = Settings(interval=interval, schedule=schedule, center=total // 3, power=power)
        assert len(full_of(settings, total, sampler=SamplerKind(2))) <= len(full_of(settings, total)) + 1


@given(total=st.integers(1, 60), start=st.floats(0, 1), center=st.integers(-5, 60), stages=st.integers(1, 2))
def test_interval_one_never_reuses(total, start, center, stages):
    for schedule in ("uniform", "non-uniform"):
        settings = Settings(interval=1, schedule=schedule, center=center, start=start)
        assert full_of(settings, total, sampler=SamplerKind(stages)) == list(range(total))
