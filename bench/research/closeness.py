"""Is a cached picture closer to the full one than fewer steps of the same sampler are, at the same compute?

Sampled on the demo's trained model with classifier-free guidance: DeepCache in its kinds, and other training-free
caches (caches.py) brought to the compute of DeepCache 1:N. Closeness is the PSNR and the structural similarity to the
uncached picture of the same seed and all steps: their mean over the pictures, and PSNR's mean of the worst tenth.
Compute is counted with the cost of a reuse on full-size networks (attention included); the wall time is the small
model's own, from one run. Fewer steps have the compute that SD1.5 would need, interpolated between the two step counts
on either side.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.parts.report import read_csv, row, save_figure, standard_error, table, worst_tenth, write_csv, written_on
from bench.parts.runs import ALL_SAMPLERS, Run, Task
from bench.parts.walk import share
from bench.research import rivals
from deepcache_ext import Settings
from deepcache_ext.planning.schedule import OUTERMOST
from demo.pictures import psnr
from demo.tiny_model import TinyModel

HEADINGS = (
    "sampler", "steps", "guidance", "method", "speed-up SD1.5", "SDXL", "wall", "PSNR dB, mean (worst tenth)",
    "over fewer (worst tenth), ± standard error", "SSIM, mean", "over fewer",
)  # fmt: skip
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "DDIM", "Heun", "UniPC", "PLMS")
OWN = ("uniform", "uniform, forecast", "non-uniform", "auto, depth 1", "auto")
METHODS = (*OWN, *rivals.NAMES)

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One method at one compute, and fewer steps at the same."""

    sampler: str
    steps: int
    guidance: float
    pictures: int
    method: str
    interval: int
    """N of the uniform schedule whose compute was aimed at."""
    parameter: str
    sd15: float
    """The speed-up by compute as on SD1.5."""
    sdxl: float
    wall: float
    mean: float
    worst: float
    """Mean of the worst tenth of the pictures."""
    similarity: float
    """Mean structural similarity, 1 for the same picture."""
    fewer_mean: float
    fewer_worst: float
    fewer_similarity: float
    gain_error: float
    """Standard error of the mean of the pictures' own gains in PSNR over fewer steps; nan where it was not kept."""

    @property
    def case(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.sampler, self.steps, self.guidance, self.pictures, self.method, self.interval


def ssim(pictures: Tensor, references: Tensor) -> Tensor:
    """Return the structural similarity of each RGB picture (0 to 1) to its reference."""
    pairs = zip(pictures.numpy(), references.numpy(), strict=True)
    return torch.tensor([structural_similarity(*pair, channel_axis=0, data_range=1.0) for pair in pairs])


def own(interval: int, total: int) -> dict[str, Settings]:
    """Return DeepCache's kinds at about the compute of 1:N at depth 1; "auto" is what the presets give for SD1."""
    speed_up = interval / (1 + (interval - 1) * OUTERMOST)
    return {
        "uniform": Settings(interval=interval, forecast="off"),
        "uniform, forecast": Settings(interval=interval),
        "non-uniform": Settings(interval=interval, schedule="non-uniform", center=round(0.3 * total), forecast="off"),
        "auto, depth 1": Settings(schedule="auto", speed_up=speed_up),
        "auto": Settings(schedule="auto", speed_up=speed_up, depth=0),
    }


def compare(task: Task, steps: int, intervals: Iterable[int], names: Collection[str] = OWN) -> Iterator[Point]:
    """Yield a point for each of the named methods at the compute of each 1:N."""
    full, seconds = _timed(functools.partial(task.run, steps))
    sampler = ALL_SAMPLERS[task.sampler]
    total, kind = sampler.evaluations(steps), task.kind(steps)

    def closeness(pictures: Tensor) -> Tensor:
        """Return PSNR and similarity, of shape (2, pictures)."""
        return torch.stack([psnr(pictures, full.pictures), ssim(pictures, full.pictures)])

    @functools.cache
    def with_steps(count: int) -> Tensor:
        return closeness(task.run(count).pictures)

    def at_compute(compute: float) -> Tensor:
        above = next(count for count in range(2, steps + 1) if sampler.evaluations(count) >= compute)
        low, high = sampler.evaluations(above - 1), sampler.evaluations(above)
        return torch.lerp(with_steps(above - 1), with_steps(above), min(1.0, (compute - low) / (high - low)))

    def point(method: str, interval: int, parameter: str, parts: rivals.Parts, run: Run, spent: float) -> Point:
        sd15, sdxl = (run.compute(share(network, *parts)) for network in ("SD1.5", "SDXL"))
        cached, fewer = closeness(run.pictures), at_compute(sd15)
        figures = [*_figures(cached), *_figures(fewer), standard_error((cached - fewer)[0])]
        case = (task.sampler, steps, task.guidance, task.pictures, method, interval, parameter)
        return Point(*case, total / sd15, total / sdxl, seconds / spent, *figures)

    for interval in intervals:
        reuse = share("SD1.5", 1, 1)
        for method, settings in own(interval, total).items():
            if method in names:
                run, spent = _timed(functools.partial(task.run, steps, settings))
                depth = kind.depth(settings)
                yield point(method, interval, f"N = {interval}", (depth, depth), run, spent)
        wanted = total * (1 + (interval - 1) * reuse) / interval
        for entry in rivals.entries([name for name in rivals.NAMES if name in names], task, steps, wanted):
            run, spent = _timed(functools.partial(rivals.sample, task, steps, entry.make))
            yield point(entry.name, interval, entry.parameter, entry.parts, run, spent)


def main() -> None:
    """Print the table, write it as CSV, and draw a plot for each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 30, 50])
    parser.add_argument("--intervals", nargs="+", type=int, default=[2, 3], help="N, whose compute is aimed at")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4, help="pictures sampled and decided together (default 4)")
    parser.add_argument("--guidance", nargs="+", type=float, default=[3.0, 6.0])
    parser.add_argument("--out", type=Path, default=Path("docs/closeness.png"), help="the picture; a .csv beside it")
    parser.add_argument("--append", action="store_true", help="add to the .csv that is there, replacing the same cases")
    options = parser.parse_args()
    print(written_on())
    print(f"{options.pictures} pictures\n")
    print(table(HEADINGS, []), flush=True)
    model = TinyModel()
    file = options.out.with_suffix(".csv")
    found = read_csv(Point, file) if options.append else []
    for name, steps, guidance in itertools.product(options.samplers, options.steps, options.guidance):
        task = Task(model, name, options.pictures, options.batch, guidance)
        for point in compare(task, steps, options.intervals, options.methods):
            found = [other for other in found if other.case != point.case] + [point]
            print(row(_cells(point)), flush=True)
        write_csv(found, file)
    draw(found, options.out)


def draw(points: list[Point], out: Path) -> None:
    """Write a plot for each sampler, of the first step count, guidance and number of pictures there is of it."""

    def plot(axes: Any, sampler: str) -> None:
        of_sampler = [point for point in points if point.sampler == sampler]
        first = of_sampler[0]
        shown = [p for p in of_sampler if p.case[:4] == first.case[:4]]
        for method in dict.fromkeys(point.method for point in shown):
            curve = sorted((point.sd15, point.mean) for point in shown if point.method == method)
            color = mpl.colormaps["tab20"](METHODS.index(method))
            axes.plot(*zip(*curve, strict=True), "o-", color=color, label=method)
        axes.plot(*zip(*sorted({(p.sd15, p.fewer_mean) for p in shown}), strict=True), "k--", label="fewer steps")
        axes.set(
            title=f"{sampler}, {first.steps} steps, guidance {first.guidance:g}, {first.pictures} pictures",
            xlabel="speed-up by compute, SD1.5",
            ylabel="PSNR to the full picture, dB, mean",
        )
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))

    samplers = dict.fromkeys(point.sampler for point in points)
    save_figure(out, *(functools.partial(plot, sampler=sampler) for sampler in samplers), columns=3)


def _figures(found: Tensor) -> Iterator[float]:
    """Yield the mean PSNR, that of the worst tenth, and the mean similarity, of what is of shape (2, pictures)."""
    yield float(found[0].mean())
    yield worst_tenth(found[0])
    yield float(found[1].mean())


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _cells(p: Point) -> list[str]:
    return [
        p.sampler, f"{p.steps}", f"{p.guidance:g}", f"{p.method}, {p.parameter}",
        f"{p.sd15:.2f}x", f"{p.sdxl:.2f}x", f"{p.wall:.2f}x", f"{p.mean:.1f} ({p.worst:.1f})",
        f"{p.mean - p.fewer_mean:+.1f} ({p.worst - p.fewer_worst:+.1f}) ± {p.gain_error:.1f}",
        f"{p.similarity:.3f}", f"{p.similarity - p.fewer_similarity:+.3f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
