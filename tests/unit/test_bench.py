"""The benches count and time what they say."""

import argparse
import importlib
import random
import re
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench import all as bench_all
from bench import forecast as bench_forecast
from bench import fuzz, macs, preset_speed, presets, quality, short_passes, speed
from bench.parts import report
from bench.parts.runs import Task
from bench.parts.timing import Clock, block_times
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.features.forecast import Held
from demo.tiny_model import TinyModel
from tests.unit.unets import Case, TaggedUNet

LDM_4_G = macs.costs("LDM-4-G")


@pytest.mark.parametrize("interval", macs.PAPER_LDM)
def test_the_papers_averages_of_ldm_4_g(interval):
    ours = macs.average(LDM_4_G, macs.PAPER_LDM_EVALUATIONS, interval, 1) / 1e9
    assert ours == pytest.approx(macs.PAPER_LDM[interval], rel=0.002)


def test_sd15_costs_less_than_the_paper_says():
    costs = macs.costs("SD1.5")
    assert [round(cost[0] / 1e9, 2) for cost in costs[:4]] == [338.61, 20.69, 57.25, 98.01]
    assert [round(cost[1] / 1e9, 2) for cost in costs[:4]] == [401.64, 31.63, 90.07, 152.71]
    assert macs.average(costs, macs.PAPER_SD_EVALUATIONS, 5, 2) / 1e9 == pytest.approx(117.9, abs=0.05)
    assert macs.average(costs, macs.PAPER_SD_EVALUATIONS, 5, 2) / 1e9 < macs.PAPER_SD


@pytest.mark.parametrize("name", ["SD1.5", "SDXL"])
def test_speed_times_every_contender(name):
    samples, waiting = speed.measure(name, "cpu", 1, 16, [1, 2], [2, 5], 2, small=True)
    every = ["full", "refresh", "reuse", "refresh / full", "N = 2", "N = 5"]
    only_ours = ["own / full", "ideal", "N = 2 ideal", "N = 5 ideal", "N = 2 of ideal", "N = 5 of ideal"]
    expected = {f"{depth} {what}" for what in every + only_ours for depth in (1, 2)}
    if name == "SD1.5":
        expected |= {f"helper {depth} {what}" for what in every for depth in (1, 2)}
    assert set(samples.values) == expected
    assert all(len(values) == 2 and min(values) > 0 for values in samples.values.values())
    assert waiting == ["", ""]
    assert samples.median("1 reuse") < samples.median("1 full")


def test_own_time_is_that_of_both_hooks_and_the_tap():
    unet = TaggedUNet()
    with speed.own_time() as own, SamplingPass(unet, Settings(interval=2)) as run:
        run.start_evaluation()
        unet(torch.zeros(1, 2, 4, 4))
    assert len(own) == 3
    assert min(own) > 0


def test_speed_ups_follow_from_the_times():
    class Fixed:
        prefix = ""

        def full(self, _depth):
            return 2.0, 0.25

        def cached(self, _depth):
            return 2.0, 0.5, 0.02

    samples = speed.Samples()
    speed._measure_one(samples, Fixed(), 1, [5])
    assert samples.median("1 N = 5") == pytest.approx(5 * 2 / (2 + 4 * 0.5))
    assert samples.median("1 N = 5 ideal") == pytest.approx(5 * 2 / (2 + 4 * 0.25))
    assert samples.median("1 N = 5 of ideal") == pytest.approx(3 / 4)
    assert samples.median("1 own / full") == pytest.approx(0.01)


def test_block_times_are_inside_the_whole_and_leave_no_hook():
    unet, clock = TaggedUNet(), Clock("cpu")
    blocks = [*unet.input_blocks, unet.middle_block, *unet.output_blocks]
    with block_times(clock, blocks) as seconds:
        whole = clock.time(lambda: unet(torch.zeros(1, 2, 4, 4)))
    assert len(seconds) == 7
    assert 0 < sum(seconds) < whole
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks)


