"""The benches count and time what they say."""

import functools
import random
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench import (
    closeness,
    closeness_table,
    distribution,
    fuzz,
    macs,
    placement,
    predictors,
    preset_speed,
    presets,
    quality,
    report,
    rivals,
    speed,
)
from bench import forecast as bench_forecast
from bench.networks import Network
from bench.runs import Task
from bench.timing import Clock, block_times
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.features.forecast import Held
from demo.pictures import psnr
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


@pytest.fixture
def small_networks(monkeypatch):
    monkeypatch.setattr(Network, "build", functools.partialmethod(Network.build, small=True))
    narrow = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 48, "attention_head_dim": 4}
    unet = functools.partial(speed.UNet2DConditionModel, **narrow)
    monkeypatch.setattr(speed, "UNet2DConditionModel", lambda **_: unet())


@pytest.mark.parametrize("name", ["SD1.5", "SDXL"])
@pytest.mark.usefixtures("small_networks")
def test_speed_times_every_contender(name):
    samples, waiting = speed.measure(name, "cpu", 1, 16, [1, 2], [2, 5], 2)
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


@pytest.mark.parametrize("name", ["Euler a", "Heun"])
def test_closeness_compares_every_kind_with_fewer_steps_at_its_compute(name):
    task = Task(TinyModel(), name, pictures=3, batch=3, guidance=3.0)
    points = list(closeness.compare(task, 6, [2]))
    assert [point.method for point in points] == list(closeness.OWN)
    for point in points:
        assert 1.5 < point.sd15 < point.sdxl < 2
        assert point.wall > 0
        assert 5 < point.worst <= point.mean < 60
        assert 0.3 < point.similarity < 1
        assert point.fewer_worst <= point.fewer_mean != point.mean
        assert 0 < point.gain_error < 20


def test_closeness_compares_rivals_on_the_same_pictures():
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    extrapolation, spectrum = closeness.compare(task, 10, [2], [rivals.SPECTRUM, rivals.EXTRAPOLATION])
    assert (extrapolation.method, spectrum.method) == (rivals.EXTRAPOLATION, rivals.SPECTRUM)
    for point in (extrapolation, spectrum):
        assert point.sd15 == pytest.approx(point.sdxl, rel=0.001)
        assert 1.5 < point.sd15 < 2.5
        assert 10 < point.mean < 80


def test_fewer_steps_are_interpolated_between_the_counts_on_either_side():
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    reference = task.run(4).pictures
    two, three = (float(psnr(task.run(count).pictures, reference).mean()) for count in (2, 3))
    point, *_ = closeness.compare(task, 4, [2])
    assert point.fewer_mean == pytest.approx(two + (three - two) * (4 / point.sd15 - 2), abs=1e-4)


def test_the_error_of_a_gain_is_that_of_the_pictures_own_gains():
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    reference = task.run(4).pictures
    point, *_ = closeness.compare(task, 4, [2], ["uniform"])
    cached = psnr(task.run(4, closeness.own(2, 4)["uniform"]).pictures, reference)
    two, three = (psnr(task.run(count).pictures, reference) for count in (2, 3))
    gains = cached - torch.lerp(two, three, 4 / point.sd15 - 2)
    assert point.gain_error == pytest.approx(abs(float(gains[0] - gains[1])) / 2, rel=1e-3)


def test_closeness_writes_one_line_a_case_and_draws_them(tmp_path, monkeypatch, capsys):
    out = tmp_path / "closeness.png"
    arguments = ["--samplers", "Euler", "--steps", "4", "--guidance", "3", "--pictures", "2", "--intervals", "2"]
    for methods in (["uniform", "auto"], ["auto", "non-uniform"]):
        more = ["--methods", *methods, "--out", str(out), *(["--append"] if out.exists() else [])]
        monkeypatch.setattr(sys, "argv", ["closeness", *arguments, *more])
        closeness.main()
    points = report.read_csv(closeness.Point, out.with_suffix(".csv"))
    assert [point.method for point in points] == ["uniform", "non-uniform", "auto"]
    printed = capsys.readouterr().out
    assert all(f"| {point.method}, N = 2 |" in printed for point in points)
    assert out.stat().st_size > 10_000


def test_the_short_table_sets_auto_against_fewer_steps_and_uniform(tmp_path, monkeypatch, capsys):
    def point(method, pictures, mean):
        return closeness.Point(
            "Euler", 20, 3.0, pictures, method, 2, "", 1.8, 1.9, 1.7, mean, 20, 0.9, 30, 19, 0.8, 0.5
        )

    file = tmp_path / "closeness.csv"
    report.write_csv([point("auto", 16, 50), point("auto", 128, 40), point("uniform", 128, 31)], file)
    monkeypatch.setattr(sys, "argv", ["closeness_table", "--csv", str(file)])
    closeness_table.main()
    row = "| Euler | 1.80x | 30.0 (19.0) | 31.0 (20.0) | 40.0 (20.0) | **+10.0** ± 0.5 (+1.0) | +9.0 (+0.0) |"
    assert capsys.readouterr().out.splitlines()[2:] == [row]
    monkeypatch.setattr(sys, "argv", ["closeness_table", "--csv", str(file), "--pictures", "16"])
    with pytest.raises(SystemExit):
        closeness_table.main()
    assert "has nothing of 20 steps, guidance 3 and 16 pictures" in capsys.readouterr().err


