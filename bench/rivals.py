"""DeepCache against other training-free caches at the same compute (bench/caches.py).

Sampled on the demo's trained model as in bench/closeness.py: PSNR to the uncached picture of the same seed and all
steps, mean over the pictures and mean of the worst tenth. Compute counts what an evaluation really runs, as a share of
a full one on SD1.5 (`share`). A rule with a threshold gets the threshold that brings its first batch to DeepCache's
compute; the rest of its parameters are as published. It decides once per evaluation for the whole batch, by the row
that changed most, so the larger the batch, the more it computes.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.caches import (
    AccumulatedChange,
    EasyCache,
    FirstBlockCache,
    OutputExtrapolation,
    Rival,
    Spectrum,
    is_full,
    share,
)
from bench.look_ahead import LookAhead
from bench.report import row, table, written_on
from bench.runs import ALL_SAMPLERS, Task
from deepcache_ext import NoiseLevels, Settings
from demo.pictures import psnr
from demo.tiny_model import TinyModel

COST_MODEL = "SD1.5"
HEADINGS = ("sampler", "method", "parameter", "full", "speed-up", "PSNR dB, mean (worst tenth)")
SAMPLERS = ("Euler", "DPM++ 2M", "Euler a")
TOLERANCE = 0.5
"""How close to the wanted compute is close enough, in full evaluations: a batch makes a whole number of them."""


def tuned(compute_at: Callable[[float], float], wanted: float, low: float, high: float, runs: int = 6) -> float:
    """Return the parameter between `low` and `high` at which the compute comes closest to `wanted`.

    `compute_at` gives the compute of a run in full evaluations and falls as the parameter grows. At most `runs` of them
    are made, each at the geometric mean of what is left; one within `TOLERANCE` is taken at once.
    """
    tried = []
    for _ in range(runs):
        middle = math.sqrt(low * high)
        compute = compute_at(middle)
        tried.append((abs(compute - wanted), middle))
        if tried[-1][0] <= TOLERANCE:
            break
        low, high = (middle, high) if compute > wanted else (low, middle)
    return min(tried)[1]


Make = Callable[[nn.Module, int], Rival]
"""Takes the U-Net and the number of evaluations."""


def sample(task: Task, steps: int, make: Make) -> tuple[Tensor, float, float]:
    """Sample `task` with a rival.

    Returns RGB from 0 to 1 of shape (pictures, 3, height, width), the full evaluations of a run, and its compute, both
    means over the batches.
    """
    sampler = ALL_SAMPLERS[task.sampler]
    prompts = task.model.prompts(task.pictures)
    made, runs = [], []
    for first in range(0, task.pictures, task.batch):
        with make(task.model.unet, sampler.evaluations(steps)) as run:
            made.append(
                sampler.sample(
                    task.model,
                    prompts[first : first + task.batch],
                    steps,
                    guidance=task.guidance,
                    seed=1000 + first,
                    wrap=run.wrap,
                )
            )
        runs.append(run)
    return torch.cat(made), sum(run.full for run in runs) / len(runs), sum(run.compute for run in runs) / len(runs)


@dataclass(frozen=True)
class Contender:
    """A rival with one parameter to tune between `low` and `high`."""

    name: str
    parameter: str
    make: Callable[[float], Make]
    low: float = 0.01
    high: float = 3.0


def contenders() -> list[Contender]:
    """Return the rivals that a parameter brings to a wanted compute."""
    head, conv, probe, first = (share(COST_MODEL, *parts) for parts in ((0, 0), (1, 1), (2, 1), (2, 0)))
    by_conv = functools.partial(AccumulatedChange, probe=conv, blocks=1)
    by_block = functools.partial(AccumulatedChange, probe=probe)
    return [
        Contender("accumulated change, convolution", "tau", lambda tau: functools.partial(by_conv, tau=tau)),
        Contender("accumulated change, first block", "tau", lambda tau: functools.partial(by_block, tau=tau)),
        Contender("EasyCache", "tau", lambda tau: functools.partial(EasyCache, tau=tau)),
        Contender("First-Block Cache", "tau", lambda tau: functools.partial(FirstBlockCache, tau=tau, probe=first)),
        Contender("Spectrum", "flex", lambda flex: functools.partial(Spectrum, flex=flex, probe=head), 0.05, 4.0),
    ]


def fixed(total: int, wanted: float, levels: NoiseLevels) -> Iterator[tuple[str, str, Make]]:
    """Yield the name, the parameters and the maker of each fixed schedule whose compute can be about `wanted`."""
    reuse = share(COST_MODEL, 1, 1)
    for gap in range(2, 7):
        costs = {w: w + math.ceil((total - w) / gap) + (total - w) * reuse for w in range(3, total)}
        warm = min(costs, key=lambda warm: abs(costs[warm] - wanted))
        if abs(costs[warm] - wanted) < TOLERANCE:
            ahead = functools.partial(LookAhead, gap=gap, warm=warm, levels=levels, probe=reuse)
            yield "look-ahead", f"1:{gap}, warm {warm}", ahead
    for by_time, skipped in itertools.product((False, True), (1, 2, 3)):
        counts = {warm: sum(is_full(i, skipped, warm) for i in range(total)) for warm in range(2, total)}
        warm = min(counts, key=lambda warm: abs(counts[warm] - wanted))
        if abs(counts[warm] - wanted) < TOLERANCE:
            name = f"output extrapolation{', by time' if by_time else ''}"
            make = functools.partial(OutputExtrapolation, skipped=skipped, warm=warm, by_time=by_time)
            yield name, f"1:{skipped}, warm {warm}", make


def _cells(sampler: str, method: str, parameter: str, full: float, speed_up: float, found: Tensor) -> list[str]:
    worst = float(found.sort().values[: max(1, len(found) // 10)].mean())
    return [sampler, method, parameter, f"{full:.1f}", f"{speed_up:.2f}x", f"{found.mean():.1f} ({worst:.1f})"]


def compare(task: Task, steps: int, interval: int) -> Iterator[list[str]]:
    """Yield the cells of each method at the compute of DeepCache 1:N, tuned on the first batch."""
    few = replace(task, pictures=min(task.pictures, task.batch))
    reference = task.run(steps).pictures
    total = ALL_SAMPLERS[task.sampler].evaluations(steps)
    reuse = share(COST_MODEL, 1, 1)
    wanted = 0.0
    ours = {
        "DeepCache, auto": Settings(schedule="auto", speed_up=interval / (1 + (interval - 1) * reuse)),
        "DeepCache, forecast": Settings(interval=interval, schedule="uniform"),
        "DeepCache": Settings(interval=interval, schedule="uniform", forecast="off"),
    }
    for name, settings in ours.items():
        run = task.run(steps, settings)
        wanted = run.compute(reuse)
        found = psnr(run.pictures, reference)
        yield _cells(task.sampler, name, f"N = {interval}", run.full, total / wanted, found)
    makers = list(fixed(total, wanted, NoiseLevels(task.model.alphas_cumprod)))
    for contender in contenders():

        def compute_at(value: float, contender: Contender = contender) -> float:
            return sample(few, steps, contender.make(value))[2]

        value = tuned(compute_at, wanted, contender.low, contender.high)
        makers.append((contender.name, f"{contender.parameter} = {value:.3g}", contender.make(value)))
    for name, parameter, make in makers:
        pictures, full, compute = sample(task, steps, make)
        yield _cells(task.sampler, name, parameter, full, total / compute, psnr(pictures, reference))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--intervals", nargs="+", type=int, default=[2, 3], help="N of DeepCache; sets the compute")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4, help="pictures sampled and decided together (default 4)")
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    print(written_on())
    print(f"{options.pictures} pictures, guidance {options.guidance:g}, compute as on {COST_MODEL}\n")
    print(table(HEADINGS, []), flush=True)
    model = TinyModel()
    for name, interval in itertools.product(options.samplers, options.intervals):
        task = Task(model, name, options.pictures, options.batch, options.guidance)
        for cells in compare(task, options.steps, interval):
            print(row(cells), flush=True)


if __name__ == "__main__":
    main()
