"""A reuse's output in a run with added noise goes part of the way to the one that keeps the denoised picture."""

import pytest
import torch

from bench.parts.runs import Task
from deepcache_ext import NoiseLevels, SamplerKind, SamplingPass, Settings
from deepcache_ext.features.denoised import HIGHEST_SIGMA, SHARE, SHARE_OF_HELD, drawn, remembered
from deepcache_ext.features.forecast import Held, LineAndResponse
from deepcache_ext.features.store import Call, RowStore
from demo.k_diffusion_parts import external
from demo.pictures import psnr
from demo.tiny_model import TinyModel
from tests.unit.unets import TaggedUNet

ALPHAS = torch.linspace(0.9991, 0.0047, 1000).square()
PREDICTIONS = ["eps", "v"]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoised(x, output, time, prediction):
    """Return x0 by the definitions of alpha, s and the two predictions."""
    alpha, s = ALPHAS[time].sqrt(), (1 - ALPHAS[time]).sqrt()
    return (x - s * output) / alpha if prediction == "eps" else alpha * x - s * output


def full_call(time, *, rows=2, channels=4, seed=1):
    """Return the input, timesteps and output of a full call."""
    return noise(rows, channels, 8, 8, seed=seed), torch.full((rows,), time), noise(rows, 4, 8, 8, seed=seed + 1)


@pytest.mark.parametrize("model", [external.DiscreteEpsDDPMDenoiser], ids=["k-diffusion"])
def test_sigma_is_that_of_the_host(model):
    host = model(None, ALPHAS, quantize=False)
    times = torch.tensor([0.0, 0.25, 17.0, 500.75, 998.9, 999.0])
    assert torch.allclose(NoiseLevels(ALPHAS).sigma(times), host.t_to_sigma(times), rtol=1e-4)


def test_timesteps_beyond_the_model_are_its_outermost():
    levels = NoiseLevels(ALPHAS)
    assert torch.equal(levels.sigma(torch.tensor([-5, 1200])), levels.sigma(torch.tensor([0, 999])))
    assert torch.equal(levels.scales(torch.tensor([-5, 1200])).of_input, levels.scales(torch.tensor([0, 999])).of_input)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_scales_are_those_of_the_definitions_at_every_precision_of_the_timesteps(prediction, dtype):
    levels, times = NoiseLevels(ALPHAS, prediction), torch.tensor([0, 1, 500, 999]).to(dtype)
    x, output, scales = noise(4, 4, 8, 8, seed=3), noise(4, 4, 8, 8, seed=4), levels.scales(times)
    found = x * scales.of_input + output * scales.of_output
    for row, time in enumerate(times.long().clamp(max=999).tolist()):
        assert torch.allclose(found[row], denoised(x[row], output[row], time, prediction), rtol=1e-3, atol=1e-3)
    assert torch.allclose(found * scales.to_output + x * scales.back, output, rtol=1e-3, atol=0.02)


