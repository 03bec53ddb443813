"""What a sampler answers in a dry run, against its own function and its formulas."""

import dataclasses
import functools
import inspect
import itertools
import math
import random
import time

import numpy as np
import pytest
import torch

from bench.parts.host_samplers import HOST_SAMPLERS
from deepcache_ext import SamplerKind, SamplingPass, Settings
from deepcache_ext.planning import dry_run
from deepcache_ext.planning.dry_run import UnansweredError, ask
from demo.k_diffusion_parts import sampling
from demo.samplers import SAMPLERS, Sampler
from tests.unit.unets import TaggedUNet

SIGMAS = sampling.get_sigmas_karras(12, 0.03, 14.6)
FUNCTIONS = {name: sampler.function for name, sampler in SAMPLERS.items()}
FUNCTIONS |= {name: sampler.function for name, sampler in HOST_SAMPLERS.items() if isinstance(sampler, Sampler)}


def standing_in(function):
    """Return the function with noise that is cheap: a Brownian tree takes half a second."""
    if "noise_sampler" not in inspect.signature(function).parameters:
        return function
    return lambda model, x, sigmas, **more: function(
        model, x, sigmas, noise_sampler=lambda *_: torch.randn_like(x), **more
    )


def asked(function, sigmas=SIGMAS):
    return ask(lambda denoise, x: standing_in(function)(denoise, x, sigmas, disable=True))


def dpm_fast(model, x, sigmas, disable):
    return sampling.sample_dpm_fast(model, x, 0.03, 14.6, len(sigmas) - 1, disable=disable)


def run_with(function, outputs, start, sigmas=SIGMAS):
    """Run the function on a denoiser that returns `outputs`; return the inputs of all evaluations, and the end."""
    inputs, left = [], iter(outputs)

    def denoise(x, _sigma):
        inputs.append(x.clone())
        return next(left)

    torch.manual_seed(5)
    end = function(denoise, start.clone(), sigmas, disable=True)
    return torch.stack([*inputs, end]).double()


