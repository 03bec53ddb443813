"""What a network answers to the deviation of its input.

An evaluation in full after a reuse is made at an input that the reuse led astray. How the denoised picture moves with
the input is the network's Jacobian, J = d D / d x, which nobody can afford to work out. But a deviation is no noise: it
is a difference of two denoised pictures, and along such directions a network that knows its pictures follows its input
by much (J is near 1), along noise by little. So a share of the deviation stands for J times it. What noise has led
astray is farther along them than what a forecast feature has. The shares are from trials, see docs/research.md; no
source is known for them.
"""

from __future__ import annotations

import numpy as np
import torch

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.planning.sampler_run import Array, SamplerRun

SHARE = 0.4
"""How far the denoised picture follows a deviation of the input that reuses have left."""
SHARE_WITH_NOISE = 1.25
"""The same where noise is added; above 1, since a response that is fitted to noise falls short of it."""
SHARE_OF_CHANGES = 0.8
"""The same of samplers that remember changes, as LMS does."""
SHARE_ON_THE_WAY = 0.6
"""The same of other samplers that extrapolate, far above a sigma of 1; at 1 half of it, and less below."""


def answers(run: SamplerRun, levels: NoiseLevels, counts: Array) -> Array:
    """Return what an output of the U-Net moves by if a sampler's x moves by 1 along a deviation, by evaluations.

    `counts`, of shape (evaluations,) as the result, are what an output of the U-Net counts in that of the denoiser; 0
    is returned where they are 0. Of a sampler that takes denoised pictures x is one with noise of sigma, of one that
    takes the noise it has a variance of 1.
    """
    if run.takes_denoised:
        moved = shares(run, np.array(run.levels)) - run.remembers_changes
    else:
        sigmas = levels.sigma(torch.tensor(run.levels)).double().cpu().numpy()
        moved = (1 - shares(run, sigmas)) * np.sqrt(1 + 1 / sigmas**2)
    return np.divide(moved, counts, out=np.zeros_like(moved), where=counts != 0)


def shares(run: SamplerRun, sigmas: Array) -> Array:
    """Return how far the denoised picture follows a deviation in each evaluation, at `sigmas`, of their shape."""
    if run.noisy:
        return np.full_like(sigmas, SHARE_WITH_NOISE)
    if run.remembers_changes:
        return np.full_like(sigmas, SHARE_OF_CHANGES)
    found: Array = SHARE_ON_THE_WAY * sigmas / (1 + sigmas) if run.kind.extrapolates else np.full_like(sigmas, SHARE)
    return found