def test_between_timesteps_scales_are_off_by_less_than_a_part_of_one():
    levels, times = NoiseLevels(ALPHAS), torch.linspace(0, 999, 997)
    assert torch.allclose(-levels.scales(times).of_output.flatten(), levels.sigma(times), rtol=6e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("channels", [4, 9])
def test_drawn_all_the_way_it_leads_to_the_last_denoised_picture(prediction, channels):
    last_x, last_times, last_output = full_call(700, channels=channels)
    x, output, levels = noise(2, channels, 8, 8, seed=5), noise(2, 4, 8, 8, seed=6), NoiseLevels(ALPHAS, prediction)
    last = remembered(last_x, levels.scales(last_times), last_output, 1.0)
    found = drawn(output, x, levels.scales(torch.full((2,), 400)), last)
    then = denoised(last_x[:, :4], last_output, 700, prediction)
    assert torch.allclose(denoised(x[:, :4], found, 400, prediction), then, atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_drawn_half_the_way_it_is_the_mean(prediction, dtype):
    levels = NoiseLevels(ALPHAS, prediction)
    now, (then, times, before) = levels.scales(torch.full((2,), 400)), full_call(700)
    x, output = noise(2, 4, 8, 8, seed=5), noise(2, 4, 8, 8, seed=6).to(dtype)
    none, half, all_ = (
        drawn(output, x, now, remembered(then, levels.scales(times), before, share)) for share in (0.0, 0.5, 1.0)
    )
    assert none.dtype == half.dtype == dtype
    assert torch.equal(none, output)
    assert torch.allclose(half.float(), (output.float() + all_.float()) / 2, atol=0.01)


def test_noise_alone_says_nothing_about_the_denoised_picture():
    alphas = ALPHAS.clone()
    alphas[999] = 1 / (1 + (2 * HIGHEST_SIGMA) ** 2)
    levels = NoiseLevels(alphas)
    then, now = levels.scales(torch.tensor([999, 700])), levels.scales(torch.full((2,), 600))
    last = remembered(noise(2, 4, 8, 8), then, noise(2, 4, 8, 8, seed=1), 0.5)
    output = noise(2, 4, 8, 8, seed=6)
    found = drawn(output, noise(2, 4, 8, 8, seed=5), now, last)
    assert torch.equal(found[0], output[0])
    assert not torch.equal(found[1], output[1])


@pytest.mark.parametrize("wrong", [torch.ones(2, 2), torch.ones(0)], ids=["two dimensions", "none"])
def test_noise_levels_are_one_number_a_timestep(wrong):
    with pytest.raises(ValueError, match="alphas_cumprod must have one dimension"):
        NoiseLevels(wrong)


def test_a_prediction_is_eps_or_v():
    with pytest.raises(ValueError, match='prediction must be "eps" or "v"; got \'x0\''):
        NoiseLevels(ALPHAS, "x0")


@pytest.mark.parametrize(("predictor", "share"), [(LineAndResponse(), SHARE), (Held(), SHARE_OF_HELD)])
def test_each_row_is_drawn_to_its_own_refresh(predictor, share):
    levels = NoiseLevels(ALPHAS)
    store = RowStore(predictor, levels=levels)
    last = full_call(700, rows=3)
    for rows in (range(2), range(2, 3)):
        last_x, last_times, last_output = (of_call[rows.start : rows.stop] for of_call in last)
        store.keep(Call(rows, last_x, last_times), {0: torch.zeros(len(rows), 1, 8, 8)}, last_output)
    x, output, times = noise(3, 4, 8, 8, seed=5), noise(3, 4, 8, 8, seed=6), torch.full((3,), 400)
    then = remembered(last[0], levels.scales(last[1]), last[2], share)
    expected = drawn(output, x, levels.scales(times), then)
    assert torch.equal(store.drawn(Call(range(3), x, times), output), expected)


@pytest.mark.parametrize(
    ("settings", "noisy", "levels"),
    [
        (Settings(interval=2), False, True),
        (Settings(interval=2), True, False),
        (Settings(interval=2, forecast="off"), True, True),
    ],
    ids=["no added noise", "no levels", "forecast off"],
)
def test_elsewhere_the_output_is_the_outermost_blocks_own(settings, noisy, levels):
    unet = TinyModel().unet
    outputs = []
    unet.out.register_forward_hook(lambda _out, _args, found: outputs.append(found))
    context = noise(2, 4, 64)
    known = NoiseLevels(ALPHAS) if levels else None
    with SamplingPass(unet, settings, 4, sampler=SamplerKind(noisy=noisy), levels=known) as run:
        for step in range(4):
            run.start_evaluation()
            x, times = noise(2, 3, 32, 32, seed=step), torch.full((2,), 900 - 100 * step)
            with torch.no_grad():
                assert torch.equal(unet(x, times, context=context), outputs[-1])
        assert run.statistics.reused == 2


@pytest.mark.parametrize(
    ("x", "timed"),
    [(noise(1, 4, 8, 8), False), (noise(1, 2, 8, 8), True), (noise(1, 4, 9, 9), True)],
    ids=["no timesteps", "fewer channels", "another size"],
)
def test_an_output_of_unknown_noise_or_another_shape_stays_as_it_is(x, timed):
    store = RowStore(levels=NoiseLevels(ALPHAS))
    output = noise(1, 4, 8, 8, seed=1)
    call = Call(range(1), x, torch.full((1,), 500.0), timed)
    store.keep(call, {0: torch.zeros(1, 1, 8, 8)}, output)
    assert torch.equal(store.drawn(call, output), output)


def test_what_a_foreign_forward_returns_beside_tensors_stays_as_it_is():
    unet = TaggedUNet()
    unet.forward = lambda x, timesteps: [type(unet).forward(unet, x)]  # noqa: ARG005 - as a U-Net is called
    with SamplingPass(unet, Settings(interval=2), sampler=SamplerKind(noisy=True), levels=NoiseLevels(ALPHAS)) as run:
        for step in range(2):
            run.start_evaluation()
            (found,) = unet(torch.full((1, 2, 4, 4), float(step)), torch.full((1,), 500.0))
    assert (run.statistics.reused, run.statistics.error, found[0, 0, 0, 0]) == (1, "", 0)


@pytest.mark.parametrize("sampler", ["Euler a", "DPM2 a"])
def test_pictures_are_closer_for_it(sampler, monkeypatch):
    task = Task(TinyModel(), sampler, 8, 8, 3.0)
    uncached = task.run(12).pictures
    settings = Settings(schedule="auto", speed_up=1.85)
    drawn_ = psnr(task.run(12, settings).pictures, uncached).mean()
    monkeypatch.setattr("deepcache_ext.features.store.drawn", lambda output, *_rest: output)
    assert drawn_ > psnr(task.run(12, settings).pictures, uncached).mean() + 0.3
