"""What a kept feature has become since it was computed: on along a line in time, and with the input.

Along a run without added noise features move along smooth curves, so the next one lies about where the line through the
last two refreshes leads (TaylorSeer, arXiv 2503.06923, order 1; here in the U-Net's own timestep). Noise that a sampler
adds moves the input off any line, and the feature with it; so does a sampler with two stages, which evaluates the end
of a step and then the start of the next one at about the same timestep, but of another input. But the U-Net's input is
known on a reuse too. So the part of a feature's change that the line misses is predicted as a convolution over the part
of the input's change that the line misses, fitted by least squares at each refresh to what that refresh has just shown.
This second part has no source that we know of.

Both parts are scaled by what would have been best at the last refresh, from 0 to 1. Everything stays on the features'
device and nothing waits for it. Each part is worked out once for all rows of a call, since on a graphics card every
operation costs a launch, whatever its size; but nothing is summed over more than one row, so no row changes another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from deepcache_ext.features.denoised import SHARE, SHARE_OF_HELD
from deepcache_ext.features.per_row import PerRow, copy_of, never_zero, of_pixels, plus, within

FARTHEST = 2.0
"""The longest forecast, in distances between the two refreshes."""
SAMPLE = 4
"""The line's trust looks at one in this many rows and columns of a feature."""
PATCH = 3
"""Width and height of the convolution."""
ITERATIONS = 3
"""Of conjugate gradients, with which the fit is as good as the exact one and needs nothing but products."""
ITERATIONS_WITH_NOISE = 2
"""Where noise is added, with which the pictures are as close; Heun's are not, by up to 0.8 dB."""
RIDGE = 0.01
"""What the fit adds to its diagonal, in means of that diagonal."""
TINY = 1e-30
"""What is added to a sum of squares, so that it can be divided by."""

Kept = dict[str, Any]
"""What a predictor keeps of one refresh of some rows, by name: tensors of shape (rows, ...), or one number for all.

"feature" is the feature itself. Rows of which a predictor keeps the same names can be put together.
"""


class Predictor(Protocol):
    """Says what kept features have become. It sees all the rows of a call at once, and keeps nothing itself.

    A feature is of shape (rows, channels, height, width), `x`, the U-Net's input, of shape (rows, input channels, input
    height, input width), and `times`, its timesteps, of shape (rows,) or one for all of them. What is kept of `x` and
    `times`, which belong to the caller, is a copy; the feature is the predictor's own.
    """

    remembers: bool
    """Whether a refresh has to know the one before it."""
    share: float
    """How far a reuse on such a feature is best drawn to the denoised picture; see `features.denoised`."""

    def first(self, feature: Tensor, x: Tensor, times: PerRow) -> Kept:
        """Return what to keep of a refresh of rows of which nothing fitting was kept before."""

    def after(self, last: Kept, feature: Tensor, x: Tensor, times: PerRow) -> Kept:
        """Return what to keep of a refresh of rows of which `last` was kept, in whose memory it may be."""

    def expected(self, kept: Kept, x: Tensor, times: PerRow) -> Tensor:
        """Return the feature to expect at `x` and `times`: a new tensor, or the kept feature itself."""

    def between(self, kept: Kept, x: Tensor, times: PerRow) -> Tensor | None:
        """Return the feature at `x` and `times` between the last two refreshes; None if nothing better is known."""


class Held:
    """The feature of the last refresh, as DeepCache has it (arXiv 2312.00858)."""

    remembers = False
    share = SHARE_OF_HELD

    def first(self, feature: Tensor, _x: Tensor, _times: PerRow) -> Kept:
        return {"feature": feature}

    def after(self, _last: Kept, feature: Tensor, x: Tensor, times: PerRow) -> Kept:
        return self.first(feature, x, times)

    def expected(self, kept: Kept, _x: Tensor, _times: PerRow) -> Tensor:
        return _feature(kept)

    def between(self, _kept: Kept, _x: Tensor, _times: PerRow) -> None:
        return None


