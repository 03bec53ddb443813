"""Other training-free caches, each written anew from its published formulas, on ldm's U-Net.

Each decides once per evaluation for the whole batch, and counts what an evaluation runs as a share of a full one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.parts.walk import Walk

T = TypeVar("T")

DEGREE, RIDGE, WEIGHT = 4, 0.1, 0.5
"""Spectrum's, as its authors have them for SDXL."""


class Rival(ABC):
    """A cache for the length of one sampling run of `total` evaluations, each of one U-Net call.

    While it is entered, `unet` has a forward of its own; `wrap` tells it where evaluations begin. `full` and `reused`
    count them, `compute` is their cost in full evaluations, where one that reuses costs `probe`.
    """

    def __init__(self, unet: nn.Module, total: int, probe: float) -> None:
        if total < 1:
            raise ValueError(f"total must be 1 or more; got {total}")
        if not 0 <= probe <= 1:
            raise ValueError(f"probe must be a share from 0 to 1; got {probe}")
        self.unet = unet
        self.total = total
        self.probe = probe
        self.full = 0
        self.reused = 0
        self._begun = 0

    @property
    def compute(self) -> float:
        """What the run has cost so far, in full evaluations."""
        return self.full + self.reused * self.probe

    def __enter__(self) -> Rival:
        if "forward" in vars(self.unet):
            raise ValueError(f"this {type(self.unet).__name__} has a forward set on the instance already")
        self.unet.forward = self._forward
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.unet.forward

    def wrap(self, denoiser: Callable[..., T]) -> Callable[..., T]:
        """Return `denoiser` with every call of it starting an evaluation, for a sampler to call."""

        def evaluate(*args: Any, **kwargs: Any) -> T:
            self._begun += 1
            return denoiser(*args, **kwargs)

        return evaluate

    def _forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        if self._begun != self.full + self.reused + 1:
            raise RuntimeError("an evaluation must be one call of the U-Net, made by the wrapped denoiser")
        walk = Walk(self.unet, x, timesteps, context)
        if self._reuses(walk, self._begun - 1):
            self.reused += 1
            return self._cheap(walk)
        self.full += 1
        return self._whole(walk)

    @abstractmethod
    def _reuses(self, walk: Walk, index: int) -> bool:
        """Return whether evaluation `index`, counted from 0, reuses."""

    @abstractmethod
    def _whole(self, walk: Walk) -> Tensor:
        """Return a full evaluation's output and keep what the next ones reuse."""

    @abstractmethod
    def _cheap(self, walk: Walk) -> Tensor:
        """Return the output of an evaluation that reuses."""


class ThresholdRival(Rival):
    """A rival that reuses while something that it measures stays below `tau` in every row.

    The first `warm` evaluations and the last `tail` are full.
    """

    def __init__(self, unet: nn.Module, total: int, tau: float, probe: float, warm: int, tail: int) -> None:
        super().__init__(unet, total, probe)
        if warm < 1:
            raise ValueError(f"warm must be 1 or more, for the first evaluation has nothing to reuse; got {warm}")
        self.tau = tau
        self.warm = warm
        self.tail = tail

    def _reuses(self, walk: Walk, index: int) -> bool:
        change = float(self._change(walk).max())
        return self.warm <= index < self.total - self.tail and change < self.tau

    @abstractmethod
    def _change(self, walk: Walk) -> Tensor:
        """Return what is held against the threshold, of shape (rows,)."""


class AccumulatedChange(ThresholdRival):
    """DeepCache of depth 1, refreshed when the first blocks' output has changed by `tau` in sum.

    TeaCache's rule (https://arxiv.org/abs/2411.19108) on DeepCache's cache: the relative L1 changes of the probe, the
    output of the first `blocks` input blocks, from each evaluation to the next, summed since the last full one. Two
    blocks are the first that see timestep and text; one is the convolution alone, which a reuse runs anyway. TeaCache's
    polynomial, fitted to each model, is left out: with a tuned threshold only its curvature is missing. As published
    the first and the last evaluation are full.
    """

    def __init__(
        self, unet: nn.Module, total: int, tau: float, probe: float, blocks: int = 2, warm: int = 1, tail: int = 1
    ) -> None:
        super().__init__(unet, total, tau, probe, warm, tail)
        self.blocks = blocks
        self._last: Tensor | None = None
        self._sum: Tensor = torch.zeros(1)
        self._feature: Tensor = torch.zeros(1)

    def _change(self, walk: Walk) -> Tensor:
        probe = walk.inputs(self.blocks)
        if self._last is not None:
            self._sum = self._sum + _size(probe - self._last) / _size(self._last)
        self._last = probe
        return self._sum

    def _whole(self, walk: Walk) -> Tensor:
        self._sum = torch.zeros_like(self._sum)
        self._feature = walk.deep(1)
        return walk.head(walk.outer(self._feature, 1))

    def _cheap(self, walk: Walk) -> Tensor:
        return walk.head(walk.outer(self._feature, 1))


