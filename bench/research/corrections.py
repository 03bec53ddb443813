"""What do corrections gain? The same full evaluations with and without them, and as many steps.

PSNR to the uncached picture of the same seed and all steps, its mean over the pictures and the mean of their worst
tenth, at depth 0. A sampler whose reuses are not put right has the same figures twice.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from bench.parts.report import table, worst_tenth, written_on
from bench.parts.runs import ALL_SAMPLERS, Task
from bench.presets import networks
from deepcache_ext import Settings
from demo import tiny_model
from demo.pictures import psnr


def rows(task: Task, steps: int, plans: list[str]) -> Iterator[list[str]]:
    """Yield a row of the table for each list of full evaluations."""
    reference = task.run(steps).pictures

    def told(pictures: Tensor) -> str:
        closeness = psnr(pictures, reference)
        return f"{float(closeness.mean()):.1f} ({worst_tenth(closeness):.1f})"

    for plan in plans:
        settings = [Settings(schedule="list", steps=plan, depth=0, correction=way) for way in ("off", "on")]  # type: ignore[arg-type]
        cells = [told(task.run(steps, one).pictures) for one in settings]
        fewer = told(task.run(len(settings[0].steps)).pictures)
        yield [task.model.name, task.sampler, f"{task.guidance:g}", plan, fewer, *cells]


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tiny_model.NAMES, default=tiny_model.NAMES)
    parser.add_argument("--weights", type=Path, help="a folder of networks in their place, as for bench presets")
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=["Euler", "DPM++ 2M"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plans", nargs="+", default=["0-3, 5, 7, 9, 12, 15, 18", "0, 1, 3, 5, 7, 9, 11, 13, 15, 18"])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--guidance", nargs="+", type=float, default=[4.0])
    options = parser.parse_args()
    print(written_on())
    head = ["network", "sampler", "guidance", "full evaluations", "fewer steps", "without", "corrected"]
    found = []
    for model in networks(options.networks, options.weights):
        for sampler, guidance in itertools.product(options.samplers, options.guidance):
            task = Task(model, sampler, options.pictures, options.pictures, guidance)
            for row in rows(task, options.steps, options.plans):
                print(*row, sep=", ", flush=True)
                found.append(row)
    print(f"\n{table(head, found)}")


if __name__ == "__main__":
    main()
