"""Is a cached picture closer to the full one than fewer steps of the same sampler are, at the same compute?

Sampled on the demo's trained model with classifier-free guidance. Closeness is the PSNR and the structural similarity
to the uncached picture of the same seed and all steps: PSNR as the mean over the pictures and the mean of the worst
tenth. Compute is counted with SD1.5's cost of a reuse (bench/macs.py, attention included). Fewer steps are interpolated
between the two step counts on either side.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.macs import fractions
from bench.report import row, save_figure, table, written_on
from bench.runs import ALL_SAMPLERS, Task
from deepcache_ext import Settings
from deepcache_ext.schedule import OUTERMOST
from demo.pictures import psnr
from demo.tiny_model import TinyModel

COST_MODEL = "SD1.5"
HEADINGS = ("sampler", "steps", "guidance", "method", "speed-up", "PSNR dB, mean (worst tenth)", "over fewer", "SSIM")
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "DDIM", "Heun", "UniPC", "PLMS")
METHODS = ("uniform", "uniform, forecast", "non-uniform", "auto")
FEWER = "fewer steps"


@dataclass(frozen=True)
class Point:
    """One method at one compute."""

    sampler: str
    steps: int
    guidance: float
    method: str
    speed_up: float
    mean: float
    worst: float
    """Mean of the worst tenth of the pictures."""
    similarity: float
    """Mean structural similarity, 1 for the same picture."""


def ssim(pictures: Tensor, references: Tensor) -> Tensor:
    """Return the structural similarity of each RGB picture (0 to 1) to its reference."""
    pairs = zip(pictures.numpy(), references.numpy(), strict=True)
    return torch.tensor([structural_similarity(*pair, channel_axis=0, data_range=1.0) for pair in pairs])


def methods(interval: int, total: int) -> dict[str, Settings]:
    """Return what to compare with fewer steps, at about the compute of 1:N."""
    return {
        "uniform": Settings(interval=interval, forecast="off"),
        "uniform, forecast": Settings(interval=interval),
        "non-uniform": Settings(interval=interval, schedule="non-uniform", center=round(0.3 * total), forecast="off"),
        "auto": Settings(schedule="auto", speed_up=interval / (1 + (interval - 1) * OUTERMOST)),
    }


def compare(
    task: Task, steps: int, intervals: Iterable[int], names: Collection[str] = METHODS
) -> Iterator[tuple[Point, Point]]:
    """Yield the point of each of the named methods, and that of fewer steps at the same compute."""
    reuse = fractions(COST_MODEL)[0]
    reference = task.run(steps).pictures
    total = ALL_SAMPLERS[task.sampler].evaluations(steps)

    def closeness(pictures: Tensor) -> Tensor:
        """Return PSNR and similarity, of shape (2, pictures)."""
        return torch.stack([psnr(pictures, reference), ssim(pictures, reference)])

    @functools.cache
    def with_fewer(count: int) -> tuple[float, Tensor]:
        return ALL_SAMPLERS[task.sampler].evaluations(count), closeness(task.run(count).pictures)

    def point(method: str, compute: float, found: Tensor) -> Point:
        tenth = max(1, found.shape[1] // 10)
        mean, similarity = found.mean(1).tolist()
        worst = float(found[0].sort().values[:tenth].mean())
        return Point(task.sampler, steps, task.guidance, method, total / compute, mean, worst, similarity)

    for interval in intervals:
        for method, settings in methods(interval, total).items():
            if method not in names:
                continue
            run = task.run(steps, settings)
            compute = run.compute(reuse)
            above = next(
                count for count in range(2, steps + 1) if ALL_SAMPLERS[task.sampler].evaluations(count) >= compute
            )
            (low, found_low), (high, found_high) = with_fewer(above - 1), with_fewer(above)
            found = found_low + (found_high - found_low) * (compute - low) / (high - low)
            yield point(method, compute, closeness(run.pictures)), point(FEWER, compute, found)


def main() -> None:
    """Print the table and draw a plot for each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 30])
    parser.add_argument("--intervals", nargs="+", type=int, default=[2, 3], help="N of the uniform schedules")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="pictures sampled together (default 32)")
    parser.add_argument("--guidance", nargs="+", type=float, default=[3.0, 6.0])
    parser.add_argument("--out", type=Path, default=Path("docs/closeness.png"), help="the picture")
    options = parser.parse_args()
    print(written_on())
    print(f"{options.pictures} pictures, compute as on {COST_MODEL}\n")
    print(table(HEADINGS, []), flush=True)
    model = TinyModel()
    found: list[Point] = []
    for name, steps, guidance in itertools.product(options.samplers, options.steps, options.guidance):
        task = Task(model, name, options.pictures, options.batch, guidance)
        for ours, fewer in compare(task, steps, options.intervals, options.methods):
            found += [ours, fewer]
            print(row(_cells(ours, fewer)), flush=True)
    plots = [
        functools.partial(_plot, found, name, steps, options.guidance[0])
        for name, steps in itertools.product(options.samplers, options.steps)
    ]
    save_figure(options.out, *plots)


def _cells(ours: Point, fewer: Point) -> list[str]:
    return [
        ours.sampler, f"{ours.steps}", f"{ours.guidance:g}", ours.method, f"{ours.speed_up:.2f}x",
        f"{ours.mean:.1f} ({ours.worst:.1f})", f"{ours.mean - fewer.mean:+.1f} ({ours.worst - fewer.worst:+.1f})",
        f"{ours.similarity:.3f}",
    ]  # fmt: skip


def _plot(points: list[Point], sampler: str, steps: int, guidance: float, axes: Any) -> None:
    case = (sampler, steps, guidance)
    of_case = [point for point in points if (point.sampler, point.steps, point.guidance) == case]
    for method in dict.fromkeys(point.method for point in of_case):
        curve = sorted((point.speed_up, point.mean) for point in of_case if point.method == method)
        axes.plot(*zip(*curve, strict=True), "o-", label=method)
    axes.set(
        title=f"{sampler}, {steps} steps, guidance {guidance:g}",
        xlabel="speed-up by compute",
        ylabel="PSNR to the full picture, dB, mean",
    )
    axes.legend(fontsize="small")


if __name__ == "__main__":
    main()
