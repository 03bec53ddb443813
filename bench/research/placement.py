"""How much farther apart should full evaluations be at the end of a run than at its start?

For the schedule "auto" (deepcache_ext/planning/placement.py): the mean PSNR in dB, and of the worst tenth, to the
uncached picture of the demo's trained model, by how many times the gaps grow over a run; 1 is even. A reuse runs no
block where it is put right or no noise is added, else the outermost pair, as the presets have it for SD1.
"""

from __future__ import annotations

import argparse
import itertools

from bench.parts.report import mean_and_worst, row, table, written_on
from bench.parts.runs import ALL_SAMPLERS, Task
from bench.parts.walk import share
from deepcache_ext import Settings
from deepcache_ext.planning.placement import Rule, full_evaluations, placed
from demo.pictures import psnr
from demo.tiny_model import TinyModel

COST_MODEL = "SD1.5"
GROWTHS = (1.0, 2.0, 4.0, 6.0, 8.0)


def closeness(
    task: Task, steps: int, speed_ups: list[float], growths: list[float], tail: float = Rule().tail
) -> dict[tuple[float, float], str]:
    """Return the PSNR by speed-up and growth, as text: the mean, and in brackets that of the worst tenth."""
    sampler = ALL_SAMPLERS[task.sampler]
    total = sampler.evaluations(steps)
    reference = task.run(steps).pictures
    depth = task.kind(steps).depth(Settings(depth=0))
    found = {}
    for speed_up, growth in itertools.product(speed_ups, growths):
        count = full_evaluations(total, speed_up, share(COST_MODEL, depth, depth))
        full = placed(total, count, Rule(growth, tail=tail))
        run = task.run(steps, Settings(schedule="list", steps=full, depth=depth))
        found[speed_up, growth] = mean_and_worst(psnr(run.pictures, reference))
    return found


def main() -> None:
    """Print a table."""
    first_order = [name for name, sampler in ALL_SAMPLERS.items() if sampler.kind.stages == 1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=first_order, default=["Euler", "DPM++ 2M", "UniPC", "Euler a"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--speed-ups", nargs="+", type=float, default=[1.85, 2.5])
    parser.add_argument("--growths", nargs="+", type=float, default=GROWTHS)
    parser.add_argument("--tail", type=float, default=Rule().tail, help="last gaps that follow the last full one")
    parser.add_argument("--pictures", type=int, default=32)
    options = parser.parse_args()
    print(written_on())
    print(f"{options.steps} steps, {options.pictures} pictures, guidance 3\n")
    print(table(["sampler", "speed-up", *(f"{growth:g}" for growth in options.growths)], []), flush=True)
    model = TinyModel()
    for name in options.samplers:
        task = Task(model, name, options.pictures, options.pictures, 3.0)
        found = closeness(task, options.steps, options.speed_ups, options.growths, options.tail)
        for speed_up in options.speed_ups:
            print(row([name, f"{speed_up:g}x", *(found[speed_up, growth] for growth in options.growths)]), flush=True)


if __name__ == "__main__":
    main()
