"""Looking ahead: a cache that interpolates between features, since it computes some of them before their time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.parts.walk import Walk
from bench.research.caches import Rival
from deepcache_ext import NoiseLevels

RIDGE = 0.01
"""What the fit of the response adds to its diagonal, in means of that diagonal."""


class LookAhead(Rival):
    """DeepCache of depth 1 whose features lie between two points, the later one ahead of the sampler.

    Where no point is ahead, the input `gap` - 1 evaluations on is predicted: it is the one to which a step without
    added noise leads if the denoised picture stays what the last step went towards (the inputs alone tell), at the
    timestep where a parabola through the last three goes. The whole U-Net runs there. Until the sampler is past it,
    evaluations reuse the feature on the line in time between the last two points, plus the response of a 3x3
    convolution, fitted to the change between these points, to how far the input is off the line between theirs. The
    first `warm` evaluations are full at their own inputs. No source is known to us.
    """

    def __init__(
        self, unet: nn.Module, total: int, gap: int, *, levels: NoiseLevels, probe: float, warm: int = 3
    ) -> None:
        super().__init__(unet, total, probe)
        if warm < 3:
            raise ValueError(f"warm must be 3 or more, for a parabola needs three timesteps; got {warm}")
        if gap < 2:
            raise ValueError(f"gap must be 2 or more, for the next evaluation needs no prediction; got {gap}")
        self.gap = gap
        self.warm = warm
        self.ahead = 0
        self._levels = levels
        self._inputs: list[tuple[Tensor, Tensor]] = []
        self._points: list[tuple[Tensor, Tensor, Tensor]] = []
        self._left = 0
        self._response: Tensor = torch.zeros(1)

    @property
    def compute(self) -> float:
        return super().compute + self.ahead

    def _reuses(self, walk: Walk, index: int) -> bool:
        self._inputs = [*self._inputs[-2:], (walk.x, walk.timesteps.float())]
        return index >= self.warm

    def _whole(self, walk: Walk) -> Tensor:
        feature = walk.deep(1)
        self._points = [*self._points[-1:], (walk.x, walk.timesteps.float(), feature)]
        return walk.head(walk.outer(feature, 1))

    def _cheap(self, walk: Walk) -> Tensor:
        walk.inputs(1)
        if self._left == 0:
            self._look(walk)
        self._left -= 1
        (x_before, time_before, before), (x_last, time_last, last) = self._points
        way = ((walk.timesteps.float() - time_before) / (time_last - time_before)).view(-1, 1, 1, 1)
        off = walk.x - torch.lerp(x_before, x_last, way)
        feature = torch.lerp(before, last, way) + (self._response @ _patches(off)).view_as(last)
        return walk.head(walk.outer(feature, 1))

    def _look(self, walk: Walk) -> None:
        ahead = min(self.gap, self.total - self._begun + 1)
        self._left = ahead
        self.ahead += 1
        (_, first), (x_second, second), (x, time) = self._inputs
        steps = ahead - 1
        bend = (time - 2 * second + first) / 2
        later = (time + steps * (time - second) + steps * (steps + 1) * bend).clamp(min=0)
        predicted = self._predicted(x_second, second, x, time, later)
        self._points = [self._points[-1], (predicted, later, walk.at(predicted, later).deep(1))]
        (x_before, _, before), (x_last, _, last) = self._points
        self._response = _fitted(x_last - x_before, last - before)

    def _predicted(self, x_before: Tensor, before: Tensor, x: Tensor, time: Tensor, later: Tensor) -> Tensor:
        sigma_before, sigma, sigma_later = (self._levels.sigma(at).view(-1, 1, 1, 1) for at in (before, time, later))
        scaled_before, scaled = x_before * (1 + sigma_before.square()).sqrt(), x * (1 + sigma.square()).sqrt()
        denoised = torch.lerp(scaled, scaled_before, sigma / (sigma - sigma_before))
        return torch.lerp(denoised, scaled, sigma_later / sigma) * (1 + sigma_later.square()).rsqrt()


def _patches(x: Tensor) -> Tensor:
    """Return the 3x3 surroundings of each pixel: (rows, surroundings, pixels)."""
    return functional.unfold(x, 3, padding=1)


def _fitted(moved: Tensor, change: Tensor) -> Tensor:
    """Return the matrix whose product with the surroundings in `moved` comes closest to `change`, row by row."""
    patches = _patches(moved)
    products = patches @ patches.mT
    ridge = RIDGE * products.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    products = products + ridge.view(-1, 1, 1) * torch.eye(products.shape[1], device=moved.device)
    found: Tensor = torch.linalg.solve(products, patches @ change.flatten(2).mT)
    return found.mT
