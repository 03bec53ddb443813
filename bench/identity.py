"""Does every picture get its own features where something else than a plain batch comes along?

On the demo's trained model. First table: a denoiser that hands the U-Net windows of 8 of the 12 pictures, as a video
extension does with long clips, at places that stay or that shift with the evaluation. Second table: prompts that
change in mid-run, [a:b:n], and that take turns, [a|b]. PSNR in dB to the same run uncached: mean (worst tenth).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.parts.report import mean_and_worst, row, table, written_on
from deepcache_ext import SamplingPass, Settings
from demo.pictures import psnr
from demo.samplers import SAMPLERS
from demo.tiny_model import Evaluate, Prompt, TinyModel

PICTURES, STEPS, GUIDANCE = 12, 20, 3.0
PLANS = {
    "auto, 2x": Settings(schedule="auto", speed_up=2.0),
    "uniform, N = 2": Settings(interval=2),
    "uniform, N = 3": Settings(interval=3),
}
SWITCHES = (5, 9, 12, 15)

Keys = Callable[[int], Sequence[Hashable] | None]
"""Takes an evaluation's number."""
Denoise = Callable[[int, Tensor, Tensor], Tensor]
"""Takes an evaluation's number, an input and its noise levels."""


def windows(model: TinyModel, pictures: int = PICTURES, *, shifting: bool) -> Denoise:
    """Return a denoiser that hands over two windows, which shift by one picture with each evaluation or not.

    Each has two thirds of the pictures.
    """
    prompts, window = model.prompts(pictures), 2 * pictures // 3

    def denoise(number: int, x: Tensor, sigma: Tensor) -> Tensor:
        total, times = torch.zeros_like(x), x.new_zeros(len(x), 1, 1, 1)
        for start in (0, pictures - window):
            first = start + number * shifting
            of = [(first + place) % pictures for place in range(window)]
            total[of] += model.denoiser([prompts[one] for one in of], GUIDANCE)(x[of], sigma[of])
            times[of] += 1
        return total / times

    return denoise


def prompted(model: TinyModel, in_force: Callable[[int], int], pictures: int = PICTURES) -> tuple[Denoise, Keys]:
    """Return a denoiser whose prompts are those of the number that is in force, and the keys of its rows."""
    prompts: list[Prompt] = model.prompts(2 * pictures)
    denoisers: list[Evaluate] = [model.denoiser(of, GUIDANCE) for of in (prompts[:pictures], prompts[pictures:])]

    def denoise(number: int, x: Tensor, sigma: Tensor) -> Tensor:
        return denoisers[in_force(number)](x, sigma)

    def keys(number: int) -> Sequence[Hashable]:
        conds: list[Hashable] = [("cond", picture, in_force(number)) for picture in range(pictures)]
        return [*conds, *(("uncond", picture) for picture in range(pictures))]

    return denoise, keys


def sampled(
    model: TinyModel,
    sampler: str,
    denoise: Denoise,
    settings: Settings | None = None,
    keys: Keys | None = None,
    *,
    pictures: int = PICTURES,
    steps: int = STEPS,
) -> tuple[Tensor, SamplingPass | None]:
    """Return the pictures, and the pass that cached them if there are settings."""
    of, number = SAMPLERS[sampler], -1
    run = None if settings is None else SamplingPass(
        model.unet, settings, of.evaluations(steps), sampler=of.kind, levels=model.levels
    )  # fmt: skip

    def evaluate(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        nonlocal number
        number += 1
        if run is not None and keys is not None:
            run.start_evaluation(keys=keys(number))
        return denoise(number, x, sigma)

    sigmas = of.sigmas(model, steps)
    torch.manual_seed(1)
    with torch.no_grad():
        start = model.noise(pictures, 1) * sigmas[0]
        if run is None:
            return model.decode(of.function(evaluate, start, sigmas, disable=True)), None
        with run:
            wrapped = evaluate if keys is not None else run.wrap(evaluate)
            return model.decode(of.function(wrapped, start, sigmas, disable=True)), run


def compared(
    model: TinyModel, sampler: str, denoise: Denoise, settings: Settings, keys: Keys | None, pictures: int, steps: int
) -> list[str]:
    """Return the closeness of a cached run, its full and reused evaluations, and the reason if there is one."""
    uncached, _ = sampled(model, sampler, denoise, pictures=pictures, steps=steps)
    cached, run = sampled(model, sampler, denoise, settings, keys, pictures=pictures, steps=steps)
    if run is None:
        raise RuntimeError("a run with settings has a pass")
    s = run.statistics
    return [mean_and_worst(psnr(cached, uncached)), f"{s.full} + {s.reused}", s.reason]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["Euler", "Euler a"])
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=[*PLANS])
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    pictures, steps = options.pictures, options.steps
    plans = {plan: PLANS[plan] for plan in options.plans}
    model = TinyModel()
    print(written_on())
    print(f"{pictures} pictures, {steps} steps, guidance {GUIDANCE:g}\n")
    print(table(["sampler", "plan", "windows", "PSNR", "full + reused", "reason"], []))
    for sampler in options.samplers:
        for plan, settings in plans.items():
            for name in ("fixed", "shifting"):
                denoise = windows(model, pictures, shifting=name == "shifting")
                found = compared(model, sampler, denoise, settings, None, pictures, steps)
                print(row([sampler, plan, name, *found]), flush=True)
    print()
    print(table(["sampler", "plan", "prompts", "PSNR", "full + reused", "reason"], []))
    in_force: dict[str, Callable[[int], int]] = {"a": lambda _: 0, "[a|b]": lambda number: number % 2}
    in_force |= {f"[a:b:{at}]": lambda number, at=at: int(number >= at) for at in SWITCHES if at < steps}  # type: ignore[misc]
    for sampler in options.samplers:
        for plan, settings in plans.items():
            for name, prompt in in_force.items():
                denoise, keys = prompted(model, prompt, pictures)
                print(
                    row([sampler, plan, name, *compared(model, sampler, denoise, settings, keys, pictures, steps)]),
                    flush=True,
                )


if __name__ == "__main__":
    main()
