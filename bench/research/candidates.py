"""Predictors that were tried in the place of the extension's own (`deepcache_ext.features.forecast.Predictor`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.research.caches import spectrum_weights
from deepcache_ext.features.denoised import SHARE
from deepcache_ext.features.forecast import Kept
from deepcache_ext.features.per_row import PerRow

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

    def first(self, feature: Tensor, _x: Tensor, times: PerRow) -> Kept:
        return {"feature": feature, "time": _of_rows(times, feature)}

    def after(self, last: Kept, feature: Tensor, x: Tensor, times: PerRow) -> Kept:
        now = self.first(feature, x, times)
        for number, (time, one) in enumerate(_refreshes(last)[: self.count - 1], start=1):
            now |= {f"time {number}": time, f"feature {number}": one}
        return now

    def expected(self, kept: Kept, _x: Tensor, times: PerRow) -> Tensor:
        refreshes = _refreshes(kept)[::-1]
        if len(refreshes) == 1:
            return refreshes[0][1]
        moments = torch.stack([time for time, _ in refreshes], dim=1).tolist()
        now = _of_rows(times, refreshes[0][1]).tolist()
        weights = torch.stack([self.weights(of_row, time) for of_row, time in zip(moments, now, strict=True)])
        features = torch.stack([feature for _, feature in refreshes], dim=1)
        return torch.einsum("rn,rn...->r...", weights.to(features.dtype), features)

    def between(self, _kept: Kept, _x: Tensor, _times: PerRow) -> None:
        return None

    @abstractmethod
    def weights(self, times: Sequence[float], time: float) -> Tensor:
        """Return by what to multiply the features of `times`, oldest first: float64, of shape (times,)."""


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
    """Spectrum's forecast from all refreshes, in the timestep; see `bench.research.caches.Spectrum`."""

    def __init__(self) -> None:
        super().__init__(TRAINED)

    def weights(self, times: Sequence[float], time: float) -> Tensor:
        return spectrum_weights(times, time, TRAINED)


def _of_rows(times: PerRow, feature: Tensor) -> Tensor:
    """Return a copy of `times` with one for each of the feature's rows, of shape (rows,)."""
    return torch.as_tensor(times, dtype=torch.float32).expand(len(feature)).clone()


def _refreshes(kept: Kept) -> list[tuple[Tensor, Tensor]]:
    """Return the times and features that are kept, the newest first."""
    endings = ["", *(f" {number}" for number in range(1, len(kept) // 2))]
    return [(kept[f"time{ending}"], kept[f"feature{ending}"]) for ending in endings]
