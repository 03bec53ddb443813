"""What was tried for closeness is measured as its benches say."""

import sys
from dataclasses import replace

import pytest
import torch

from bench.parts import report
from bench.parts.runs import Task
from bench.research import closeness, distribution, placement, predictors, rivals
from demo.pictures import psnr
from demo.tiny_model import TinyModel


@pytest.mark.parametrize("name", ["Euler a", "Heun"])
def test_closeness_compares_every_kind_with_fewer_steps_at_its_compute(name):
    task = Task(TinyModel(), name, pictures=3, batch=3, guidance=3.0)
    points = list(closeness.compare(task, 6, [2]))
    assert [point.method for point in points] == list(closeness.OWN)
    assert points[-1].sd15 == pytest.approx(points[-1].sdxl, rel=0.001), "auto runs no block here"
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


def test_placement_compares_growths_with_the_uncached_pictures():
    task = Task(TinyModel(), "Euler", pictures=2, batch=2, guidance=3.0)
    found = placement.closeness(task, 6, [1.0, 2.0], [1.0, 4.0])
    assert list(found) == [(1.0, 1.0), (1.0, 4.0), (2.0, 1.0), (2.0, 4.0)]
    assert found[1.0, 4.0] == "99.0 (99.0)"
    assert 10 < float(found[2.0, 4.0].split()[0]) < 60


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