def test_the_same_picture_has_similarity_one():
    pictures = torch.rand(2, 3, 16, 16)
    assert closeness.ssim(pictures, pictures).tolist() == [1, 1]
    assert closeness.ssim(pictures, pictures.flip(3)).max() < 0.5


def evaluations(feature, count=8):
    """Return evaluations at uneven times whose feature is that function of the time."""
    times = [torch.full((2,), 900.0 - 100 * number - 5 * number**2) for number in range(count)]
    x = torch.zeros(2, 3, 8, 8)
    return [
        predictors.Evaluation(number, x, time, feature(time / 1000).view(2, 1, 1, 1).expand(2, 4, 8, 8), x)
        for number, time in enumerate(times)
    ]


@pytest.mark.parametrize(("name", "degree"), [("held", 0), ("line", 1), ("parabola", 2), (predictors.LINE, 1)])
def test_a_guess_is_exact_up_to_its_degree_and_no_further(name, degree):
    predictor = predictors.predictors()[name]
    for power in (degree, degree + 1):
        run = evaluations(lambda time, power=power: 1 + time**power)
        wrong = (predictors.predicted(predictor, run[:7:2], run[7]) - run[7].feature).abs().max().item()
        assert (wrong < 1e-4) == (power == degree)


@pytest.mark.parametrize("sampler", ["Euler a", "Heun"])
def test_every_guess_is_tried_on_the_trained_model(sampler):
    found = predictors.errors(TinyModel(), sampler, steps=10, pictures=2, guidance=3.0)
    others = [predictors.DRAWN, predictors.DENOISED, predictors.GUIDANCE, predictors.OUTPUT]
    assert list(found) == [*predictors.predictors(), *others]
    assert found[predictors.RESPONSE] < 0.7 * found["held"]
    assert found[predictors.RESPONSE] != found[predictors.DRAWN] < found[predictors.DENOISED]
    assert 0.05 < found["held"] < 2


def test_every_predictor_makes_pictures_of_its_own(monkeypatch):
    monkeypatch.setattr(predictors, "SPEED_UPS", (1.6,))
    found = predictors.pictures(TinyModel(), "Euler", steps=10, count=2, guidance=3.0)
    assert list(found) == list(predictors.predictors())
    assert len({values[1.6] for values in found.values()}) == len(found)


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


def test_placement_compares_growths_with_the_uncached_pictures():
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    found = placement.closeness(task, 6, [1.0, 2.0], [1.0, 4.0])
    assert list(found) == [(1.0, 1.0), (1.0, 4.0), (2.0, 1.0), (2.0, 4.0)]
    assert found[1.0, 4.0] == "99.0 (99.0)"
    assert 10 < float(found[2.0, 4.0].split()[0]) < 60


def test_presets_are_compared_with_the_steps_that_cost_as_much(tmp_path):
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    found = [*presets.compare(task, 10)]
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


def test_the_frechet_distance_is_that_of_normal_distributions():
    features = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1))
    assert distribution.frechet(features, features) == pytest.approx(0, abs=1e-6)
    assert distribution.frechet(features, features + 3) == pytest.approx(4 * 9, rel=1e-6)
    assert distribution.frechet(features, 2 * features) == pytest.approx(4 * (2 - 1) ** 2, rel=0.05)


def test_a_classifier_tells_styles_apart_and_noise_is_far_from_them():
    task = Task(TinyModel(), "DPM++ 2M", pictures=16, batch=16, guidance=3.0, seed=20_000)
    pictures, styles = task.run(6).pictures, distribution.styles_of(task.model, 16)
    classifier = distribution.trained(pictures, styles)
    assert (classifier(pictures).argmax(1) == styles).double().mean() > 0.9
    others = classifier.features(replace(task, seed=40_000).run(6).pictures)
    near, far = (distribution.frechet(classifier.features(p), others) for p in (pictures, torch.rand_like(pictures)))
    assert 0 < near < far


def test_distribution_compares_full_fewer_and_cached_pictures():
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    classifier = distribution.trained(task.model.decode(torch.randn(8, 3, 32, 32)), torch.arange(8))
    cells = list(distribution.compare(task, 9, classifier, torch.randn(8, distribution.FEATURES)))
    methods = ["full", "5 steps", "uniform, N = 2", "auto, N = 2", "3 steps", "uniform, N = 3", "auto, N = 3"]
    assert [cell[1] for cell in cells] == methods
    assert len({cell[3] for cell in cells}) == len(cells)
    assert {len(cell) for cell in cells} == {len(distribution.HEADINGS)}


@pytest.mark.usefixtures("small_networks")
def test_whole_runs_are_timed_with_every_preset(monkeypatch, capsys):
    options = ["--networks", "SD1.5", "SDXL", "--batch", "1", "--latent", "8", "--steps", "10", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["preset_speed", *options])
    preset_speed.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "8x8" in line]
    assert [cells[:4] for cells in rows] == [
        [f"{network}, 8x8", "2", sampler, preset]
        for network in ("SD1.5", "SDXL")
        for sampler in ("Euler", "Euler a")
        for preset in ("Quality", "Balanced", "Fast")
    ]
    assert all(cells[6].endswith("x") and cells[7].endswith(" %") for cells in rows)
    assert all(cells[8].endswith(" s") for cells in rows[:6])