class EasyCache(ThresholdRival):
    """Reuse of the difference between output and input: output = x + (last full output - its x).

    EasyCache, https://arxiv.org/abs/2507.02860. Between the last two full evaluations the output changed k times as
    much as the input, both as mean absolute difference; so k |x_t - x_(t-1)| / |last full output| is how much
    the output is taken to have changed since the evaluation before, relatively. Its sum since the last full evaluation
    is held against `tau`. As published the first 5 to 7 of 50 evaluations are full, of 20 the same share, and the last.
    """

    def __init__(
        self, unet: nn.Module, total: int, tau: float, probe: float = 0.0, warm: int = 3, tail: int = 1
    ) -> None:
        super().__init__(unet, total, tau, probe, warm, tail)
        self._x: Tensor | None = None
        self._sum: Tensor = torch.zeros(1)
        self._history: list[tuple[Tensor, Tensor]] = []

    def _change(self, walk: Walk) -> Tensor:
        before, self._x = self._x, walk.x
        if before is None or len(self._history) < 2:
            return torch.full((1,), torch.inf)
        (x_older, older), (x_newer, newer) = self._history
        rate = _size(newer - older) / _size(x_newer - x_older)
        self._sum = self._sum + rate * _size(walk.x - before) / _size(newer)
        return self._sum

    def _whole(self, walk: Walk) -> Tensor:
        output = walk.head(walk.outer(walk.deep(1), 1))
        self._history = [*self._history[-1:], (walk.x, output)]
        self._sum = torch.zeros_like(self._sum)
        return output

    def _cheap(self, walk: Walk) -> Tensor:
        x, output = self._history[-1]
        return walk.x + (output - x)


class FirstBlockCache(ThresholdRival):
    """Reuse of what everything after the first block adds to the first block's output.

    First-Block Cache (ParaAttention; on U-Nets Comfy-WaveSpeed). The probe is what the first input block after the
    convolution adds, r; a full evaluation is due when mean|r - r_ref| / mean|r_ref| reaches `tau`, r_ref being that of
    the last full one. Otherwise the head gets the block's output and the sum of what came after it then. As published
    only the first evaluation is full in any case.
    """

    def __init__(self, unet: nn.Module, total: int, tau: float, probe: float, warm: int = 1, tail: int = 0) -> None:
        super().__init__(unet, total, tau, probe, warm, tail)
        self._residual: Tensor = torch.zeros(1)
        self._reference: Tensor | None = None
        self._rest: Tensor = torch.zeros(1)

    def _change(self, walk: Walk) -> Tensor:
        before = walk.inputs(1)
        self._residual = walk.inputs(2) - before
        if self._reference is None:
            return torch.full((1,), torch.inf)
        return _size(self._residual - self._reference) / _size(self._reference)

    def _whole(self, walk: Walk) -> Tensor:
        first = walk.h
        last = walk.outer(walk.deep(1), 1)
        self._reference = self._residual
        self._rest = last - first
        return walk.head(last)

    def _cheap(self, walk: Walk) -> Tensor:
        return walk.head(walk.h + self._rest)


class OutputExtrapolation(Rival):
    """One full evaluation, then `skipped` whose output follows from the last two full outputs.

    ZEUS, https://arxiv.org/abs/2604.01552, whose formula is 2 eps_1 - eps_2, with eps_1 the newer; SADA
    (https://arxiv.org/abs/2507.17135) extrapolates likewise but decides inside the solver. Extrapolations alternate
    with reuses of the one before, and only full outputs are extrapolated from. The formula takes all evaluations for
    evenly spaced; `by_time` it goes on instead along the line over the U-Net's timesteps, the same if they are. The
    first `warm` evaluations are full.
    """

    def __init__(
        self, unet: nn.Module, total: int, skipped: int, probe: float = 0.0, warm: int = 2, *, by_time: bool = False
    ) -> None:
        super().__init__(unet, total, probe)
        self.skipped = skipped
        self.warm = _enough_for_a_line(warm)
        self.by_time = by_time
        self._history: list[tuple[float, Tensor]] = []
        self._since = 0
        self._forecast: Tensor = torch.zeros(1)

    def _reuses(self, walk: Walk, index: int) -> bool:  # noqa: ARG002 - a fixed schedule
        return not is_full(index, self.skipped, self.warm)

    def _whole(self, walk: Walk) -> Tensor:
        output = walk.head(walk.outer(walk.deep(1), 1))
        self._history = [*self._history[-1:], (float(walk.timesteps[0]), output)]
        self._since = 0
        return output

    def _cheap(self, walk: Walk) -> Tensor:
        self._since += 1
        if self._since % 2:
            (time_before, before), (time_last, last) = self._history
            run = time_last - time_before
            reach = (float(walk.timesteps[0]) - time_last) / run if self.by_time and run else 1.0
            self._forecast = last + reach * (last - before)
        return self._forecast


