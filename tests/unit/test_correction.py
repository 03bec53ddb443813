"""What reuses were off is made up for by what later evaluations return."""

import numpy as np
import pytest
import torch

from bench.parts.diffusers_samplers import DIFFUSERS_SAMPLERS
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.correction.answer import SHARE, answers
from deepcache_ext.correction.correction import Correction
from deepcache_ext.correction.payback import Payback, paybacks
from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.forecast import Line
from demo.k_diffusion_parts import sampling
from demo.samplers import SAMPLERS, Sampler
from demo.tiny_model import TinyModel

STEPS, GUIDANCE = 10, 4.0
LIST = Settings(schedule="list", steps=(0, 2, 5, 7), depth=0)
OFF = Settings(schedule="list", steps=(0, 2, 5, 7), depth=0, correction="off")


@pytest.fixture(scope="module")
def model():
    return TinyModel()


@pytest.fixture(scope="module")
def predicting_v():
    return TinyModel("clipart")


class InPlace:
    """Runs a sampler by its formula on a cached denoiser, and puts its own x and earlier outputs right at each refresh.

    Knows nothing of weights or paybacks: it goes the steps since the first reuse again with better outputs, and takes
    the difference of where they lead.
    """

    def __init__(self, model, prompts, step, sigmas, share):
        self.model, self.prompts, self.step, self.sigmas, self.share = model, prompts, step, sigmas, share
        self.features, self.times = {}, {}

    def run(self, x):
        outputs, inputs, noises = [], [], []
        with SamplingPass(self.model.unet, OFF, STEPS, levels=self.model.levels, predictor=Line()) as run:
            denoise = run.wrap(self.model.denoiser(self.prompts, GUIDANCE))
            hooks = [
                self.model.unet.register_forward_pre_hook(lambda _m, args: self.times.update({len(outputs): args[1]})),
                self.model.unet.output_blocks[-1].register_forward_hook(
                    # a reuse calls what it skips again where somebody remembers what it returned, as this does
                    lambda _m, _a, feature: self.features.setdefault(self.full_now(len(outputs)), feature.clone())
                ),
            ]
            for index in range(STEPS):
                inputs.append(x)
                outputs.append(denoise(x, self.sigmas[index].expand(len(x))))
                last = max((number for number in self.features if number < index), default=index)
                if index in self.features and last < index - 1:
                    x = self.put_right(last, index, inputs, outputs, noises)
                noises.append(torch.randn_like(x))
                x = self.step(x, index, outputs, self.sigmas, noises[index])
            for hook in hooks:
                hook.remove()
        return self.model.decode(x)

    @staticmethod
    def full_now(index):
        return max(step for step in LIST.steps if step <= index)

    def put_right(self, last, index, inputs, outputs, noises):
        for number in range(last + 1, index):
            outputs[number] = self.better(inputs[number], number, last, index)
        again = inputs[last + 1]
        for number in range(last + 1, index):
            inputs[number] = again
            again = self.step(again, number, outputs, self.sigmas, noises[number])
        # the network's answer to the right input
        outputs[index] = outputs[index] + self.share(self.sigmas[index]) * (again - inputs[index])
        inputs[index] = again
        return again

    def better(self, x, number, last, index):
        before, after = self.features[last], self.features[index]
        times = [self.times[one].view(-1, 1, 1, 1) for one in (last, number, index)]
        feature = after + (before - after) * (times[1] - times[2]) / (times[0] - times[2])
        sigma, output, both = self.sigmas[number], self.model.unet.out(feature), x.repeat(2, 1, 1, 1)
        if self.model.prediction == "v":
            both = both / (1 + sigma**2) - output * sigma / (1 + sigma**2).sqrt()
        else:
            both = both - sigma * output
        cond, uncond = both.chunk(2)
        return uncond + GUIDANCE * (cond - uncond)


def euler(x, index, outputs, sigmas, _noise):
    now, following = sigmas[index], sigmas[index + 1]
    return x + (x - outputs[index]) / now * (following - now)


def euler_ancestral(x, index, outputs, sigmas, noise):
    down, up = sampling.get_ancestral_step(sigmas[index], sigmas[index + 1])
    x = x + (x - outputs[index]) / sigmas[index] * (down - sigmas[index])
    return x + noise * up if sigmas[index + 1] > 0 else x


def dpmpp_2m(x, index, outputs, sigmas, _noise):
    now, following = sigmas[index], sigmas[index + 1]
    denoised = outputs[index]
    if index and following > 0:
        h, before = (now / following).log(), (sigmas[index - 1] / now).log()
        denoised = denoised + (denoised - outputs[index - 1]) * h / (2 * before)
    return following / now * x + (1 - following / now) * denoised


def dpmpp_2m_sde(x, index, outputs, sigmas, noise):
    now, following = sigmas[index], sigmas[index + 1]
    if following == 0:
        return outputs[index]
    h = (now / following).log()
    x = following / now * (-h).exp() * x + (-2 * h).expm1().neg() * outputs[index]
    if index:
        before = (sigmas[index - 1] / now).log()
        x = x + 0.5 * (-2 * h).expm1().neg() * h / before * (outputs[index] - outputs[index - 1])
    return x + noise * following * (-2 * h).expm1().neg().sqrt()