class Line:
    """The line in time through the last two refreshes, as far as it would have led to the last one.

    Before that is known it is trusted by half. Of the feature before the last one its difference to the last is kept.
    """

    remembers = True
    share = SHARE
    _first_trust = 0.5

    def first(self, feature: Tensor, _x: Tensor, times: PerRow) -> Kept:
        return {"feature": feature, "time": copy_of(times)}

    def after(self, last: Kept, feature: Tensor, x: Tensor, times: PerRow) -> Kept:
        now = self.first(feature, x, times)
        self._complete(last, now)
        return now

    def _complete(self, last: Kept, now: Kept) -> PerRow | None:
        """Complete what `first` keeps of a refresh, and return how far on its line it was, in distances of two.

        None where there was none yet. What is as large as a feature is worked out in the place of the one before.
        """
        run, way = now["time"] - last["time"], None
        now["change"] = torch.sub(now["feature"], last["feature"], out=last["feature"])
        now["trust"] = self._first_trust
        if "change" in last:
            way = within(run / last["run"], 0, FARTHEST)
            now["trust"] = _trust(last["change"], now["change"], way)
        now["run"] = never_zero(run)
        return way

    def expected(self, kept: Kept, x: Tensor, times: PerRow) -> Tensor:
        if "change" not in kept:
            return _feature(kept)
        return self._along(kept, x, reach(times, kept["time"], kept["run"]) * kept["trust"])

    def between(self, kept: Kept, x: Tensor, times: PerRow) -> Tensor | None:
        if "change" not in kept:
            return None
        return self._along(kept, x, within((times - kept["time"]) / kept["run"], -1, 0))

    def _along(self, kept: Kept, _x: Tensor, way: PerRow) -> Tensor:
        """Return the feature to expect `way` along each row's line."""
        return plus(kept["feature"], kept["change"], way)


class LineAndResponse(Line):
    """The line, on trial first, and the response to how far the input is off its own line.

    The response is a convolution: a matrix of shape (rows, channels, input channels * PATCH ** 2), fitted in so many
    `iterations`.
    """

    _first_trust = 0.0

    def __init__(self, iterations: int = ITERATIONS) -> None:
        self._iterations = iterations

    def first(self, feature: Tensor, x: Tensor, times: PerRow) -> Kept:
        return super().first(feature, x, times) | {"x": x.to(torch.float32, copy=True)}

    def _complete(self, last: Kept, now: Kept) -> PerRow | None:
        way = super()._complete(last, now)
        now["x change"] = moved = now["x"] - last["x"]
        missed = now["change"]
        if way is not None:
            way = way * now["trust"]
            missed = plus(missed, last["change"], way, sign=-1, out=last["change"])
            moved = plus(moved, last["x change"], way, sign=-1, out=last["x change"])
        with _own_precision(missed.device):
            products, answers, scale = _sums(moved, missed)
            trust: PerRow = 1.0
            if "response" in last:
                pair = torch.stack([last["response"] @ products, answers], dim=1)
                trust = _factor(_dot(last["response"], pair))
            now["response"] = _fit(products, answers, self._iterations)
            trusted = trust * scale
            trusted = trusted.view(-1, 1, 1) if isinstance(trusted, Tensor) else trusted
            now["trusted response"] = (now["response"] * trusted).to(missed.dtype)
        return way

    def _along(self, kept: Kept, x: Tensor, way: PerRow) -> Tensor:
        moved = plus(x.float() - kept["x"], kept["x change"], way, sign=-1)
        found = super()._along(kept, x, way)
        return _moved_by(found, kept["trusted response"], moved, out=found.flatten(2))


class Response(LineAndResponse):
    """The response to the input alone, for where noise moves the features and no line leads on to the next one.

    Between two refreshes it goes along the line, too. It is not checked, which has made no difference.
    """

    def _complete(self, last: Kept, now: Kept) -> None:
        now["run"] = never_zero(now["time"] - last["time"])
        now["change"] = torch.sub(now["feature"], last["feature"], out=last["feature"])
        now["x change"] = now["x"] - last["x"]
        with _own_precision(now["change"].device):
            products, answers, scale = _sums(now["x change"], now["change"])
            response = _fit(products, answers, self._iterations)
            now["trusted response"] = (response * scale).to(now["change"].dtype)

    def expected(self, kept: Kept, x: Tensor, _times: PerRow) -> Tensor:
        if "change" not in kept:
            return _feature(kept)
        return _moved_by(_feature(kept), kept["trusted response"], x.float() - kept["x"])


