"""What is the best guess of a deep feature that is not computed?

Along uncached runs of the demo's trained model every second evaluation counts as a refresh, with two stages in a step
the second ones, and each one in between is guessed from the refreshes before it. The first table has the error of the
guided noise prediction that a reuse would then make, relative to the true one: mean over pictures and evaluations. It
says nothing about what errors do to later ones; the second table does: PSNR in dB to the uncached picture, mean (worst
tenth), of the schedule "auto" with each predictor.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.parts.report import mean_and_worst, row, table, written_on
from bench.parts.runs import ALL_SAMPLERS, Task
from bench.parts.walk import Walk
from bench.research.candidates import Chebyshev, Polynomial
from deepcache_ext import NoiseLevels, Settings
from deepcache_ext.features.denoised import SHARE, drawn, remembered
from deepcache_ext.features.forecast import Held, Line, LineAndResponse, Predictor
from demo.pictures import psnr
from demo.tiny_model import UNCONDITIONAL, TinyModel

FIRST = 6
"""The first evaluation that is guessed: enough refreshes lie before it for every guess."""
LINE = "line, checked (ours with one stage and no noise)"
RESPONSE = "line and response, checked (ours with two stages and no noise)"
DRAWN = "the same, drawn to the denoised picture held (ours with one stage and noise)"
DENOISED = "the denoised picture held"
GUIDANCE = "line, checked, with the last refresh's guidance"
OUTPUT = "the output itself, line"
SAMPLERS = ("Euler", "DPM++ 2M", "Heun", "Euler a", "DPM++ 2M SDE")
SPEED_UPS = (1.85, 2.5)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of an uncached run; rows are the conds first, then the unconds."""

    index: int
    x: Tensor
    timesteps: Tensor
    feature: Tensor
    """Of depth 1."""
    eps: Tensor


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


def predictors() -> dict[str, Predictor]:
    """Return every way to predict a feature from its refreshes."""
    return {
        "held": Held(),
        "line": Polynomial(1),
        "half the line": Polynomial(1, 0.5),
        "parabola": Polynomial(2),
        "Chebyshev, all refreshes": Chebyshev(),
        LINE: Line(),
        RESPONSE: LineAndResponse(),
    }


def predicted(predictor: Predictor, refreshes: Sequence[Evaluation], now: Evaluation) -> Tensor:
    """Return the feature that `predictor` expects of evaluation `now` after `refreshes`, oldest first."""
    first, *later = [(refresh.feature.clone(), refresh.x, refresh.timesteps) for refresh in refreshes]
    kept = predictor.first(*first)
    for refresh in later:
        kept = predictor.after(kept, *refresh)
    return predictor.expected(kept, now.x, now.timesteps)


def pictures(model: TinyModel, sampler: str, steps: int, count: int, guidance: float) -> dict[str, dict[float, str]]:
    """Return the PSNR of pictures cached by the schedule "auto", by predictor and speed-up: mean (worst tenth)."""
    task = Task(model, sampler, count, min(count, 16), guidance)
    reference = task.run(steps).pictures
    found: dict[str, dict[float, str]] = {}
    for name, predictor in predictors().items():
        for speed_up in SPEED_UPS:
            run = task.run(steps, Settings(schedule="auto", speed_up=speed_up), predictor=predictor)
            found.setdefault(name, {})[speed_up] = mean_and_worst(psnr(run.pictures, reference))
    return found


@torch.no_grad()
def errors(model: TinyModel, sampler: str, steps: int, pictures: int, guidance: float) -> dict[str, float]:
    """Return the mean relative error of the guided noise prediction, by guess."""
    run = record(model, sampler, steps, pictures, guidance)
    context = model.context([*model.prompts(pictures), *[UNCONDITIONAL] * pictures])
    levels = NoiseLevels(model.alphas_cumprod)
    found: dict[str, list[float]] = {}
    for now in run[FIRST + ALL_SAMPLERS[sampler].kind.stages :: 2]:
        refreshes = run[(now.index + 1) % 2 : now.index : 2]
        outputs = {
            name: _reuse(model.unet, now, context, predicted(predictor, refreshes, now))
            for name, predictor in predictors().items()
        }
        then, scales = refreshes[-1], levels.scales(now.timesteps)
        for name, share in ((DRAWN, SHARE), (DENOISED, 1.0)):
            last = remembered(then.x, levels.scales(then.timesteps), then.eps, share)
            outputs[name] = drawn(outputs[RESPONSE], now.x, scales, last)
        uncond = outputs[LINE].chunk(2)[1]
        last_cond, last_uncond = refreshes[-1].eps.chunk(2)
        outputs[GUIDANCE] = torch.cat([uncond + last_cond - last_uncond, uncond])
        weights = Polynomial(1).weights([float(one.timesteps[0]) for one in refreshes[-2:]], float(now.timesteps[0]))
        outputs[OUTPUT] = torch.lerp(refreshes[-2].eps, refreshes[-1].eps, float(weights[1]))
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
        print(row([name, *(f"{column[name]:.4f}" for column in columns)]), flush=True)
    print()
    cases = [f"{name}, {speed_up:g}x" for name in options.samplers for speed_up in SPEED_UPS]
    print(table(["predictor", *cases], []), flush=True)
    found = [pictures(model, name, options.steps, options.pictures, options.guidance) for name in options.samplers]
    for name in predictors():
        print(row([name, *(of_sampler[name][speed_up] for of_sampler in found for speed_up in SPEED_UPS)]))


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
