"""The caches that DeepCache is compared with do what their formulas say."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench import macs
from bench.parts.runs import Task
from bench.parts.walk import share
from bench.research import rivals
from bench.research.caches import AccumulatedChange, EasyCache, FirstBlockCache, OutputExtrapolation, Spectrum
from bench.research.look_ahead import LookAhead
from deepcache_ext import NoiseLevels, Settings
from demo.tiny_model import TinyModel
from tests.unit.unets import Case

UNTOUCHED = {
    "accumulated change, convolution": functools.partial(AccumulatedChange, tau=0.0, probe=0.1, blocks=1),
    "accumulated change, first block": functools.partial(AccumulatedChange, tau=0.0, probe=0.1),
    "EasyCache": functools.partial(EasyCache, tau=0.0, warm=1),
    "First-Block Cache": functools.partial(FirstBlockCache, tau=0.0, probe=0.1),
    "output extrapolation": functools.partial(OutputExtrapolation, skipped=0),
    "Spectrum": functools.partial(Spectrum, flex=0.0, probe=0.1, window=1.0, warm=2),
}
ALWAYS = {
    "AccumulatedChange": (functools.partial(AccumulatedChange, tau=math.inf, probe=0.25), [0, 7]),
    "EasyCache": (functools.partial(EasyCache, tau=math.inf, probe=0.25), [0, 1, 2, 7]),
    "EasyCache, warm 1": (functools.partial(EasyCache, tau=9e9, probe=0.25, warm=1, tail=0), [0, 1]),
    "FirstBlockCache": (functools.partial(FirstBlockCache, tau=math.inf, probe=0.25), [0]),
    "1:1": (functools.partial(OutputExtrapolation, skipped=1, probe=0.25), [0, 1, 3, 5, 7]),
    "1:2": (functools.partial(OutputExtrapolation, skipped=2, probe=0.25, warm=3), [0, 1, 2, 5]),
    "Spectrum": (functools.partial(Spectrum, flex=1.0, probe=0.25, warm=2), [0, 1, 3, 6]),
}
LEVELS = NoiseLevels(torch.linspace(0.9991, 0.0047, 1000).square())
PUBLISHED_SPECTRUM = [0, 1, 2, 3, 4, 6, 8, 11, 15]
"""Of 20 evaluations: windows of 2, 2.75, 3.5, 4.25 and 5 after five full ones."""


class Triple(nn.Module):
    """A U-Net of three block pairs that returns three times its input, and notes each block that it runs.

    The second input block doubles what it gets and the middle block halves it.
    """

    class _Block(nn.Module):
        def __init__(self, ran, factor=1.0):
            super().__init__()
            self.ran = ran
            self.factor = factor

        def forward(self, h, _emb, _context):
            self.ran.append(self)
            return self.factor * h[:, :2]

    class _Head(nn.Module):
        def forward(self, h):
            return 3 * h

    def __init__(self):
        super().__init__()
        self.ran = []
        self.model_channels, self.dtype = 2, torch.float32
        self.time_embed = nn.Identity()
        self.input_blocks = nn.ModuleList([self._Block(self.ran, factor) for factor in (1, 2, 1)])
        self.middle_block = self._Block(self.ran, 0.5)
        self.output_blocks = nn.ModuleList([self._Block(self.ran) for _ in range(3)])
        self.out = self._Head()


def filled(*values):
    return torch.stack([torch.full((2, 4, 4), float(value)) for value in values])


def outputs(run, values, times=None):
    """Return what each evaluation gives for an x filled with those values, and which of them were full."""
    times = times or [1000 - 100 * i for i in range(len(values))]
    found, full = [], []
    with run:
        evaluate = run.wrap(run.unet)
        for index, (value, time) in enumerate(zip(values, times, strict=True)):
            before = run.full
            found.append(evaluate(filled(value), torch.tensor([float(time)]))[0, 0, 0, 0].item())
            if run.full > before:
                full.append(index)
    return found, full


@pytest.fixture(scope="module")
def task():
    return Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)


@pytest.fixture(scope="module")
def untouched(task):
    return task.run(4).pictures


@pytest.mark.parametrize("name", UNTOUCHED)
def test_without_reuse_the_pictures_are_the_same_to_the_bit(task, untouched, name):
    run = rivals.sample(task, 4, UNTOUCHED[name])
    assert torch.equal(run.pictures, untouched)
    assert (run.full, run.reused) == (4, 0)
    assert "forward" not in vars(task.model.unet)


@pytest.mark.parametrize("name", ALWAYS)
def test_what_is_full_and_what_it_costs(name):
    make, expected = ALWAYS[name]
    unet = Triple()
    run = make(unet, 8)
    _, full = outputs(run, [1, 2, 3, 4, 5, 6, 7, 8])
    assert full == expected
    assert (run.full, run.reused) == (len(expected), 8 - len(expected))
    assert run.compute == len(expected) + 0.25 * (8 - len(expected))
    assert "forward" not in vars(unet)


def test_spectrums_published_windows():
    assert outputs(Spectrum(Triple(), 20, probe=0.1), range(20))[1] == PUBLISHED_SPECTRUM


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (functools.partial(AccumulatedChange, tau=9.0, probe=0, blocks=1), 2),
        (functools.partial(AccumulatedChange, tau=9.0, probe=0), 3),
        (functools.partial(EasyCache, tau=9.0), 0),
        (functools.partial(FirstBlockCache, tau=math.inf, probe=0), 2),
        (functools.partial(OutputExtrapolation, skipped=1), 0),
        (functools.partial(Spectrum, probe=0, warm=3), 0),
    ],
)
def test_a_reuse_runs_the_blocks_that_are_counted_and_a_full_evaluation_each_once(make, blocks):
    unet = Triple()
    per_evaluation = []
    with make(unet, 9) as run:
        evaluate = run.wrap(unet)
        for index in range(4):
            unet.ran.clear()
            evaluate(filled(index + 1), torch.tensor([100.0 - index]))
            per_evaluation.append(len(unet.ran))
    assert set(per_evaluation) == {7, blocks}


def test_an_error_inside_leaves_no_forward():
    unet = Triple()
    with pytest.raises(KeyError), EasyCache(unet, 4, 0.1):
        raise KeyError
    assert "forward" not in vars(unet)


def test_a_forward_of_someone_elses_is_left_alone():
    unet = Triple()
    unet.forward = foreign = lambda x: x
    with pytest.raises(ValueError, match="forward"), EasyCache(unet, 4, 0.1):
        pass
    assert unet.forward is foreign


@pytest.mark.parametrize("calls", [0, 2])
def test_an_evaluation_is_one_call(calls):
    unet = Triple()
    x, time = filled(1), torch.tensor([5.0])
    with EasyCache(unet, 4, 0.1) as run:
        if calls:
            run.wrap(unet)(x, time)
        with pytest.raises(RuntimeError, match="one call"):
            unet(x, time)


@pytest.mark.parametrize(
    "make",
    [
        lambda unet: EasyCache(unet, 0, 0.1),
        lambda unet: EasyCache(unet, 4, 0.1, probe=1.5),
        lambda unet: EasyCache(unet, 4, 0.1, warm=0),
        lambda unet: OutputExtrapolation(unet, 4, 1, warm=1),
        lambda unet: Spectrum(unet, 4, probe=0.1, warm=1),
    ],
)
def test_values_that_make_no_sense(make):
    with pytest.raises(ValueError, match="must be"):
        make(Triple())


def test_changes_of_the_first_blocks_add_up_until_a_full_evaluation():
    run = AccumulatedChange(Triple(), 9, tau=0.3, probe=0.1, tail=0)
    found, full = outputs(run, [1, 1.35, 1.5, 1.7, 1.7, 2])
    assert full == [0, 1, 5]
    assert found == pytest.approx([3, 4.05, 4.05, 4.05, 4.05, 6])


def test_the_row_that_changed_most_decides():
    run = AccumulatedChange(Triple(), 9, tau=0.3, probe=0.1)
    with run:
        evaluate = run.wrap(run.unet)
        for rows in ((1, 1), (1, 1.2), (1, 1.6)):
            evaluate(filled(*rows), torch.tensor([5.0, 5.0]))
    assert (run.full, run.reused) == (2, 1)


def test_accumulated_change_reuses_what_deepcache_does(task):
    make = functools.partial(AccumulatedChange, tau=math.inf, probe=0.1)
    pictures = rivals.sample(task, 4, make).pictures
    settings = Settings(schedule="list", steps=(0, 3), forecast="off")
    assert torch.equal(pictures, task.run(4, settings).pictures)


def test_easycache_by_hand():
    # The output changes three times as much as the input: 3 * 0.5 / 6, the sum of two of these, then 3 * 0.5 / 9.
    run = EasyCache(Triple(), 9, tau=0.3, warm=2, tail=0)
    found, full = outputs(run, [1, 2, 2.5, 3, 3.5])
    assert full == [0, 1, 3]
    assert found == pytest.approx([3, 6, 2.5 + (6 - 2), 9, 3.5 + (9 - 3)])


def test_first_block_cache_measures_from_the_last_full_evaluation():
    # The first block adds x to its input x, the rest takes away x again.
    run = FirstBlockCache(Triple(), 9, tau=0.3, probe=0.1)
    found, full = outputs(run, [1, 1.2, 1.35, 1.2, 1.5])
    assert full == [0, 2]
    assert found == pytest.approx([3, 3 * (2.4 - 1), 4.05, 3 * (2.4 - 1.35), 3 * (3 - 1.35)])


@pytest.mark.parametrize(("factor", "reused"), [(1.01, 1), (0.99, 0)])
def test_first_block_cache_by_hand(factor, reused):
    case = Case()
    inputs, first, second = case.unet.input_blocks[:2], *([], [])
    taken = {0: first, 1: second}
    handles = [
        block.register_forward_hook(lambda _block, _args, output: taken[seed].append(output))
        for block in (*inputs, case.unet.output_blocks[-1])
    ]
    for seed in taken:
        case.call(seed)
    for handle in handles:
        handle.remove()
    (conv0, probe0, last0), (conv1, probe1, _) = first, second
    change = (probe1 - conv1) - (probe0 - conv0)
    distance = (change.abs().flatten(1).mean(1) / (probe0 - conv0).abs().flatten(1).mean(1)).max().item()
    expected = case.unet.out(probe1 + (last0 - probe0)) if reused else case.call(1)
    with FirstBlockCache(case.unet, 4, factor * distance, probe=0.1) as run:
        evaluate = run.wrap(case.call)
        evaluate(0)
        found = evaluate(1)
    assert run.reused == reused
    torch.testing.assert_close(found, expected)


def test_extrapolation_by_time_is_exact_on_a_line():
    times = [900, 850, 700, 690, 500, 480, 100]
    run = OutputExtrapolation(Triple(), 7, skipped=1, by_time=True)
    found, full = outputs(run, [2 * time + 7 for time in times], times)
    assert full == [0, 1, 3, 5]
    assert found == pytest.approx([3 * (2 * time + 7) for time in times])


def test_extrapolation_as_published_takes_steps_for_even_and_alternates_with_reuse():
    run = OutputExtrapolation(Triple(), 9, skipped=3)
    found, full = outputs(run, [1, 2, 0, 0, 0, 7, 0, 0, 0])
    assert full == [0, 1, 5]
    assert found == [3, 6, 9, 9, 9, 21, 36, 36, 36]


def test_extrapolations_alternate_with_reuses_of_the_one_before():
    times = [900, 800, 700, 600, 500]
    run = OutputExtrapolation(Triple(), 5, skipped=3, by_time=True)
    found, _ = outputs(run, times, times)
    assert found == [2700, 2400, 2100, 2100, 1500]


def test_extrapolation_between_two_evaluations_at_the_same_time():
    run = OutputExtrapolation(Triple(), 3, skipped=1, by_time=True)
    assert outputs(run, [1, 2, 0], [500, 500, 400])[0] == [3, 6, 9]


def test_spectrum_is_exact_on_a_polynomial_of_its_degree():
    values = [1 + i - 0.3 * i**2 + 0.02 * i**3 - 0.001 * i**4 for i in range(12)]
    run = Spectrum(Triple(), 12, probe=0.1, ridge=0.0, weight=1.0)
    found, full = outputs(run, values)
    assert len(full) < 12
    assert found == pytest.approx([3 * value for value in values], rel=1e-4)


def test_spectrum_without_the_polynomial_is_a_line():
    values = [5 - 2 * i for i in range(12)]
    run = Spectrum(Triple(), 12, probe=0.1, weight=0.0)
    found, full = outputs(run, values)
    assert len(full) < 12
    assert found == pytest.approx([3 * value for value in values])


def test_spectrums_blend_by_a_least_squares_solver():
    run = Spectrum(Triple(), 20, probe=0.1)
    outputs(run, range(10))
    known = np.array(PUBLISHED_SPECTRUM[:7])
    # Ridge regression is least squares with a further row sqrt(ridge) for each coefficient, wanted at 0.
    rows = np.vstack([np.polynomial.chebyshev.chebvander(known / 10 - 1, 4), np.sqrt(0.1) * np.eye(5)])
    wanted = np.concatenate([np.eye(7), np.zeros((5, 7))])
    fitted = (
        np.polynomial.chebyshev.chebvander(np.array([9 / 10 - 1]), 4)[0] @ np.linalg.lstsq(rows, wanted, rcond=None)[0]
    )
    line = [0, 0, 0, 0, 0, -0.5, 1.5]
    np.testing.assert_allclose(run.weights(9).numpy(), 0.5 * fitted + 0.5 * np.array(line))


@pytest.mark.parametrize("depth", [1, 2])
def test_the_share_of_a_reuse_is_what_the_cost_table_says(depth):
    assert share("SD1.5", depth, depth) == pytest.approx(macs.fractions("SD1.5")[depth - 1])


def test_shares_add_up():
    head, conv, first = (share("SD1.5", blocks, 0) for blocks in range(3))
    assert 0 < head < conv < 0.001 < first < 0.1
    assert share("SD1.5", 2, 1) - share("SD1.5", 1, 1) == pytest.approx(first - conv)


def test_a_threshold_is_found_for_a_compute():
    tried = []

    def compute_at(value):
        tried.append(value)
        return math.ceil(-3 * math.log(value)) + 0.5

    value = rivals.tuned(compute_at, wanted=9.5, low=0.001, high=1.0)
    assert compute_at(value) == 9.5
    assert len(tried) <= 7


def test_where_the_compute_jumps_the_closer_side_is_taken():
    tried = []

    def compute_at(value):
        tried.append(value)
        return 12.0 if value < 0.2 else 9.0

    assert rivals.tuned(compute_at, wanted=10.0, low=0.01, high=1.0) >= 0.2
    assert len(tried) == 6


def test_counts_are_means_over_the_batches(task):
    three = Task(task.model, task.sampler, pictures=3, batch=2, guidance=3.0)
    changes = iter([0.0, math.inf])
    run = rivals.sample(three, 3, lambda *made: FirstBlockCache(*made, next(changes), probe=0.1))
    assert len(run.pictures) == 3
    assert (run.full, run.reused) == (pytest.approx((3 + 1) / 2), (0 + 2) / 2)


@pytest.mark.parametrize("wanted", [10.8, 8.0])
def test_fixed_schedules_make_the_wanted_compute(wanted):
    found = list(rivals.fixed(20, wanted, LEVELS))
    assert {entry.name for entry in found} == {rivals.EXTRAPOLATION, rivals.BY_TIME, rivals.AHEAD}
    for entry in found:
        run = entry.make(Triple(), 20)
        outputs(run, range(20))
        assert abs(run.compute - wanted) <= 0.5
        assert run.probe == (share("SD1.5", *entry.parts) if entry.name == rivals.AHEAD else 0)


def test_every_rival_enters_by_its_name(task, monkeypatch):
    monkeypatch.setattr(rivals, "tuned", lambda *_: 0.1)
    monkeypatch.setattr(rivals, "share", lambda *_: 0.1)
    found = list(rivals.entries(rivals.NAMES, task, 20, 10.8))
    assert {entry.name for entry in found} == set(rivals.NAMES)
    one = list(rivals.entries([rivals.SPECTRUM], task, 20, 10.8))
    assert [(entry.name, entry.parameter) for entry in one] == [(rivals.SPECTRUM, "flex = 0.1")]
    of_two_stages = rivals.entries(rivals.NAMES, replace(task, sampler="Heun"), 20, 21.1)
    assert {entry.name for entry in of_two_stages} == {*rivals.NAMES} - {rivals.AHEAD}


def test_what_is_computed_ahead_counts_as_full(task):
    ahead = functools.partial(LookAhead, gap=2, warm=3, levels=LEVELS, probe=0.1)
    run = rivals.sample(task, 7, ahead)
    assert (run.full, run.reused) == (pytest.approx(3 + 2), 4)
