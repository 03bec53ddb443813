"""No reuse ever sees a feature of another row, another size or an older refresh."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.launches import Operations
from deepcache_ext import Action, SamplingPass, Settings
from deepcache_ext.features.forecast import Held, Line
from deepcache_ext.features.store import Call, RowStore
from tests.unit.unets import TaggedUNet

CHANNELS = 2  # of a TaggedUNet's feature


FORECASTS = st.sampled_from(["off", "on"])  # which holds where the U-Net has no timesteps


@st.composite
def runs(draw):
    """Draw a pass: its settings, and for each evaluation the rows, their split into calls, the size and the dtype."""
    conds, unconds = draw(st.integers(1, 4)), draw(st.integers(0, 4))
    evaluations = []
    for _ in range(draw(st.integers(2, 12))):
        rows = conds + (unconds if draw(st.booleans()) else 0)
        calls = []
        while sum(calls) < rows:
            calls.append(draw(st.integers(1, rows - sum(calls))))
        size = draw(st.sampled_from([4, 4, 4, 6]))
        dtype = draw(st.sampled_from([torch.float32] * 4 + [torch.bfloat16]))
        evaluations.append((calls, size, dtype))
    full = draw(st.lists(st.integers(0, 12), min_size=1))
    return Settings(schedule="list", steps=full, depth=draw(st.integers(1, 2)), forecast=draw(FORECASTS)), evaluations


@given(runs(), st.sampled_from(["compact", "full-length"]))
def test_a_reuse_gets_the_rows_own_newest_feature_and_anything_else_is_computed_in_full(drawn, view):
    settings, evaluations = drawn
    unet = TaggedUNet()
    kept = {}  # row -> (the evaluation that computed its feature, size, dtype): what a perfect store would hold
    with SamplingPass(unet, settings, view=view) as run:
        for number, (calls, size, dtype) in enumerate(evaluations):
            action = run.start_evaluation()
            if action is not Action.REUSE:
                kept.clear()
            first = 0
            for count in calls:
                rows = range(first, first + count)
                first += count
                tags = torch.tensor([[row, number] for row in rows], dtype=dtype)
                deep_row, deep_number, row, evaluation = unet(tags[..., None, None].expand(-1, -1, size, size)).unbind(
                    1
                )
                servable = all(kept.get(row, (0, 0, 0))[1:] == (size, dtype) for row in rows)
                expected = [kept[row][0] if action is Action.REUSE and servable else number for row in rows]
                assert deep_row[:, 0, 0].tolist() == row[:, 0, 0].tolist() == list(rows)
                assert deep_number[:, 0, 0].tolist() == expected
                assert evaluation[:, 0, 0].tolist() == [number] * count
                if action is not Action.FULL and not (action is Action.REUSE and servable):
                    kept.update((row, (number, size, dtype)) for row in rows)
            held = [CHANNELS * size * size * dtype.itemsize for _, size, dtype in kept.values()]
            assert run.kept_bytes == sum(held) if settings.forecast == "off" else run.kept_bytes >= sum(held)
    assert run.kept_bytes == 0
    s = run.statistics
    assert s.full + s.reused == len(evaluations)
    assert s.calls_full + s.calls_reused == sum(len(calls) for calls, _, _ in evaluations)


def test_a_changed_layout_of_the_rows_empties_the_store():
    unet = TaggedUNet()
    x = torch.zeros(3, 2, 4, 4)
    with SamplingPass(unet, Settings(interval=4)) as run:
        for layout in ((2, 1), (2, 1), (1, 2), (1, 2)):
            run.start_evaluation(layout)
            unet(x)
    assert (run.statistics.full, run.statistics.reused, run.statistics.missed) == (2, 2, 1)


def test_new_weights_empty_the_store():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=4)) as run:
        run.start_evaluation()
        unet(torch.zeros(1, 2, 4, 4))
        run.forget()
        run.start_evaluation()
        unet(torch.zeros(1, 2, 4, 4))
    assert (run.statistics.full, run.statistics.reused, run.statistics.missed) == (2, 0, 1)


def call(first, rows=1, shape=(4, 8, 8), **kind):
    return Call(range(first, first + rows), torch.zeros(rows, *shape, **kind), torch.zeros(rows))


def walk(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def test_a_range_inside_what_was_kept_is_answered_across_calls():
    store = RowStore()
    store.keep(call(0, 2), {0: walk(0, 1)})
    store.keep(call(2, 3), {0: walk(2, 3, 4)})
    taken = store.take(call(1, 3))
    assert taken[0][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert store.take(call(3, 3)) is None
    assert store.take(call(0, 0)) is None


def test_rows_in_another_order_are_put_together_row_by_row():
    store = RowStore()
    store.keep(call(0, 2), {0: walk(0, 1)})
    store.keep(call(2, 3), {0: walk(2, 3, 4)})
    asked = Call([4, 0, 1, 3], torch.zeros(4, 4, 8, 8), torch.zeros(4))
    assert store.take(asked)[0][:, 0, 0, 0].tolist() == [4, 0, 1, 3]


@pytest.mark.parametrize("rows", [range(2), range(1), [1, 0]], ids=["all", "some", "turned round"])
def test_what_is_taken_is_a_copy_and_only_one(rows):
    store = RowStore()
    store.keep(call(0, 2), {0: walk(7, 8)})
    asked = Call(rows, torch.zeros(len(rows), 4, 8, 8), torch.zeros(len(rows)))
    with Operations() as operations:
        taken = store.take(asked)[0]
    assert operations.counts.total() == 1
    taken.zero_()
    assert store.take(call(0, 2))[0][:, 0, 0, 0].tolist() == [7, 8]


def test_a_row_that_is_replaced_leaves_nothing_of_itself_in_memory():
    store = RowStore()
    store.keep(call(0, 4), {0: walk(0, 1, 2, 3)})
    store.keep(call(1, 2), {0: walk(11, 12)})
    assert store.nbytes == 4 * 16
    assert store.take(call(0, 4))[0][:, 0, 0, 0].tolist() == [0, 11, 12, 3]


def test_what_is_taken_is_a_copy():
    store = RowStore()
    store.keep(call(0), {0: walk(7)})
    store.take(call(0))[0].zero_()
    assert store.take(call(0))[0].unique().item() == 7


@pytest.mark.parametrize(
    "other",
    [
        call(0, shape=(9, 8, 8)),
        call(0, shape=(4, 8, 16)),
        call(0, dtype=torch.float16),
        call(0, device="meta"),
    ],
    ids=["channels", "width", "dtype", "device"],
)
def test_another_input_gets_nothing(other):
    store = RowStore()
    store.keep(call(0), {0: walk(0)})
    assert store.take(other) is None


def test_walks_that_do_not_match_the_rows_are_not_kept():
    store = RowStore()
    store.keep(call(0, 2), {0: walk(0, 1)})
    store.keep(call(0, 2), {0: walk(0, 1), 1: walk(0, 1, 2)})
    assert len(store) == 0
    store.keep(call(0, 2), {1: walk(0, 1)})
    assert len(store) == 0


def test_rows_kept_by_different_walks_are_not_mixed():
    store = RowStore()
    store.keep(call(0), {0: walk(0)})
    store.keep(call(1), {0: walk(1), 1: walk(11)})
    assert store.take(call(0, 2)) is None
    taken = store.take(call(1))
    assert {key: feature[0, 0, 0, 0].item() for key, feature in taken.items()} == {0: 1, 1: 11}


@pytest.mark.parametrize("predictor", [Held(), Line()])
def test_a_feature_of_another_size_begins_anew(predictor):
    """Some resize the picture inside the U-Net, by another factor in each evaluation."""
    store = RowStore(predictor)

    def call(row, time):
        return Call([row], torch.zeros(1, 4, 8, 8), torch.tensor([time]))

    for time, size in ((9.0, 8), (8.0, 8), (7.0, 6)):
        store.start_refresh()
        store.keep(call("a", time), {0: torch.full((1, 2, size, size), time)})
    assert torch.equal(store.take(call("a", 6.0))[0], torch.full((1, 2, 6, 6), 7.0))
    store.keep(call("b", 7.0), {0: torch.ones(1, 2, 7, 7)})
    both = Call(["a", "b"], torch.zeros(2, 4, 8, 8), torch.tensor([6.0, 6.0]))
    assert store.take(both) is None
