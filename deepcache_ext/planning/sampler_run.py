"""The facts about one run of a sampler, and what of them decides how it is cached."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepcache_ext.planning.sampler_kind import SamplerKind

Array = NDArray[np.float64]

RISE = 1.5
"""From how many times the level before on noise has risen again; churn raises it by less."""
_NONE = 1e-4
"""What counts as no weight, as a part of the largest in its row: more than rounding in single precision leaves."""
_FARTHEST = 2
"""The most earlier outputs that a step of a run looks back at that pays back; DPM++ 3M SDE's do so."""
_LITTLE = 1e-3
"""What counts as no weight of an earlier output, as a part of a step's own."""
_MOSTLY = 0.8
"""From which part of the evaluations on what they do is what the sampler does; its last steps may do something else."""


def rises(levels: Sequence[float]) -> frozenset[int]:
    """Return the numbers of the levels before which the noise has gone up again."""
    return frozenset(number for number, (last, now) in enumerate(itertools.pairwise(levels), 1) if now > last * RISE)


@dataclass(frozen=True, eq=False)
class SamplerRun:
    """What a sampler does in one run; `dry_run.ask` finds it out."""

    levels: tuple[float, ...]
    """The noise level of each evaluation, or its timestep: what the denoiser is called with."""
    weights: Array | None
    """Row i has the weights of all outputs in the input of evaluation i, the last row those in the picture.

    Of shape (evaluations + 1, evaluations). None if the sampler is not linear in the outputs.
    """
    of_start: Array | None = None
    """The weight of the run's input in each of these, of shape (evaluations + 1,); None as above."""
    noisy: bool = False
    """Whether noise is added between evaluations, other than where it goes up again as a whole."""
    others: frozenset[int] = frozenset()
    """The evaluations at another size than the run's."""
    decides_itself: bool = False
    """Whether it depends on the outputs how often it evaluates."""

    guided: bool = True
    """Whether the guided output is all that it looks at; where it is not, `weights` are not the whole truth."""

    @property
    def evaluations(self) -> int | None:
        """How often the denoiser is evaluated; None if nobody knows before."""
        return None if self.decides_itself else len(self.levels)

    def of_guidance(self) -> SamplerRun:
        """Return the same of a run that looks at the outputs for the unconds as well."""
        return replace(self, guided=False)

    @property
    def rises(self) -> frozenset[int]:
        """The evaluations before which the noise has gone up again, as it does with Restart."""
        return rises(self.levels)

    @property
    def kind(self) -> SamplerKind:
        """What of the run decides how it is planned."""
        if self._is_paired():
            return SamplerKind(2, self.noisy, jumps=self.decides_itself)
        return SamplerKind(1, self.noisy, self._extrapolates(), self.decides_itself, self._pays_back())

    @property
    def takes_denoised(self) -> bool:
        """Whether its denoiser returns denoised pictures, which leave an input that equals them as it is."""
        if self.weights is None or self.of_start is None:
            return False
        return bool(np.allclose(self.of_start + self.weights.sum(axis=1), 1, atol=1e-3))

    def takes_noise(self, sigmas: Array) -> bool:
        """Tell whether its denoiser returns the noise, which leaves an input that is nothing else at its level.

        `sigmas`, of shape (evaluations,), are those of `levels`, which are timesteps then, and the input is at the
        scale where picture and noise together have a variance of 1.
        """
        if self.weights is None or self.of_start is None:
            return False
        scales = sigmas / np.sqrt(1 + sigmas**2)
        made = self.of_start[:-1] * scales[0] + self.weights[:-1].sum(axis=1)
        return bool(np.allclose(made, scales, atol=1e-2))

    @property
    def starts_anew(self) -> bool:
        """Whether each step begins from a denoised picture and fresh noise, as with consistency models."""
        inner = self.of_start[1:-1] if self.of_start is not None else np.ones(1)
        return self.noisy and len(inner) > 0 and not inner.any()

    def kept(self) -> Array | None:
        """Return how much of the input of each evaluation is still in the next, of shape (evaluations,); None as above.

        The last is of the picture.
        """
        if self.of_start is None:
            return None
        before, after = self.of_start[:-1], self.of_start[1:]
        return np.divide(after, before, out=np.zeros_like(after), where=before != 0)

    def steps(self) -> Array | None:
        """Return the weight of each output in the step after each evaluation, of shape (evaluations, evaluations).

        The input after evaluation i is `kept()[i]` of the one before it, and row i of the outputs. None as above.
        """
        kept = self.kept()
        if self.weights is None or kept is None:
            return None
        steps: Array = self.weights[1:] - kept[:, None] * self.weights[:-1]
        return steps

    @property
    def looks_back(self) -> int:
        """How many earlier outputs a step looks back at, at most; 0 where the weights are not known."""
        steps = self.steps()
        if steps is None:
            return 0
        rows, columns = np.nonzero(np.abs(np.tril(steps, -1)) > _LITTLE * np.abs(np.diagonal(steps))[:, None])
        return int((rows - columns).max(initial=0))

    def _remember(self, steps: Array) -> NDArray[np.bool_]:
        """Return of each evaluation whether the step after it looks back at earlier outputs."""
        largest = np.abs(steps).max(axis=1, keepdims=True, initial=0)
        remember: NDArray[np.bool_] = (np.abs(np.tril(steps, -1)) > _NONE * largest).any(axis=1)
        return remember

    def _is_paired(self) -> bool:
        """Tell whether every other evaluation only serves the one after it.

        A first stage's step looks at its own output alone, the second's at both. Where the weights are not known, the
        noise levels tell: a second stage is at the level of the next first one, or below.
        """
        steps = self.steps()
        if steps is None:
            pairs = itertools.pairwise(self.levels)
            return sum(now >= last * (1 - _NONE) for last, now in pairs) * 2 >= _MOSTLY * len(self.levels) > 2
        remember, found, number = self._remember(steps), 0, 1
        while number < len(remember):
            is_pair = bool(
                remember[number] and not remember[number - 1] and not remember[number + 1 : number + 2].any()
            )
            found += is_pair
            number += 1 + is_pair
        return found > 1 and 2 * found >= _MOSTLY * (len(remember) - 1)

    def _extrapolates(self) -> bool:
        """Tell whether most steps go on along the last outputs: they integrate a polynomial beyond its nodes.

        The weights of such a step have alternating signs. Where later outputs correct the steps before (UniPC) they do
        not, nor where a step is made again with another output (PLMS begins so), or has more than two evaluations of
        which the first does not look back.
        """
        steps = self.steps()
        if steps is None or len(steps) < 2:
            return False
        largest = np.abs(steps).max(axis=1)
        is_made_again = np.abs(steps.sum(axis=1)) <= _NONE * largest
        looks_back = self._remember(steps)
        if is_made_again[1:].any() or looks_back[1:-1].sum() < _MOSTLY * (len(steps) - 2):
            return False
        alternates = np.diagonal(steps) * np.pad(np.diagonal(steps, -1), (1, 0)) < 0
        older = np.pad(np.diagonal(steps, -2)[1:] * np.diagonal(steps, -3), (3, 0)) if len(steps) > 3 else 0 * largest
        alternates &= older <= (_NONE * largest) ** 2
        return bool((alternates & looks_back).sum() >= _MOSTLY * looks_back.sum() > 0)

    def _pays_back(self) -> bool:
        """Tell whether later outputs can make up for what earlier ones were off.

        Not where an output beside the guided one counts, nor where nothing of an input is left in the next (consistency
        models). Where steps look back too much or too far, as with LMS and UniPC, paybacks swing.
        """
        kept, steps = self.kept(), self.steps()
        if kept is None or steps is None or not self.guided or not kept.any():
            return False
        own, earlier = np.abs(np.diagonal(steps)), np.abs(np.tril(steps, -1)).sum(axis=1)
        return bool((own > 0).all() and (earlier <= own).all()) and self.looks_back <= _FARTHEST