@pytest.mark.parametrize("name", ["Euler", "DDIM", "PLMS", "UniPC"])
def test_quality_compares_with_the_same_seeds_uncached_picture(name):
    variants = [Settings(interval=1), *quality.variants([2], [1], ["uniform", "non-uniform"], 5)]
    untouched, *cached = quality.measure(TinyModel(), name, 5, variants, pictures=3, batch=2, guidance=3.0)
    assert untouched.psnr_worst == 99
    assert untouched.compute == 1
    for result in cached:
        assert 5 < result.psnr_worst <= result.psnr < 60
        assert 0 < result.error <= result.error_worst < 1
        assert 0.5 < result.compute < 0.7


def test_a_predictor_of_ones_own_sees_every_row_and_is_asked_for_every_reuse():
    class Noting(Held):
        asked = 0

        def expected(self, kept, x, times):
            self.asked += 1
            return super().expected(kept, x, times)

    task, noting = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0), Noting()
    own = task.run(6, Settings(interval=2), predictor=noting)
    assert noting.asked == own.reused == 3
    assert torch.equal(own.pictures, task.run(6, Settings(interval=2, forecast="off")).pictures)


@pytest.mark.parametrize(("stages", "noisy"), [(1, True), (2, False)], ids=["noise", "two stages"])
def test_the_forecasts_own_time_is_a_part_of_the_call(stages, noisy):
    case = Case("SD1.5")
    found = bench_forecast.parts(case.call, case.unet, Clock("cpu"), stages=stages, noisy=noisy, depth=1, repeats=3)
    assert all(0 < part < 1 for part in found)


def test_presets_are_compared_with_the_steps_that_cost_as_much(tmp_path):
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    found, without = zip(*presets.compare(task, 10), strict=True)
    assert [(result.preset, f"{result.speed_up:.2f}", result.fewer) for result in found] == [
        ("Quality", "1.43", 7),
        ("Balanced", "2.00", 5),
        ("Fast", "2.50", 4),
    ]
    assert all(result.mean > result.fewer_mean for result in found)
    report.write_csv(found, tmp_path / "presets.csv")
    kept = report.read_csv(presets.Result, tmp_path / "presets.csv")
    assert [result.case for result in kept] == [result.case for result in found]
    lines = presets.gains(kept).splitlines()
    assert lines[0] == "| sampler | steps | preset | speed-up | avatars |"
    assert lines[2].startswith("| Euler | 10 | Quality | 1.43x | +")
    assert [result.case for result in without] == [result.case for result in found]
    gained = presets.differences(found, without).splitlines()
    assert len(gained) == 5
    assert gained[2].startswith("| Euler | 10 | 3 | Quality | ")
    assert len(presets.differences(found, found).splitlines()) == 2


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((3.0, 0.6), "closer"),
        ((3.0, 0.5), "about equal"),
        ((3.0, -1.0), "about equal"),
        ((3.0, -1.1), "fewer steps are closer"),
    ],
)
def test_what_presets_hold_is_that_of_the_least_favourable_network(gains, verdict):
    found = [
        presets.Result(network, "Euler", 20, 4.0, 8, preset, 2.0, mean, 20.0, 10, mean - gain, 20.0, 0.5)
        for preset in ("Fast", "Quality")
        for network, mean, gain in (("avatars", 36.0, gains[0]), ("emoji", 29.6, gains[1]))
    ]
    assert presets.promises(found).splitlines() == [
        "| sampler | Quality | Balanced | Fast |",
        "| --- | --- | --- | --- |",
        f"| Euler | 30 dB, {verdict} |  | 30 dB, {verdict} |",
    ]
    assert presets.summary(found).splitlines()[2].startswith(f"| Euler | {min(gains):+.1f} to +3.0 |  | ")


