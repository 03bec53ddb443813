"""Samplers and settings of the WebUI's that add noise or jump without saying so, driving the small networks.

LCM and Restart are written anew after the host's own (modules/sd_samplers_lcm.py, sd_samplers_extra.py), which follow
https://arxiv.org/abs/2310.04378 and https://arxiv.org/abs/2306.14878.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.parts.diffusers_samplers import DiffusersSampler, ddim
from deepcache_ext import SamplerKind
from demo.k_diffusion_parts import sampling
from demo.samplers import Sampler

RESTART_AT, RESTART_FROM, RESTARTED_STEPS = 0.1, 2.0, 9
"""Once the noise is down to the first sigma it goes up to the second, and comes down again in so many steps."""
FEWEST_STEPS = 20
"""With fewer there is no restart."""


def sample_lcm(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, *, disable: bool | None = None) -> Tensor:
    """Sample with latent consistency: each step's picture, with noise of the next level. `disable` is for the bar."""
    del disable
    for sigma, following in itertools.pairwise(sigmas):
        x = model(x, sigma.expand(len(x)))
        if following > 0:
            x = x + following * torch.randn_like(x)
    return x


def sample_restart(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, *, disable: bool | None = None) -> Tensor:
    """Sample with Heun, go back up in noise once, and come down again. `disable` is for the bar."""
    del disable
    before: Any = None
    for sigma, following in _restarting(sigmas):
        if before is not None and before < sigma:
            x = x + torch.randn_like(x) * (sigma**2 - before**2) ** 0.5
        slope = sampling.to_d(x, sigma, model(x, sigma.expand(len(x))))
        end = x + slope * (following - sigma)
        if following > 0:
            second = sampling.to_d(end, following, model(end, following.expand(len(x))))
            end = x + (slope + second) / 2 * (following - sigma)
        x, before = end, following
    return x


def _restarting(sigmas: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the steps, each from one sigma to another."""
    steps = len(sigmas) - 1
    if steps < FEWEST_STEPS:
        return [*itertools.pairwise(sigmas)]
    sigmas = sampling.get_sigmas_karras(steps - RESTARTED_STEPS, float(sigmas[-2]), float(sigmas[0]))
    low, high = (int((sigmas - level).abs().argmin()) for level in (RESTART_AT, RESTART_FROM))
    again = sampling.get_sigmas_karras(RESTARTED_STEPS + 1, float(sigmas[low]), float(sigmas[high]))[:-1]
    whole = [*itertools.pairwise(sigmas)]
    return [*whole[:low], *itertools.pairwise(again), *whole[low:]]


HOST_SAMPLERS: dict[str, Sampler | DiffusersSampler] = {
    "LCM": Sampler(sample_lcm, SamplerKind(noisy=True)),
    "Restart": Sampler(sample_restart, SamplerKind(stages=2, jumps=True), karras=True),
    "Euler, churn 5": Sampler(functools.partial(sampling.sample_euler, s_churn=5.0), SamplerKind(noisy=True)),
    "Heun, churn 20": Sampler(functools.partial(sampling.sample_heun, s_churn=20.0), SamplerKind(2, noisy=True)),
    "DDIM, eta 1": DiffusersSampler(ddim, SamplerKind(noisy=True), eta=1.0),
}
"""By name, with the kind that each of them really is."""
