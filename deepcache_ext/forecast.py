"""What a kept feature has become since it was computed: on along a line in time, and with the input.

Along a run without added noise features move along smooth curves, so the next one lies about where the line through the
last two refreshes leads (TaylorSeer, arXiv 2503.06923, order 1; here in the U-Net's own timestep). Noise that a sampler
adds moves the input off any line, and the feature with it; so does a sampler with two stages, which evaluates the end
of a step and then the start of the next one at about the same timestep, but of another input. But the U-Net's input is
known on a reuse too. So the part of a feature's change that the line misses is predicted as a convolution over the part
of the input's change that the line misses, fitted by least squares at each refresh to what that refresh has just shown.
This second part has no source that we know of.

Both parts are scaled by what would have been best at the last refresh, from 0 to 1. Everything stays on the features'
device, is done row by row, and nothing waits for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from deepcache_ext.denoised import SHARE, SHARE_OF_HELD

FARTHEST = 2.0
"""The longest forecast, in distances between the two refreshes."""
SAMPLE = 4
"""The line's trust looks at one in this many rows and columns of a feature."""
PATCH = 3
"""Width and height of the convolution."""
ITERATIONS = 3
"""Of conjugate gradients, with which the fit is as good as the exact one and needs nothing but products."""
RIDGE = 0.01
"""What the fit adds to its diagonal, in means of that diagonal."""


@dataclass(frozen=True)
class Kept:
    """One row's feature as of one refresh, and what is known about how it changes."""

    feature: Tensor
    """Of shape (1, channels, height, width)."""
    x: Tensor
    """The U-Net's input, of shape (1, input channels, height, width)."""
    time: Tensor
    """The U-Net's timestep, of shape (1,)."""
    trust: Tensor
    """By what to multiply the way along the line, of shape (1,)."""
    before: Kept | None = None
    """The refresh before; None if nothing that fits is kept of it, or if the predictor needs no more."""
    response: Tensor | None = None
    """The convolution, of shape (1, channels, input channels * PATCH ** 2); None before anything could be fitted."""
    response_trust: Tensor | None = None
    """By what to multiply it, of shape (1,)."""

    def refreshes(self) -> Iterator[Kept]:
        """Yield this refresh, and as many of those before it as are kept, the newest first."""
        one: Kept | None = self
        while one is not None:
            yield one
            one = one.before