def usual_predictor(stages: int, *, noisy: bool, predicts_noise: bool) -> Predictor:
    """Return the predictor for runs with so many evaluations in a step, to which noise is added or not.

    The line of a network that predicts the velocity, and not the noise, leads somewhere even where noise is added; see
    docs/research.md.
    """
    if noisy and stages == 2:
        return Held()
    if noisy:
        return (Response if predicts_noise else LineAndResponse)(ITERATIONS_WITH_NOISE)
    return LineAndResponse() if stages == 2 else Line()


def _feature(kept: Kept) -> Tensor:
    feature: Tensor = kept["feature"]
    return feature


def reach(times: PerRow, last: PerRow, run: PerRow) -> PerRow:
    """Return how far `times` are beyond `last`, in the distances `run` between two refreshes; each is of the rows.

    0 where time runs backwards (Restart), or where both refreshes were at the same time (Heun's stages), so that `run`
    is infinite.
    """
    return within((times - last) / run, 0, FARTHEST)


def _trust(before: Tensor, now: Tensor, way: PerRow) -> Tensor:
    """Return the factors by which the change `before`, times `way`, would have come closest to the change `now`."""
    then, found = (change[..., ::SAMPLE, ::SAMPLE] for change in (before, now))
    pair = then.new_empty((len(then), 2, *then.shape[1:]), dtype=torch.float32)
    torch.mul(then, of_pixels(way), out=pair[:, 0])
    pair[:, 1] = found
    with _own_precision(pair.device):
        return _factor(_dot(pair[:, 0], pair))


def _factor(products: Tensor) -> Tensor:
    """Return the factors from 0 to 1, of shape (rows,), by which guesses come closest to what was found.

    `products`, of shape (rows, 2), are those of each guess with itself and with what was found. The factor is 1 where
    the guess is all 0, and 0 where one of them is not a number.
    """
    of_guess, of_both = products.add_(TINY).unbind(1)
    factor = (of_both / of_guess).clamp_(0, 1)
    return factor.masked_fill_(factor.isnan(), 0)


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


def _sums(moved: Tensor, missed: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return what a fit of the response of `missed` to `moved` needs, and by what the response is to be scaled.

    What it needs are the sums over all pixels of the products of inputs with inputs, and of outputs with inputs.
    """
    scale = math.prod(missed.shape[2:]) ** -0.75  # half precision holds neither sums over a feature nor means
    patches = _patches(moved * scale, missed)
    return patches @ patches.mT, (missed.flatten(2) @ patches.to(missed.dtype).mT).float(), scale


def _moved_by(feature: Tensor, response: Tensor, moved: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a feature moved by the response to an input that has `moved`."""
    with _own_precision(feature.device):
        patches = _patches(moved, feature).to(feature.dtype)
        return torch.baddbmm(feature.flatten(2), response, patches, out=out).view_as(feature)


def _patches(x: Tensor, feature: Tensor) -> Tensor:
    """Return the surroundings of each pixel of `x`, brought to the feature's size: (rows, surroundings, pixels)."""
    height, width = feature.shape[-2:]
    if x.shape[-2:] != feature.shape[-2:]:
        x = functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    windows = functional.pad(x, (PATCH // 2,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows.reshape(len(x), -1, height * width)


def _fit(products: Tensor, answers: Tensor, iterations: int) -> Tensor:
    """Return the matrices R for which R @ inputs comes closest to outputs, in least squares with a ridge.

    `products` are the inputs' with themselves, to which the ridge is added in place, and `answers` the outputs' with
    the inputs, of R's shape.
    """
    diagonal = products.diagonal(dim1=1, dim2=2)
    diagonal.add_(diagonal.mean(1, keepdim=True), alpha=RIDGE)
    found = rest = direction = answers
    length = _dot(rest, rest[:, None])
    for number in range(iterations):
        change = direction @ products
        step = (length / _dot(direction, change[:, None]).add_(TINY))[..., None]
        found = torch.addcmul(found, direction, step) if number else direction * step
        if number < iterations - 1:
            rest = torch.addcmul(rest, change, step, value=-1)
            previous, length = length, _dot(rest, rest[:, None])
            direction = torch.addcmul(rest, direction, (length / previous.add_(TINY))[..., None])
    return found


def _dot(one: Tensor, others: Tensor) -> Tensor:
    """Return the sums of products of `one`, of shape (rows, ...), with each of `others`: (rows, others)."""
    return (one.flatten(1)[:, None] @ others.flatten(2).mT)[:, 0]