def is_full(index: int, skipped: int, warm: int) -> bool:
    """Return whether evaluation `index` of `OutputExtrapolation`'s schedule is full."""
    return index < warm or (index - warm) % (skipped + 1) == skipped


class Spectrum(Rival):
    """The head's input forecast from all full evaluations so far; only the head runs.

    Spectrum, https://arxiv.org/abs/2603.01623, with the authors' parameters for SDXL. The forecast is `weight` times a
    Chebyshev polynomial of `degree` in the evaluation's number, scaled to -1 to 1 over the run, fitted by ridge
    regression (`ridge`), and for the rest the line through the last two full evaluations. After `warm` full evaluations
    every floor(window)-th is full, and the window grows by `flex` with each.
    """

    def __init__(
        self,
        unet: nn.Module,
        total: int,
        flex: float = 0.75,
        *,
        probe: float,
        window: float = 2.0,
        warm: int = 5,
        degree: int = DEGREE,
        ridge: float = RIDGE,
        weight: float = WEIGHT,
    ) -> None:
        super().__init__(unet, total, probe)
        self.flex = flex
        self.warm = _enough_for_a_line(warm)
        self.degree = degree
        self.ridge = ridge
        self.weight = weight
        self._window = window
        self._since = 0
        self._indices: list[int] = []
        self._features: list[Tensor] = []

    def _reuses(self, walk: Walk, index: int) -> bool:  # noqa: ARG002 - a fixed schedule
        if index < self.warm:
            return False
        self._since += 1
        if self._since % int(self._window):
            return True
        self._since = 0
        self._window += self.flex
        return False

    def _whole(self, walk: Walk) -> Tensor:
        last = walk.outer(walk.deep(1), 1)
        self._indices.append(self._begun - 1)
        self._features.append(last)
        return walk.head(last)

    def _cheap(self, walk: Walk) -> Tensor:
        weights = self.weights(self._begun - 1)
        return walk.head(torch.einsum("n,n...->...", weights.to(walk.x.dtype), torch.stack(self._features)))

    def weights(self, index: int) -> Tensor:
        """Return by what to multiply each kept feature to get the forecast at `index`: float64, of shape (kept,)."""
        return spectrum_weights(self._indices, index, self.total, self.degree, self.ridge, self.weight)


def spectrum_weights(
    indices: Sequence[float],
    index: float,
    total: int,
    degree: int = DEGREE,
    ridge: float = RIDGE,
    weight: float = WEIGHT,
) -> Tensor:
    """Return by what Spectrum multiplies the features of evaluations `indices` to forecast `index` of `total`.

    float64, of shape (indices,). The parameters are those of `Spectrum`.
    """

    def basis(numbers: Sequence[float]) -> Tensor:
        scaled = 2 * torch.tensor(numbers, dtype=torch.float64) / total - 1
        return torch.cos(torch.arange(degree + 1, dtype=torch.float64) * torch.acos(scaled)[:, None])

    fitted_to = basis(indices)
    normal = fitted_to.T @ fitted_to + ridge * torch.eye(degree + 1, dtype=torch.float64)
    fitted = fitted_to @ torch.linalg.solve(normal, basis([index])[0])
    before, last = indices[-2:]
    reach = (index - last) / (last - before)
    line = torch.zeros_like(fitted)
    line[-2:] = torch.tensor([-reach, 1 + reach])
    forecast: Tensor = weight * fitted + (1 - weight) * line
    return forecast


def _size(change: Tensor) -> Tensor:
    return change.abs().flatten(1).mean(dim=1)


def _enough_for_a_line(warm: int) -> int:
    if warm < 2:
        raise ValueError(f"warm must be 2 or more, for a line needs two full evaluations; got {warm}")
    return warm