def looking_back(x, index, outputs, sigmas, _noise):
    """Euler's step with something of the output before."""
    now, following = sigmas[index], sigmas[index + 1]
    slope = (x - outputs[index]) / now
    if index == 0 or following == 0:
        return x + slope * (following - now)
    return x + (following - now) * (outputs[index - 1] - outputs[index]) * 0.2 / now + slope * (following - now)


def consistent(_x, index, outputs, sigmas, noise):
    return outputs[index] + sigmas[index + 1] * noise


def by_formula(step):
    """Return a sampler's function, as k-diffusion has them, that goes by `step`."""

    def sample(model, x, sigmas, *, disable=None):
        del disable
        outputs = []
        for index in range(len(sigmas) - 1):
            outputs.append(model(x, sigmas[index].expand(len(x))))
            x = step(x, index, outputs, sigmas, torch.randn_like(x))
        return x

    return sample


SHARES = {
    euler: lambda _sigma: 0.4,
    euler_ancestral: lambda _sigma: 1.25,
    dpmpp_2m: lambda sigma: 0.6 * sigma / (1 + sigma),
    dpmpp_2m_sde: lambda _sigma: 1.25,
    looking_back: lambda sigma: 0.6 * sigma / (1 + sigma),
    consistent: lambda _sigma: 0,
}
"""How far outputs in full follow a deviation, by samplers; the last of them is not corrected."""


@pytest.mark.parametrize(
    ("network", "step"),
    [*(("model", step) for step in SHARES), ("predicting_v", euler), ("predicting_v", dpmpp_2m)],
    ids=lambda given: getattr(given, "__name__", given),
)
@torch.no_grad()
def test_the_picture_is_the_one_of_a_sampler_whose_own_state_is_put_right(request, network, step):
    model = request.getfixturevalue(network)
    sampler, prompts = Sampler(by_formula(step)), model.prompts(2)
    sigmas = sampler.sigmas(model, STEPS)
    torch.manual_seed(3)
    wanted = InPlace(model, prompts, step, sigmas, SHARES[step]).run(model.noise(2, 3) * sigmas[0])
    made = {}
    for settings in (LIST, OFF):
        run = sampler.ask(model, STEPS)
        kind = type(run.kind)(pays_back=run.kind.pays_back)  # without noise a reuse is not drawn to anything
        with SamplingPass(
            model.unet, settings, STEPS, sampler=kind, run=run, levels=model.levels, predictor=Line()
        ) as passing:
            made[settings.correction] = sampler.sample(
                model, prompts, STEPS, guidance=GUIDANCE, seed=3, wrap=passing.wrap
            )
        if settings is LIST and run.kind.pays_back:
            assert (passing.statistics.corrected, passing.statistics.uncorrected) == (4, 0)
    assert (made["on"] - wanted).abs().max() <= 2 / 255
    if step is not consistent:
        assert (made["off"] - wanted).abs().max() > 10 / 255


def test_samplers_that_can_pay_back(model):
    answered = {
        name: sampler.ask(model, 20).kind.pays_back for name, sampler in (SAMPLERS | DIFFUSERS_SAMPLERS).items()
    }
    assert {name for name, pays in answered.items() if pays} == {
        "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE", "DDIM",
    }  # fmt: skip


def test_what_an_output_is_to_a_sampler(model):
    """Nothing is corrected where it is neither a denoised picture nor the noise."""
    for name, sampler in (SAMPLERS | DIFFUSERS_SAMPLERS).items():
        run = sampler.ask(model, 20)
        sigmas = model.levels.sigmas(np.array(run.levels))
        takes_noise = name in {"DDIM"} or (name in DIFFUSERS_SAMPLERS and run.takes_noise(sigmas))
        assert run.takes_noise(sigmas) == takes_noise, name
        assert run.takes_denoised == (name in SAMPLERS), name

    def scaled(denoiser, x, sigmas, *, disable=None):
        return sampling.sample_euler(lambda *given: 2 * denoiser(*given), x, sigmas, disable=disable)

    odd = Sampler(scaled)
    run = odd.ask(model, STEPS)
    assert run.kind.pays_back
    with SamplingPass(model.unet, LIST, STEPS, sampler=run.kind, run=run, levels=model.levels) as passing:
        odd.sample(model, model.prompts(1), STEPS, wrap=passing.wrap)
    assert passing.statistics.corrected == passing.statistics.uncorrected == 0


def test_paybacks_are_those_of_the_formula(model):
    run = SAMPLERS["DPM++ 2M"].ask(model, 20)
    of_run, sigmas = paybacks(run, np.ones(20), np.zeros(20)), SAMPLERS["DPM++ 2M"].sigmas(model, 20).double()
    logs = sigmas[:-1].log()
    for index in range(1, 19):
        h, before = logs[index] - logs[index + 1], logs[index - 1] - logs[index]
        kept, ratio = sigmas[index + 1] / sigmas[index], h / (2 * before)
        one = of_run[index]
        assert one.kept == pytest.approx(float(kept), rel=1e-6)
        assert one.own == pytest.approx(float((1 - kept) * (1 + ratio)), rel=1e-6)
        assert one.earlier == pytest.approx([float((kept - 1) * ratio)], rel=1e-5)
    counts = np.arange(1, 21)
    for index, (one, counted) in enumerate(zip(of_run, paybacks(run, counts, counts), strict=True)):
        assert (counted.kept, counted.own) == (one.kept, pytest.approx(one.own * counts[index]))
        assert counted.earlier == pytest.approx([of * counts[index - 1] for of in one.earlier])
        assert (one.answered, counted.answered) == (0, counts[index])