def test_short_passes_are_compared_with_fewer_evaluations_over_the_same_noise(tmp_path):
    model = TinyModel()
    start = 0.5 * model.noise(2, seed=1)
    of = short_passes.Pass(model, "Euler", 20, 6, 2, 3.0)
    found = [*short_passes.compare(of, start, "Euler", 20)]
    assert [(result.evaluations, result.preset, result.full, result.fewer) for result in found] == [
        (6, "Quality", 4, 4),
        (6, "Balanced", 3, 3),
        (6, "Fast", 3, 3),
    ]
    full, _ = of.picture(start)
    assert torch.equal(of.picture(start, count=6)[0], full)
    chosen = Settings(schedule="auto", depth=0)
    assert not torch.equal(of.picture(start, chosen)[0], of.picture(start, replace(chosen, correction="off"))[0])
    report.write_csv(found, tmp_path / "short-passes.csv")
    kept = report.read_csv(short_passes.Result, tmp_path / "short-passes.csv")
    assert short_passes.gains(kept).splitlines()[2].startswith("| 6 | ")


def test_the_worst_tenth_is_one_picture_at_least():
    assert report.worst_tenth(torch.tensor([3.0, 1.0, 2.0])) == 1
    assert report.worst_tenth(torch.arange(20.0).flip(0)) == 0.5
    assert report.mean_and_worst(torch.arange(20.0)) == "9.5 (0.5)"


def test_a_reuse_costs_what_the_reference_implementations_costs():
    assert macs.helper_reuses(2) == [cost for _, cost in macs.costs("SD1.5")[1:3]]


def test_random_passes_give_every_row_its_own_fresh_feature():
    seen = Counter()
    for number in range(100):
        fuzz.Run(random.Random(number), seen).go()  # noqa: S311 - not for secrets
    assert min(seen[event] for event in ("layout", "size", "dtype", "weights", "raise", "full rows")) > 10
    assert seen["reused rows"] > 500


def test_whole_runs_are_timed_with_every_preset(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preset_speed", *bench_all.SMALLEST["preset_speed"].split()])
    preset_speed.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "8x8" in line]
    assert [cells[:4] for cells in rows] == [
        [f"{network}, 8x8", "2", sampler, preset]
        for network in ("SD1.5", "SDXL")
        for sampler in ("Euler", "Euler a")
        for preset in ("Quality", "Balanced", "Fast")
    ]
    assert all(cells[6].endswith("x") and cells[7].endswith(" %") for cells in rows)
    assert all(re.fullmatch(r"[\d.e-]+ s, [\d.]+x", cells[8]) for cells in rows[:6])


def test_every_bench_has_a_smallest_size_or_asks_for_what_is_not_here():
    assert sorted([*bench_all.SMALLEST, *bench_all.ASKS_FOR]) == sorted(bench_all.names())


class ParsedError(Exception):
    """Raised in the place of what a bench does with its options."""


@pytest.mark.parametrize("name", bench_all.SMALLEST)
def test_a_bench_knows_the_options_of_its_smallest_size(name, monkeypatch, tmp_path):
    def parse_args(parser):
        parsed(parser)
        raise ParsedError

    parsed = argparse.ArgumentParser.parse_args
    _, (_, module, *options) = next(found for found in bench_all.commands(tmp_path, quick=True) if found[0] == name)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [name, *options])
    with pytest.raises(ParsedError):
        importlib.import_module(module).main()


def test_what_a_bench_writes_at_its_smallest_size_is_thrown_away(tmp_path):
    for name, arguments in bench_all.commands(tmp_path, quick=True):
        text = (bench_all.ROOT / f"{arguments[1].replace('.', '/')}.py").read_text(encoding="utf-8")
        if name not in bench_all.ASKS_FOR and '"--out"' in text:
            assert arguments[arguments.index("--out") + 1] == str(tmp_path / name)


def test_a_bench_that_fails_is_named(monkeypatch, capfd):
    monkeypatch.setattr(bench_all, "names", lambda: ["fuzz"])
    monkeypatch.setitem(bench_all.SMALLEST, "fuzz", "--runs 1")
    monkeypatch.setattr(sys, "argv", ["all", "--quick"])
    assert bench_all.main() == 0
    monkeypatch.setitem(bench_all.SMALLEST, "fuzz", "--runs none")
    assert bench_all.main() == 1
    assert "failed: fuzz" in capfd.readouterr().out
