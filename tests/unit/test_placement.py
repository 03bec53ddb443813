"""Where the schedule "auto" puts the full evaluations."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcache_ext import Action, SamplerKind, Schedule, Settings
from deepcache_ext.planning.placement import Rule, full_evaluations, interval, longest_gap, placed

SPEEDS = st.floats(1, 4)


def cost(schedule, reuse):
    actions = schedule.actions()
    return sum(reuse if action is Action.REUSE else 1 for action in actions) / len(actions)


def full(schedule):
    return [index for index, action in enumerate(schedule.actions()) if action is not Action.REUSE]


GROWING = st.sampled_from([Rule(), Rule(4.0), Rule(2.0, tail=1.0)])


@given(st.integers(1, 120), GROWING, st.data())
def test_the_first_and_as_many_as_asked_for_in_gaps_that_never_shrink(total, rule, data):
    count = data.draw(st.integers(1, total))
    found = placed(total, count, rule)
    gaps = np.diff(found)
    assert len(found) == count
    assert found[0] == 0
    assert found[-1] < total
    assert count == 1 or gaps.min() >= 1
    assert (np.diff(gaps) >= 0).all()


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (20, 7, (0, 2, 4, 6, 9, 13, 18)),
        (20, 8, (0, 2, 4, 6, 8, 11, 14, 18)),
        (20, 10, (0, 1, 2, 3, 4, 6, 8, 11, 14, 18)),
        (20, 11, (0, 1, 2, 3, 4, 5, 7, 9, 12, 15, 18)),
        (20, 13, (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 18)),
        (20, 19, tuple(range(19))),
        (20, 2, (0, 13)),
        (20, 1, (0,)),
        (3, 3, (0, 1, 2)),
    ],
)
def test_where_they_are(total, count, expected):
    assert placed(total, count) == expected


@given(st.integers(2, 120), GROWING, st.data())
def test_the_last_evaluation_is_full_only_if_all_are(total, rule, data):
    count = data.draw(st.integers(1, total - 1))
    assert placed(total, count, rule)[-1] < total - 1
    assert placed(total, total, rule)[-1] == total - 1


@pytest.mark.parametrize(("stages", "total"), [(1, 20), (2, 39)])
def test_auto_reuses_the_last_evaluation_of_a_run_and_not_that_of_a_group(stages, total):
    found = full(Schedule(Settings(schedule="auto", speed_up=1.4, depth=0), total, SamplerKind(stages)))
    assert found[-1] == total - 2


EVEN = Rule(growth=1)


@given(st.integers(1, 120), st.data())
def test_even_gaps_are_of_two_neighbouring_sizes_the_shorter_first(total, data):
    count = data.draw(st.integers(1, total))
    found = placed(total, count, EVEN)
    gaps = np.diff(found)
    assert found[0] == 0
    assert len(found) <= count
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert (np.diff(gaps) >= 0).all()
    assert count == total or not 0 < (gaps == 1).sum() < min(4, len(gaps))
    assert count >= total - 2 or found[-1] < total - 2


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (20, 6, (0, 3, 6, 9, 13, 17)),
        (20, 7, (0, 2, 5, 8, 11, 14, 17)),
        (20, 9, (0, 2, 4, 6, 8, 10, 12, 14, 17)),
        (20, 11, (0, 2, 4, 6, 8, 10, 12, 14, 17)),
        (20, 13, (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 17)),
        (30, 15, (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 27)),
    ],
)
def test_where_even_ones_are(total, count, expected):
    assert placed(total, count, EVEN) == expected


def test_samplers_that_extrapolate_get_even_gaps():
    settings = Settings(schedule="auto", speed_up=2, depth=0)
    extrapolating = Schedule(settings, 20, SamplerKind(extrapolates=True), 0.0)
    assert full(extrapolating) == [0, 2, 4, 6, 8, 10, 12, 14, 17]
    assert full(Schedule(settings, 20, SamplerKind(), 0.0)) == [0, 1, 2, 3, 4, 6, 8, 11, 14, 18]


@pytest.mark.parametrize(
    ("total", "speed_up", "expected"),
    [
        (20, 1.5, [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18]),
        (20, 2.0, [0, 1, 2, 4, 6, 8, 10, 12, 14, 17]),
        (20, 3.0, [0, 2, 4, 6, 9, 12, 16]),
        (30, 3.0, [0, 2, 4, 6, 9, 12, 15, 18, 22, 26]),
    ],
)
def test_gaps_of_those_that_add_noise_grow_where_reuses_are_put_right(total, speed_up, expected):
    settings = Settings(schedule="auto", speed_up=speed_up, depth=0)
    kind = SamplerKind(noisy=True, extrapolates=True, pays_back=True)
    assert full(Schedule(settings, total, kind, 0.0)) == expected


KINDS = st.builds(SamplerKind, st.just(1), st.booleans(), st.booleans(), pays_back=st.booleans()) | st.builds(
    SamplerKind, st.just(2), extrapolates=st.booleans()
)


@given(st.integers(2, 120), SPEEDS, st.floats(0, 0.95), KINDS)
def test_no_plan_has_full_evaluations_more_than_a_quarter_of_the_run_apart(total, speed_up, reuse, kind):
    settings, stages = Settings(schedule="auto", speed_up=speed_up, depth=0), kind.stages
    found = full(Schedule(settings, total, kind, reuse))
    longest = stages * longest_gap(total // stages)
    assert max(np.diff([*found, total])) <= longest + stages - 1


@pytest.mark.parametrize("growth", [2, 4, 8])
@pytest.mark.parametrize("tail", [0.5, 1.0])
def test_the_last_gap_is_about_growth_times_the_first_and_its_tail_is_left(growth, tail):
    found = placed(1000, 41, Rule(growth, tail=tail))
    gaps = np.diff(found)
    assert gaps[-1] / gaps[0] == pytest.approx(growth, rel=0.2)
    assert (1000 - found[-1]) / gaps[-1] == pytest.approx(tail, rel=0.1)


@given(st.integers(1, 200), SPEEDS, st.sampled_from([1, 2]), st.floats(0.02, 0.24))
def test_the_speed_up_is_the_one_asked_for_within_one_evaluation(total, speed_up, stages, reuse):
    settings = Settings(schedule="auto", speed_up=speed_up)
    schedule = Schedule(settings, total, SamplerKind(stages), reuse)
    found = full(schedule)
    assert found[0] == 0
    if full_evaluations(total, speed_up, reuse) > 1 and not schedule.shortfall:
        assert abs(cost(schedule, reuse) * total - total / speed_up) <= 0.5 * (1 - reuse) + 1e-6


@given(st.integers(2, 60), SPEEDS)
def test_second_stages_come_before_first_ones(steps, speed_up):
    found = full(Schedule(Settings(schedule="auto", speed_up=speed_up), 2 * steps - 1, SamplerKind(2)))
    deciding = range(1, 2 * steps - 1, 2)
    firsts = [index for index in found if index not in deciding and index != 0]
    assert not firsts or set(deciding) <= set(found)


def test_all_is_full_outside_the_window_and_the_speed_applies_inside():
    settings = Settings(schedule="auto", speed_up=1.5, start=0.2, end=0.8)
    found = full(Schedule(settings, 20))
    outside = {0, 1, 2, 3, 16, 17, 18, 19}
    assert outside <= set(found)
    inside = set(found) - outside
    assert inside >= set(full(Schedule(Settings(schedule="auto", speed_up=1.5), 20))) - outside
    assert full_evaluations(12, 1.5, 0.08) <= len(inside) < 12


def test_without_a_total_and_past_it_the_schedule_is_uniform():
    settings = Settings(schedule="auto", speed_up=2)
    assert interval(2, 0.08) == 3
    unknown = Schedule(settings)
    assert [unknown.action(index) is Action.REUSE for index in range(7)] == [False, True, True] * 2 + [False]
    planned = Schedule(settings, 20)
    last = full(planned)[-1]
    assert [planned.action(index) is Action.REUSE for index in range(20, 29)] == [
        (index - last) % 3 != 0 for index in range(20, 29)
    ]


@pytest.mark.parametrize(("speed_up", "expected"), [(1, 1), (1.5, 2), (1.85, 2), (2.5, 3), (4, 6)])
def test_the_interval_of_a_speed_up(speed_up, expected):
    found = interval(speed_up, 0.08)
    assert found == expected
    assert found / (1 + (found - 1) * 0.08) >= speed_up - 0.01


def test_a_speed_up_that_no_interval_reaches_is_the_longest():
    assert interval(4, 0.25) == 50


def test_speed_up_one_is_full():
    assert full(Schedule(Settings(schedule="auto", speed_up=1), 20)) == list(range(20))


@pytest.mark.parametrize(
    ("kind", "uncorrected"),
    [
        (SamplerKind(pays_back=True), (0, 1, 2, 3, 4, 6, 8, 11, 14, 18)),
        (SamplerKind(extrapolates=True, pays_back=True), (0, 2, 4, 6, 8, 10, 12, 14, 17)),
    ],
    ids=["grows", "even"],
)
@pytest.mark.parametrize("way", [{"correction": "off"}, {"forecast": "off", "depth": 1}, {"depth": 1}], ids=str)
def test_without_corrections_the_plan_is_that_of_a_sampler_that_has_none(kind, uncorrected, way):
    settings = Settings(**{"schedule": "auto", "speed_up": 2.0, "depth": 0} | way)
    plain = Schedule(settings, 20, replace(kind, pays_back=False), 0.0)
    assert Schedule(settings, 20, kind, 0.0).actions() == plain.actions()
    if way == {"correction": "off"}:
        assert full(plain) == [*uncorrected]
    corrected = Schedule(Settings(schedule="auto", speed_up=2.0, depth=0), 20, kind, 0.0)
    assert corrected.actions() != Schedule(replace(corrected.settings, correction="off"), 20, kind, 0.0).actions()
