"""What a network answers to the deviation of its input.

An evaluation in full after a reuse is made at an input that the reuse led astray. How the denoised picture D moves with
the input x is the network's Jacobian, dD / dx, which nobody can afford to work out. But a deviation is no noise: it is
a difference of denoised pictures, and along such directions a network that knows its pictures follows its input by
much. So a share of the deviation stands for the answer. The shares were chosen by trials, see docs/research.md; no
source is known for them.
"""

from __future__ import annotations

import numpy as np

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.planning.sampler_run import Array, SamplerRun

SHARE = 0.4
"""How far the denoised picture is taken to follow a deviation that reuses have left, with most samplers."""
SHARE_WITH_NOISE = 1.25
"""The same where noise is added; what was chosen is above 1, maybe since a fitted response falls short of the noise."""
SHARE_AT_HIGH_SIGMAS = 0.6
"""The same of samplers that extrapolate, far above a sigma of 1; half of it at 1, less below."""


def answers(run: SamplerRun, levels: NoiseLevels, counts: Array) -> Array:
    """Return what each evaluation adds to its U-Net output if the sampler's x is off by 1, of shape (evaluations,).

    With it the sampler gets, at an x that is off, what it would have got at the right one. `counts`, likewise, are what
    an output of the U-Net counts in that of the denoiser; 0 is returned where they are 0. Of a sampler that takes
    denoised pictures x is one with noise of sigma, of one that takes the noise it has a variance of 1.
    """
    if run.takes_denoised:
        moved = shares(run, np.array(run.levels))
    else:
        sigmas = levels.sigmas(np.array(run.levels))
        moved = (1 - shares(run, sigmas)) * np.sqrt(1 + 1 / sigmas**2)
    return np.divide(moved, counts, out=np.zeros_like(moved), where=counts != 0)


def shares(run: SamplerRun, sigmas: Array) -> Array:
    """Return how far the denoised picture follows a deviation in each evaluation, at `sigmas`, of their shape."""
    if run.noisy:
        return np.full_like(sigmas, SHARE_WITH_NOISE)
    if run.kind.extrapolates:
        found: Array = SHARE_AT_HIGH_SIGMAS * sigmas / (1 + sigmas)
        return found
    return np.full_like(sigmas, SHARE)