@pytest.mark.parametrize("prediction", ["eps", "v"])
@torch.no_grad()
def test_an_answer_moves_the_denoised_picture_by_its_share_of_the_deviation(prediction):
    """The same for a sampler that takes denoised pictures and for one that takes the noise."""
    model = TinyModel()
    levels = NoiseLevels(model.alphas_cumprod, prediction)
    denoised, noise = SAMPLERS["Euler"].ask(model, 20), DIFFUSERS_SAMPLERS["DDIM"].ask(model, 20)
    sigmas = np.array(denoised.levels)
    of_denoised = -sigmas / np.sqrt(1 + sigmas**2) if prediction == "v" else -sigmas
    assert np.allclose(answers(denoised, levels, of_denoised) * of_denoised, SHARE)
    at = levels.sigmas(np.array(noise.levels))
    of_noise = 1 / np.sqrt(1 + at**2) if prediction == "v" else np.ones(20)
    moved = answers(noise, levels, of_noise) * of_noise  # of the noise, by 1 at the scale of variance 1
    assert np.allclose(np.sqrt(1 + at**2) - at * moved, SHARE * np.sqrt(1 + at**2))


ONE = Payback(kept=0.5, own=0.5, earlier=())


def test_a_refresh_returns_what_makes_up_for_the_reuses_before_it():
    correction, keys = Correction([ONE] * 4), ("a", "b")
    times, x = torch.tensor([400.0, 300.0]), torch.zeros(2, 4, 8, 8)
    correction.of_full(0, keys, x, lambda _x, _t: None)
    assert correction.of_reuse(1, keys, x, times, x + 1).equal(x + 1)
    assert correction.owes(2, keys)
    assert not correction.owes(2, ("b", "a"))
    made = correction.of_full(2, keys, x, lambda _x, _t: x + 3)
    assert made.allclose(x + 1)  # 2 was missed, half of which is in x, half of which is still there after the next step
    assert (correction.corrected, correction.dropped) == (1, 0)
    assert correction.nbytes == 0  # no later step looks back


def test_what_the_network_answers_to_the_deviation_is_returned_and_is_no_error():
    answering = Payback(kept=0.5, own=0.5, earlier=(0.25,), answered=2.0)
    correction, keys = Correction([answering] * 4), ("a",)
    times, x = torch.tensor([400.0]), torch.zeros(1, 4, 8, 8)
    correction.of_reuse(0, keys, x, times, x + 1)
    made = correction.of_full(1, keys, x, lambda _x, _t: x + 3)
    # 2 was missed: 1 is in x, of which 0.5 is kept, and 0.5 comes by looking back; twice what is in x is answered
    assert made.allclose(x + 2 + 2)
    assert correction.of_full(2, keys, x, lambda _x, _t: x).allclose(x + 0.25 * -2 / 0.5)


@pytest.mark.parametrize("why", ["other rows", "left out", "cleared", "nothing better"])
def test_what_can_not_be_put_right_is_left_as_it_is_and_counted(why):
    correction, keys = Correction([ONE] * 4), ("a", "b")
    times, x = torch.tensor([400.0, 300.0]), torch.zeros(2, 4, 8, 8)
    correction.of_reuse(0, keys, x, times, x + 1)
    if why == "cleared":
        correction.clear()
    index, rows = 1 + (why == "left out"), ("a", "c") if why == "other rows" else keys
    better = None if why == "nothing better" else x + 3
    assert correction.of_full(index, rows, x, lambda _x, _t: better).equal(x)
    correction.clear()
    assert (correction.corrected, correction.dropped) == (0, 1)


def test_what_rows_that_do_not_come_back_owe_is_counted_though_nobody_asks_for_them_again():
    correction, times, x = Correction([ONE] * 4), torch.tensor([400.0]), torch.zeros(1, 4, 8, 8)
    correction.of_reuse(0, ("cond", "uncond"), x, times, x + 1)
    correction.of_full(1, ("cond",), x, lambda _x, _t: x)
    assert correction.dropped == 0  # the others may come in another call
    correction.of_full(2, ("cond",), x, lambda _x, _t: x)
    assert (correction.corrected, correction.dropped, correction.nbytes) == (0, 1, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_keep_their_precision(dtype):
    correction, times = Correction([ONE] * 4), torch.tensor([400.0])
    x = torch.zeros(1, 4, 8, 8, dtype=dtype)
    correction.of_reuse(0, ("a",), x, times, x + 1)
    assert correction.of_full(1, ("a",), x, lambda _x, _t: x + 3).dtype == dtype
