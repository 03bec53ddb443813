"""What is the best guess of a deep feature that is not computed?

Along uncached runs of the demo's trained model every second evaluation counts as a refresh, and each one in between is
guessed from the refreshes before it. Printed is the error of the guided noise prediction that a reuse would then make,
relative to the true one: mean over pictures and evaluations. It says nothing about what errors do to later ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.caches import Walk, spectrum_weights
from bench.report import row, table, written_on
from bench.runs import ALL_SAMPLERS
from deepcache_ext import NoiseLevels, forecast
from deepcache_ext.denoised import SHARE, Prior, drawn
from demo.tiny_model import UNCONDITIONAL, TinyModel

FIRST = 6
"""The first evaluation that is guessed: enough refreshes lie before it for every guess."""
LINE = "line, checked (ours without noise)"
RESPONSE = "line and response, checked"
DRAWN = "the same, drawn to the denoised picture held (ours with noise)"
DENOISED = "the denoised picture held"
GUIDANCE = "line, checked, with the last refresh's guidance"
OUTPUT = "the output itself, line"
SAMPLERS = ("Euler", "DPM++ 2M", "Euler a", "DPM++ 2M SDE")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of an uncached run; rows are the conds first, then the unconds."""

    index: int
    x: Tensor
    timesteps: Tensor
    feature: Tensor
    """Of depth 1."""
    eps: Tensor


Guess = Callable[[Sequence[Evaluation], Evaluation], Tensor]
"""Takes the refreshes, oldest first, and the evaluation to guess the feature, or the output, of."""


def record(model: TinyModel, sampler: str, steps: int, pictures: int, guidance: float) -> list[Evaluation]:
    """Return the evaluations of an uncached run."""
    found: list[Evaluation] = []
    features: list[Tensor] = []
    unet: Any = model.unet

    def note(_unet: Any, args: tuple[Tensor, ...], eps: Tensor) -> None:
        found.append(Evaluation(len(found), args[0].clone(), args[1].clone(), features.pop(), eps.clone()))

    handles = [
        unet.output_blocks[-2].register_forward_hook(lambda _block, _args, out: features.append(out.clone())),
        unet.register_forward_hook(note),
    ]
    ALL_SAMPLERS[sampler].sample(model, model.prompts(pictures), steps, guidance=guidance)
    for handle in handles:
        handle.remove()
    return found


def held(refreshes: Sequence[Evaluation], _now: Evaluation) -> Tensor:
    """The last feature."""
    return refreshes[-1].feature


def line(refreshes: Sequence[Evaluation], now: Evaluation, share: float = 1.0) -> Tensor:
    """On the line through the last two in time, `share` of the way."""
    return _through(refreshes[-2:], now, share)


def quadratic(refreshes: Sequence[Evaluation], now: Evaluation) -> Tensor:
    """On the parabola through the last three in time."""
    return _through(refreshes[-3:], now)


def chebyshev(refreshes: Sequence[Evaluation], now: Evaluation, total: int) -> Tensor:
    """Spectrum's forecast, from all of them."""
    weights = spectrum_weights([refresh.index for refresh in refreshes], now.index, total)
    features = torch.stack([refresh.feature for refresh in refreshes])
    return torch.einsum("n,n...->...", weights.to(features.dtype), features)


def followed(refreshes: Sequence[Evaluation], now: Evaluation, *, noisy: bool) -> Tensor:
    """What the extension forecasts."""
    rows = []
    for number in range(len(now.x)):
        one = slice(number, number + 1)
        kept = None
        for refresh in refreshes:
            new = refresh.feature[one], refresh.x[one], refresh.timesteps[one]
            kept = forecast.first(*new, noisy=noisy) if kept is None else forecast.after(kept, *new, noisy=noisy)
        rows.append(kept)
    return forecast.expected([row for row in rows if row is not None], now.x, now.timesteps)


def guesses(total: int) -> dict[str, Guess]:
    """Return every way to guess a feature."""
    return {
        "held": held,
        "line": line,
        "half the line": lambda refreshes, now: line(refreshes, now, 0.5),
        "parabola": quadratic,
        "Chebyshev, all refreshes": lambda refreshes, now: chebyshev(refreshes, now, total),
        LINE: lambda refreshes, now: followed(refreshes, now, noisy=False),
        RESPONSE: lambda refreshes, now: followed(refreshes, now, noisy=True),
    }


@torch.no_grad()
def errors(model: TinyModel, sampler: str, steps: int, pictures: int, guidance: float) -> dict[str, float]:
    """Return the mean relative error of the guided noise prediction, by guess."""
    run = record(model, sampler, steps, pictures, guidance)
    context = model.context([*model.prompts(pictures), *[UNCONDITIONAL] * pictures])
    levels = NoiseLevels(model.alphas_cumprod)
    found: dict[str, list[float]] = {}
    for now in run[FIRST + 1 :: 2]:
        refreshes = run[: now.index : 2]
        outputs = {
            name: _reuse(model.unet, now, context, guess(refreshes, now)) for name, guess in guesses(len(run)).items()
        }
        last = Prior(refreshes[-1].x, refreshes[-1].timesteps, refreshes[-1].eps)
        for name, share in ((DRAWN, SHARE), (DENOISED, 1.0)):
            outputs[name] = drawn(outputs[RESPONSE], now.x, now.timesteps, last, levels, share)
        uncond = outputs[LINE].chunk(2)[1]
        last_cond, last_uncond = refreshes[-1].eps.chunk(2)
        outputs[GUIDANCE] = torch.cat([uncond + last_cond - last_uncond, uncond])
        outputs[OUTPUT] = _through(refreshes[-2:], now, of="eps")
        for name, output in outputs.items():
            found.setdefault(name, []).append(_error(output, now.eps, guidance))
    return {name: sum(values) / len(values) for name, values in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    print(written_on())
    print(f"{options.steps} steps, {options.pictures} pictures, guidance {options.guidance:g}\n")
    model = TinyModel()
    columns = [errors(model, name, options.steps, options.pictures, options.guidance) for name in options.samplers]
    print(table(["guess", *options.samplers], []))
    for name in columns[0]:
        print(row([name, *(f"{column[name]:.4f}" for column in columns)]))


def _through(points: Sequence[Evaluation], now: Evaluation, share: float = 1.0, of: str = "feature") -> Tensor:
    """Return the polynomial in time through `points` at `now`, `share` of the way from the last of them."""
    last: Tensor = getattr(points[-1], of)
    at = [float(point.timesteps[0]) for point in points]
    time = float(now.timesteps[0])
    value = torch.zeros_like(last)
    for number, point in enumerate(points):
        others = [other for other in range(len(points)) if other != number]
        weight = 1.0
        for other in others:
            weight *= (time - at[other]) / (at[number] - at[other])
        value = value + weight * getattr(point, of)
    return last + share * (value - last)


def _reuse(unet: Any, now: Evaluation, context: Tensor, feature: Tensor) -> Tensor:
    walk = Walk(unet, now.x, now.timesteps, context)
    walk.inputs(1)
    return walk.head(walk.outer(feature, 1))


def _error(output: Tensor, eps: Tensor, guidance: float) -> float:
    guided, true = (uncond + guidance * (cond - uncond) for cond, uncond in (both.chunk(2) for both in (output, eps)))
    difference = (guided - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
    return float(difference.mean())


if __name__ == "__main__":
    main()
