"""The other training-free caches (bench/research/caches.py, bench/research/look_ahead.py), brought to a wanted compute.

A rule with a threshold gets the one that brings its first batch to that compute; the rest of its parameters are as
published. It decides once per evaluation for the whole batch, by the row that changed most, so the larger the batch,
the more it computes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from bench.parts.runs import ALL_SAMPLERS, Run, Task
from bench.parts.walk import share
from bench.research.caches import (
    AccumulatedChange,
    EasyCache,
    FirstBlockCache,
    OutputExtrapolation,
    Rival,
    Spectrum,
    is_full,
)
from bench.research.look_ahead import LookAhead
from deepcache_ext import NoiseLevels

COST_MODEL = "SD1.5"
TOLERANCE = 0.5
"""How close to the wanted compute is close enough, in full evaluations: a batch makes a whole number of them."""

Make = Callable[[nn.Module, int], Rival]
"""Takes the U-Net and the number of evaluations."""
Parts = tuple[int, int]
"""The input blocks that an evaluation which reuses runs, and the output blocks; see `bench.parts.walk.share`."""


@dataclass(frozen=True)
class Entry:
    """A rival with its parameters."""

    name: str
    parameter: str
    parts: Parts
    make: Make


@dataclass(frozen=True)
class Contender:
    """A rival with one parameter to tune between `low` and `high`."""

    name: str
    parameter: str
    parts: Parts
    make: Callable[[float], Make]
    low: float = 0.01
    high: float = 3.0

    def at(self, value: float) -> Entry:
        """Return the rival with that parameter."""
        return Entry(self.name, f"{self.parameter} = {value:.3g}", self.parts, self.make(value))


ACCUMULATED, EASY, FIRST_BLOCK, SPECTRUM = "accumulated change", "EasyCache", "First-Block Cache", "Spectrum"
EXTRAPOLATION, BY_TIME, AHEAD = "output extrapolation", "output extrapolation, by time", "look-ahead"
NAMES = (ACCUMULATED, EASY, FIRST_BLOCK, EXTRAPOLATION, BY_TIME, SPECTRUM, AHEAD)


def contenders() -> list[Contender]:
    """Return the rivals that one parameter brings to a wanted compute."""

    def tunable(cache: Callable[..., Rival], name: str, parts: Parts) -> Callable[[float], Make]:
        probe = share(COST_MODEL, *parts)
        return lambda value: functools.partial(cache, probe=probe, **{name: value})

    def contender(name: str, cache: Callable[..., Rival], parameter: str, parts: Parts, *ends: float) -> Contender:
        return Contender(name, parameter, parts, tunable(cache, parameter, parts), *ends)

    return [
        contender(ACCUMULATED, AccumulatedChange, "tau", (2, 1)),
        contender(EASY, EasyCache, "tau", (0, 0)),
        contender(FIRST_BLOCK, FirstBlockCache, "tau", (2, 0)),
        contender(SPECTRUM, Spectrum, "flex", (0, 0), 0.05, 4.0),
    ]


def fixed(total: int, wanted: float, levels: NoiseLevels) -> Iterator[Entry]:
    """Yield each rival without such a parameter, with the first of its schedules whose compute is about `wanted`."""
    reuse = share(COST_MODEL, 1, 1)
    for gap in (4, 5, 3, 6):
        costs = {w: w + math.ceil((total - w) / gap) + (total - w) * reuse for w in range(3, total)}
        warm = _closest(costs, wanted)
        if warm is not None:
            ahead = functools.partial(LookAhead, gap=gap, warm=warm, levels=levels, probe=reuse)
            yield Entry(AHEAD, f"1:{gap}, warm {warm}", (1, 1), ahead)
            break
    for skipped in (2, 1, 3):
        warm = _closest({w: sum(is_full(i, skipped, w) for i in range(total)) for w in range(2, total)}, wanted)
        if warm is not None:
            for name in (EXTRAPOLATION, BY_TIME):
                make = functools.partial(OutputExtrapolation, skipped=skipped, warm=warm, by_time=name == BY_TIME)
                yield Entry(name, f"1:{skipped}, warm {warm}", (0, 0), make)
            break


def entries(names: Sequence[str], task: Task, steps: int, wanted: float) -> Iterator[Entry]:
    """Yield the rivals of those names at a compute of about `wanted` full evaluations, tuned on the first batch.

    Looking ahead is for samplers that evaluate once in a step: it takes every evaluation for a later one.
    """
    few = replace(task, pictures=min(task.pictures, task.batch))
    sampler = ALL_SAMPLERS[task.sampler]
    total = sampler.evaluations(steps)
    for entry in fixed(total, wanted, NoiseLevels(task.model.alphas_cumprod)):
        if entry.name in names and (entry.name != AHEAD or sampler.kind.stages == 1):
            yield entry
    for contender in contenders():
        if contender.name not in names:
            continue

        def compute_at(value: float, contender: Contender = contender) -> float:
            return sample(few, steps, contender.make(value)).compute(share(COST_MODEL, *contender.parts))

        yield contender.at(tuned(compute_at, wanted, contender.low, contender.high))


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


def sample(task: Task, steps: int, make: Make) -> Run:
    """Sample `task` with a rival; evaluations are means over the batches, those made ahead count as full ones."""
    sampler = ALL_SAMPLERS[task.sampler]
    prompts = task.model.prompts(task.pictures)
    made, runs = [], []
    for first in range(0, task.pictures, task.batch):
        part = prompts[first : first + task.batch]
        options = {"guidance": task.guidance, "seed": task.seed + first}
        with make(task.model.unet, sampler.evaluations(steps)) as run:
            made.append(sampler.sample(task.model, part, steps, wrap=run.wrap, **options))  # type: ignore[arg-type]
        runs.append(run)
    full = sum(run.compute - run.reused * run.probe for run in runs) / len(runs)
    return Run(torch.cat(made), full, sum(run.reused for run in runs) / len(runs))


def _closest(costs: dict[int, float], wanted: float) -> int | None:
    closest = min(costs, key=lambda key: abs(costs[key] - wanted))
    return closest if abs(costs[closest] - wanted) < TOLERANCE else None