@pytest.mark.parametrize("name", [*FUNCTIONS, "DPM fast"])
def test_the_weights_give_what_the_function_itself_makes_of_random_outputs(name):
    function = standing_in(dpm_fast if name == "DPM fast" else FUNCTIONS[name])
    run = asked(function)
    generator = torch.Generator().manual_seed(3)
    start = 10 * torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    outputs = torch.randn(2, len(run.levels), *start.shape, generator=generator, dtype=torch.float64)
    one, other = (run_with(function, of_run, start) for of_run in outputs)
    # the noise is the same in both
    expected = torch.einsum("ik,k...->i...", torch.as_tensor(run.weights), outputs[1] - outputs[0])
    assert float((other - one - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M", "LMS", "Heun"])
def test_the_weight_of_the_start_is_the_functions(name):
    run = asked(FUNCTIONS[name])
    start = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    made = run_with(FUNCTIONS[name], torch.zeros(len(run.levels), *start.shape, dtype=torch.float64), start)
    assert np.allclose(made[:, 0, 0, 0, 0], run.of_start, atol=1e-9)


def test_the_weights_of_dpmpp_2m_are_those_of_its_formula():
    run, sigmas = asked(sampling.sample_dpmpp_2m), SIGMAS.double().tolist()
    expected = np.zeros((len(sigmas), len(sigmas) - 1))
    for i, (now, following) in enumerate(itertools.pairwise(sigmas)):
        if following == 0:
            expected[i + 1, i] = 1
            continue
        h = math.log(now) - math.log(following)
        whole = 1 - math.exp(-h)
        expected[i + 1] = following / now * expected[i]
        if i == 0:
            expected[i + 1, i] += whole
        else:
            r = (math.log(sigmas[i - 1]) - math.log(now)) / h
            expected[i + 1, i] += whole * (1 + 1 / (2 * r))
            expected[i + 1, i - 1] -= whole / (2 * r)
    assert np.abs(run.weights - expected).max() < 1e-6


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_kind_is_what_everybody_knows_of_the_sampler(name, steps):
    sampler = SAMPLERS[name]
    run = asked(sampler.function, sampling.get_sigmas_karras(steps, 0.03, 14.6))
    assert run.evaluations == sampler.evaluations(steps)
    assert dataclasses.replace(run.kind, pays_back=False) == sampler.kind
    assert (run.rises, run.others, run.starts_anew) == (frozenset(), frozenset(), False)


def test_sampler_that_decides_itself_says_so():
    run = ask(lambda denoise, x: sampling.sample_dpm_adaptive(denoise, x, 0.03, 14.6, disable=True))
    assert run.decides_itself
    assert run.evaluations is None
    assert run.weights is None


def test_restart_goes_up_in_noise_once_and_adds_none_elsewhere():
    run = asked(HOST_SAMPLERS["Restart"].function, sampling.get_sigmas_karras(20, 0.03, 14.6))
    (rise,) = run.rises
    assert run.levels[rise] > 1.5 * run.levels[rise - 1]
    assert run.kind == SamplerKind(stages=2)


def test_lcm_starts_each_step_anew():
    run = asked(HOST_SAMPLERS["LCM"].function)
    assert run.starts_anew
    assert run.kind == SamplerKind(noisy=True)
    assert not asked(sampling.sample_euler_ancestral).starts_anew


@pytest.mark.parametrize(("churn", "noisy"), [(0.0, False), (5.0, True)])
def test_churn_is_noise(churn, noisy):
    run = asked(functools.partial(sampling.sample_euler, s_churn=churn))
    assert run.kind == SamplerKind(noisy=noisy, pays_back=True)
    assert run.rises == frozenset()


def sample_thresholded(model, x, sigmas, disable):  # noqa: ARG001 - as a sampler is called
    for sigma, following in itertools.pairwise(sigmas):
        x = x + (x - model(x, sigma).clamp(-0.5, 0.5)) / sigma * (following - sigma)
    return x


def test_a_sampler_that_is_not_linear_says_so():
    run = asked(sample_thresholded)
    assert run.weights is None
    assert run.evaluations == 12
    assert run.kind == SamplerKind()


class HalfSized:
    """Euler, with evaluations at half size after some steps, whose outputs change nothing."""

    def __init__(self, *after):
        self._after = after

    def __call__(self, model, x, sigmas, disable):  # noqa: ARG002 - as a sampler is called
        for number, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
            x = x + (x - model(x, sigma * x.new_ones(len(x)))) / sigma * (following - sigma)
            if number in self._after:
                model(x[..., ::2, ::2], sigma * x.new_ones(len(x)))
        return x


def test_evaluations_at_another_size_are_told():
    run = asked(HalfSized(3, 7))
    assert run.others == {4, 9}
    assert run.evaluations == 14


def sample_of_a_number(model, x, sigmas, disable):
    """Sample as Euler does, in the single precision of a table of numbers."""
    table = torch.ones(4, 4)

    def denoise(given, sigma):
        return torch.einsum("ck,bkhw->bchw", table / 4, model(given, sigma))

    return sampling.sample_euler(denoise, x, sigmas, disable=disable)


def test_a_sampler_that_knows_single_precision_only_is_asked_in_it():
    assert asked(sample_of_a_number).evaluations == 12


def test_the_random_state_of_torch_numpy_and_python_is_left_as_it_was():
    def drawing(model, x, sigmas, disable):
        random.random()  # noqa: S311 - what others draw from
        np.random.rand()
        torch.rand(3)
        return sampling.sample_euler_ancestral(model, x, sigmas, disable=disable)

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    ask(lambda denoise, x: drawing(denoise, x, SIGMAS, disable=True))
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert repr(before[1:]) == repr(after[1:])


def test_a_generator_of_the_samplers_own_is_not_drawn_from():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()

    def run(denoise, x):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return sampling.sample_euler(denoise, x + noise, SIGMAS, disable=True)

    assert ask(run).noisy
    assert torch.equal(generator.get_state(), before)


def _endless(denoise, x):
    while True:
        x = denoise(x, 1.0)


def _dawdling(denoise, x):
    while True:
        begun = time.thread_time()
        while time.thread_time() < begun + 0.02:
            pass
        denoise(x, 1.0)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda _denoise, _x: 1 / 0, "ZeroDivisionError"),
        (lambda _denoise, x: x, "it made no evaluation"),
        (_endless, "more than 2000 evaluations"),
        (_dawdling, "longer than 0.1 s"),
    ],
    ids=["raises", "does nothing", "never ends", "takes long"],
)
def test_a_run_that_tells_nothing_says_why(monkeypatch, run, why):
    if run is _dawdling:
        monkeypatch.setattr(dry_run, "LONGEST", 0.1)
    with pytest.raises(UnansweredError, match=why):
        ask(run)


class DeepUNet(TaggedUNet):
    """A U-Net whose two outputs are its deep feature and its skip, less a part that the whole input decides."""

    class _Averaging(torch.nn.Module):
        def forward(self, h):
            return torch.tanh(h + h.mean())

    def __init__(self):
        super().__init__()
        self.middle_block = self._Averaging()

    def forward(self, x, timesteps=None):
        return 0.5 * super().forward(x, timesteps)


def made_with(function, *full):
    """Return the picture that a small U-Net makes under a sampler, and what the pass did."""
    unet, run = DeepUNet(), asked(function)
    settings = Settings(schedule="list", steps=full, depth=1)
    made = SamplingPass(unet, settings, run.evaluations, sampler=run.kind, run=run)
    with made, torch.no_grad():
        denoise = made.wrap(lambda x, sigma: unet(x, sigma)[:, :2])
        return function(denoise, torch.linspace(-5, 5, 128).view(1, 2, 8, 8), SIGMAS, disable=True), made.statistics


def test_evaluations_at_another_size_take_nothing_from_those_of_the_usual_one():
    plain, of_plain = made_with(HalfSized(), 0, 1, 4, 7)
    made, of_made = made_with(HalfSized(1, 4, 5, 8), 0, 1, 4, 7)
    assert (of_plain.full, of_plain.reused) == (4, 8)
    assert (of_made.full, of_made.reused, of_made.missed) == (8, 8, 0)
    assert torch.allclose(made, plain, rtol=0, atol=1e-6)
    assert not torch.allclose(made, made_with(HalfSized(), *range(12))[0], rtol=0, atol=1e-3)
