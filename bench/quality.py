"""How close are the cached pictures to the uncached ones of the same seed, and for how much compute?

Sampled on the demo's trained model with classifier-free guidance; closeness is PSNR and relative L2 error to the
uncached picture. Compute is counted, as a fraction of the uncached run, with SD1.5's cost of a reuse at each depth
(bench/macs.py, attention included), since the small model's own blocks cost in other proportions.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.macs import fractions
from bench.parts.report import read_csv, row, save_figure, table, with_result, write_csv, written_on
from bench.parts.runs import ALL_SAMPLERS, Task
from deepcache_ext import Settings
from demo.pictures import psnr, relative_error
from demo.tiny_model import TinyModel

COST_MODEL = "SD1.5"
HEADINGS = ("sampler", "steps", "schedule", "N", "depth", "compute", "PSNR dB, median (worst)", "error, median (worst)")
DEFAULT_SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DDIM", "Heun", "UniPC", "PLMS")


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    sampler: str
    steps: int
    schedule: str
    interval: int
    depth: int
    compute: float
    psnr: float
    psnr_worst: float
    error: float
    error_worst: float

    @property
    def case(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.sampler, self.steps, self.schedule, self.interval, self.depth


def measure(
    model: TinyModel,
    name: str,
    steps: int,
    variants: Iterable[Settings],
    pictures: int,
    batch: int,
    guidance: float,
    *,
    paired: bool = True,
) -> Iterator[Result]:
    """Yield a result for each of `variants`, all against one uncached run.

    Unless `paired`, a second-order sampler is scheduled as if each of its evaluations were a step of its own.
    """
    task = Task(model, name, pictures, batch, guidance)
    reference = task.run(steps).pictures
    for settings in variants:
        run = task.run(steps, settings, paired=paired)
        closeness, error = psnr(run.pictures, reference), relative_error(run.pictures, reference)
        yield Result(
            name,
            steps,
            settings.schedule,
            settings.interval,
            settings.depth,
            run.compute(fractions(COST_MODEL)[settings.depth - 1]) / (run.full + run.reused),
            float(closeness.median()),
            float(closeness.min()),
            float(error.median()),
            float(error.max()),
        )


def variants(
    intervals: Iterable[int], depths: Iterable[int], schedules: Iterable[str], total: int, forecast: str = "off"
) -> list[Settings]:
    """Return the settings to compare; the non-uniform centre is the paper's 15 of 50, in proportion."""
    return [
        Settings(interval=interval, depth=depth, schedule=schedule, center=round(0.3 * total), forecast=forecast)
        for schedule, interval, depth in itertools.product(schedules, intervals, depths)
    ]


def main() -> None:
    """Print the table, write it as CSV, and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=DEFAULT_SAMPLERS)
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 30, 50])
    parser.add_argument("--intervals", nargs="+", type=int, default=[2, 3, 5])
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 3])
    parser.add_argument(
        "--schedules", nargs="+", choices=["uniform", "non-uniform"], default=["uniform", "non-uniform"]
    )
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="pictures sampled together (default 64)")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="a look in a minute: 8 pictures, two samplers, 20 steps")
    parser.add_argument("--out", type=Path, default=Path("docs/quality.png"), help="the picture; a .csv goes beside it")
    parser.add_argument(
        "--append",
        action="store_true",
        help="add to the .csv that is there, in place of the same cases, and draw all of it",
    )
    parser.add_argument(
        "--unpaired",
        action="store_true",
        help="schedule second-order samplers as if each evaluation were a step, to see what the pairing gains",
    )
    parser.add_argument("--forecast", choices=["on", "off"], default="off", help="off, as the paper has it, by default")
    options = parser.parse_args()
    if options.quick:
        options.samplers, options.steps, options.pictures = ("Euler", "DPM++ 2M"), [20], 8
        options.schedules, options.out = ["uniform"], Path("out/quality-quick.png")

    print(written_on())
    print(f"{options.pictures} pictures, guidance {options.guidance:g}, compute as on {COST_MODEL}", flush=True)
    print()
    print(table(HEADINGS, []), flush=True)
    model = TinyModel()
    results = read_csv(Result, options.out.with_suffix(".csv")) if options.append else []
    for name, steps in itertools.product(options.samplers, options.steps):
        total = ALL_SAMPLERS[name].evaluations(steps)
        settings = variants(options.intervals, options.depths, options.schedules, total, options.forecast)
        found = measure(
            model, name, steps, settings, options.pictures, options.batch, options.guidance, paired=not options.unpaired
        )
        for result in found:
            results = with_result(results, result)
            print(row(_cells(result)), flush=True)
    write_csv(results, options.out.with_suffix(".csv"))
    _draw(results, options.out)


def _cells(r: Result) -> list[str]:
    return [
        r.sampler, f"{r.steps}", r.schedule, f"{r.interval}", f"{r.depth}", f"{100 * r.compute:.0f} %",
        f"{r.psnr:.1f} ({r.psnr_worst:.1f})", f"{r.error:.3f} ({r.error_worst:.3f})",
    ]  # fmt: skip


def _draw(results: list[Result], out: Path) -> None:
    depth = results[0].depth
    drawn = [r for r in results if r.schedule == results[0].schedule and r.depth == depth]
    samplers = list(dict.fromkeys(r.sampler for r in drawn))
    colors = dict(zip(samplers, itertools.cycle(f"C{number}" for number in range(10)), strict=False))

    def plot(axes: Any, steps: int) -> None:
        for name in samplers:
            points = sorted((r.compute, r.psnr) for r in drawn if (r.sampler, r.steps) == (name, steps))
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colors[name], label=name)
        axes.set(
            title=f"{steps} steps, {drawn[0].schedule}, depth {depth}",
            xlabel="compute, fraction of the uncached run",
            ylabel="PSNR to the uncached picture, dB, median",
        )
        axes.legend(fontsize="small")

    save_figure(out, *(functools.partial(plot, steps=steps) for steps in sorted({r.steps for r in drawn})))


if __name__ == "__main__":
    main()