class Predictor(Protocol):
    """Says what a kept feature has become. It sees one row at a time, and keeps nothing itself."""

    remembers: bool
    """Whether a refresh has to know the one before it."""
    share: float
    """How far a reuse on such a feature is best drawn to the denoised picture; see `deepcache_ext.denoised`."""

    def first(self, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        """Return what to keep of a refresh of a row, where nothing fitting was kept before; shapes as in `Kept`."""

    def after(self, last: Kept, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        """Return what to keep of a refresh of a row of which `last` was kept."""

    def expected(self, kept: Sequence[Kept], x: Tensor, times: Tensor) -> Tensor:
        """Return the feature to expect at the U-Net's input `x`, of shape (rows, ...), and `times`, of shape (rows,).

        `kept` has what was kept of each row.
        """


class Held:
    """The feature of the last refresh, as DeepCache has it (arXiv 2312.00858)."""

    remembers = False
    share = SHARE_OF_HELD

    def first(self, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        return Kept(feature, x, time, torch.zeros(1, device=feature.device))

    def after(self, _last: Kept, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        return self.first(feature, x, time)

    def expected(self, kept: Sequence[Kept], _x: Tensor, _times: Tensor) -> Tensor:
        return torch.cat([row.feature for row in kept])


class Line:
    """The line in time through the last two refreshes, as far as it would have led to the last one.

    Before that is known it is trusted by half.
    """

    remembers = True
    share = SHARE
    _first_trust = 0.5

    def first(self, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        return Kept(feature, x, time, torch.full((1,), self._first_trust, device=feature.device))

    def after(self, last: Kept, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        trust = last.trust
        if last.before is not None:
            way = reach(time, last.time, last.before.time)
            trust = _trust(last.before.feature, last.feature, feature, way)
        return Kept(feature, x, time, trust, replace(last, before=None))

    def expected(self, kept: Sequence[Kept], x: Tensor, times: Tensor) -> Tensor:
        if all(row.before is None for row in kept):
            return torch.cat([row.feature for row in kept])
        return self._along(kept, x, _way(kept, times))

    def _along(self, kept: Sequence[Kept], _x: Tensor, way: Tensor) -> Tensor:
        """Return the feature to expect `way` along each row's line, of shape (rows,)."""
        before, last = (torch.cat([row.feature for row in rows]) for rows in (_earlier(kept), kept))
        return _on_line(before, last, way)


class LineAndResponse(Line):
    """The line, on trial first, and the response to how far the input is off its own line."""

    _first_trust = 0.0

    def after(self, last: Kept, feature: Tensor, x: Tensor, time: Tensor) -> Kept:
        now = super().after(last, feature, x, time)
        earlier = last.before or last
        way = now.trust * reach(time, last.time, earlier.time)
        with _own_precision(feature.device):
            missed = _flat(feature) - _flat(_on_line(earlier.feature, last.feature, way))
            moved = _patches(x.float() - _on_line(earlier.x.float(), last.x.float(), way), feature)
            trust = torch.ones_like(now.trust)
            if last.response is not None:
                trust = _scale(last.response.float() @ moved, missed)
            return replace(now, response=_fit(moved, missed).to(feature.dtype), response_trust=trust)

    def _along(self, kept: Sequence[Kept], x: Tensor, way: Tensor) -> Tensor:
        found = super()._along(kept, x, way)
        before, last = (torch.cat([row.x for row in rows]).float() for rows in (_earlier(kept), kept))
        patches = _patches(x.float() - _on_line(before, last, way), found).to(found.dtype)
        response = torch.cat([_scaled_response(row, patches.shape[1]) for row in kept])
        with _own_precision(found.device):
            return torch.baddbmm(found.flatten(2), response, patches).view_as(found)


def reach(time: Tensor, last: Tensor, before: Tensor) -> Tensor:
    """Return how far `time` is beyond `last`, in distances from `before` to `last`; all of shape (rows,).

    0 where time runs backwards (Restart), or where both refreshes were at the same time (Heun's stages).
    """
    time, last, before = time.float(), last.float(), before.float()
    run = last - before
    far = (time - last) / torch.where(run == 0, torch.ones_like(run), run)
    return torch.where(run == 0, torch.zeros_like(run), far.clamp(0, FARTHEST))


def _earlier(kept: Sequence[Kept]) -> list[Kept]:
    """Return the refresh before the last of each row, the last itself where there is none."""
    return [row.before or row for row in kept]


def _way(kept: Sequence[Kept], times: Tensor) -> Tensor:
    """Return how far along each row's line to go to `times`, of shape (rows,): trusted parts of the line's length."""
    last, before = (torch.cat([row.time for row in rows]) for rows in (kept, _earlier(kept)))
    return reach(times, last, before) * torch.cat([row.trust for row in kept])


def _on_line(before: Tensor, last: Tensor, way: Tensor) -> Tensor:
    return torch.addcmul(last, last - before, way.to(last.dtype).view(-1, 1, 1, 1))


def _trust(before: Tensor, last: Tensor, new: Tensor, way: Tensor) -> Tensor:
    """Return the factor from 0 to 1 with which a forecast of `new` would have come closest; 1 where nothing moved."""
    one, two, three = (feature[..., ::SAMPLE, ::SAMPLE].float() for feature in (before, last, new))
    return _scale((two - one) * way.view(-1, 1, 1, 1), three - two)


def _scale(guess: Tensor, found: Tensor) -> Tensor:
    """Return the factor from 0 to 1, of shape (1,), by which `guess` comes closest to `found`; 1 if it is all 0."""
    length = guess.square().sum()
    best = _over((guess * found).sum(), length).clamp(0, 1)
    return torch.where(length == 0, torch.ones_like(best), best).view(1)


def _own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a host's autocast does not round what is summed over a whole feature."""
    if device.type in {"cpu", "cuda", "xpu"}:
        return torch.autocast(device.type, enabled=False)
    if device.type == "privateuseone" and hasattr(torch, "dml"):
        return _without_directml_autocast(torch.dml)
    return nullcontext()


@contextmanager
def _without_directml_autocast(dml: Any) -> Iterator[None]:
    """Have the AMD fork's own autocast for DirectML, which wraps `@` and baddbmm, cast nothing."""
    enabled, dml.is_autocast_enabled = dml.is_autocast_enabled, False
    try:
        yield
    finally:
        dml.is_autocast_enabled = enabled


def _flat(feature: Tensor) -> Tensor:
    return feature.float().flatten(2)


def _patches(x: Tensor, feature: Tensor) -> Tensor:
    """Return the surroundings of each pixel of `x`, brought to the feature's size: (rows, surroundings, pixels)."""
    height, width = feature.shape[-2:]
    if x.shape[-2:] != feature.shape[-2:]:
        x = functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    padded = functional.pad(x, (PATCH // 2,) * 4)
    offsets = itertools.product(range(PATCH), repeat=2)
    shifts = [padded[..., down : down + height, along : along + width] for down, along in offsets]
    return torch.cat(shifts, dim=1).flatten(2)


def _fit(moved: Tensor, missed: Tensor) -> Tensor:
    """Return the matrix R for which R @ moved comes closest to `missed`, in least squares with a ridge."""
    products = moved @ moved.mT
    diagonal = products.diagonal(dim1=1, dim2=2)
    products = products + torch.diag_embed((RIDGE * diagonal.mean(1, keepdim=True)).expand_as(diagonal))
    rest = moved @ missed.mT
    found, direction, length = torch.zeros_like(rest), rest, rest.square().sum()
    for _ in range(ITERATIONS):
        change = products @ direction
        step = _over(length, (direction * change).sum())
        found, rest = found + step * direction, rest - step * change
        length, previous = rest.square().sum(), length
        direction = rest + _over(length, previous) * direction
    return found.mT


def _over(one: Tensor, other: Tensor) -> Tensor:
    """Return one / other, and 0 where `other` is not above 0 or the quotient is not a number."""
    found = one / torch.where(other > 0, other, torch.ones_like(other))
    return torch.where((other > 0) & ~found.isnan(), found, torch.zeros_like(found))


def _scaled_response(row: Kept, surroundings: int) -> Tensor:
    if row.response is None or row.response_trust is None:
        return row.feature.new_zeros(1, row.feature.shape[1], surroundings)
    return row.response * row.response_trust.to(row.response.dtype)
