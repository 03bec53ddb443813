"""Predictors that were tried in the place of the extension's own (`deepcache_ext.forecast.Predictor`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.caches import spectrum_weights
from deepcache_ext.denoised import SHARE
from deepcache_ext.forecast import Kept

TRAINED = 1000
"""The timesteps of a checkpoint's noise schedule."""


class Weighted(ABC):
    """A weighted sum of the features of the last `count` refreshes; the weights follow from the times alone."""

    remembers = True
    share = SHARE

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be 1 or more refreshes; got {count}")
        self.count = count

    def first(self, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        return Kept(feature, x, time, torch.ones(1))

    def after(self, last: Kept, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        earlier: Kept | None = None
        for one in reversed([*last.refreshes()][: self.count - 1]):
            earlier = replace(one, before=earlier)
        return replace(self.first(feature, x, time), before=earlier)

    def expected(self, kept: Sequence[Kept], _x: Tensor, times: Tensor) -> Tensor:
        return torch.cat([self._of_row(row, float(time)) for row, time in zip(kept, times, strict=True)])

    @abstractmethod
    def weights(self, times: Sequence[float], time: float) -> Tensor:
        """Return by what to multiply the features of `times`, oldest first: float64, of shape (times,)."""

    def _of_row(self, row: Kept, time: float) -> Tensor:
        refreshes = [*row.refreshes()][::-1]
        if len(refreshes) == 1:
            return row.feature
        weights = self.weights([float(one.time) for one in refreshes], time).to(row.feature.dtype)
        found: Tensor = torch.einsum("n,n...->...", weights, torch.stack([one.feature for one in refreshes]))
        return found


class Polynomial(Weighted):
    """The polynomial in time of `degree` through as many refreshes and one more, `part` of the way from the last.

    TaylorSeer, arXiv 2503.06923, with the timestep in the place of the evaluation's number.
    """

    def __init__(self, degree: int, part: float = 1.0) -> None:
        super().__init__(degree + 1)
        self.part = part

    def weights(self, times: Sequence[float], time: float) -> Tensor:
        found = torch.ones(len(times), dtype=torch.float64)
        for number, one in enumerate(times):
            for other in (*times[:number], *times[number + 1 :]):
                found[number] *= (time - other) / (one - other)
        last = torch.zeros_like(found)
        last[-1] = 1
        return torch.lerp(last, found, self.part)


class Chebyshev(Weighted):
    """Spectrum's forecast from all refreshes, in the timestep; see `bench.caches.Spectrum`."""

    def __init__(self) -> None:
        super().__init__(TRAINED)

    def weights(self, times: Sequence[float], time: float) -> Tensor:
        return spectrum_weights(times, time, TRAINED)
