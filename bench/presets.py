"""How close are the pictures of each preset, and of fewer steps that are as fast?

Sampled on the demo's trained model with classifier-free guidance, with the presets' settings for SD1 and SD1.5's cost
of a reuse. Fewer steps are as many as come nearest to the same compute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.closeness import SAMPLERS
from bench.report import mean_and_worst, row, standard_error, table, written_on
from bench.runs import ALL_SAMPLERS, Task
from bench.walk import share
from deepcache_ext import Settings
from deepcache_ext.webui.presets import PRESETS
from demo.pictures import psnr
from demo.tiny_model import TinyModel

HEADINGS = ("sampler", "preset", "speed-up", "PSNR dB, mean (worst tenth)", "fewer steps", "their PSNR", "gain")
COST_MODEL = "SD1.5"


def compare(task: Task, steps: int) -> Iterator[list[str]]:
    """Yield the cells of a row for each preset."""
    sampler = ALL_SAMPLERS[task.sampler]
    total = sampler.evaluations(steps)
    reference = task.run(steps).pictures
    for name, settings in PRESETS.items():
        chosen = Settings(**settings["SD1"])
        depth = chosen.depth_for(noisy=sampler.kind.noisy)
        run = task.run(steps, chosen)
        compute = run.compute(share(COST_MODEL, depth, depth))
        fewer = min(range(2, steps + 1), key=lambda count: abs(sampler.evaluations(count) - compute))
        cached = psnr(run.pictures, reference)
        without = psnr(task.run(fewer).pictures, reference)
        gains = cached - without
        gain = f"{gains.mean():+.1f} ± {standard_error(gains):.1f}"
        speed_up, as_fast = (f"{total / cost:.2f}x" for cost in (compute, sampler.evaluations(fewer)))
        yield [
            task.sampler,
            name,
            speed_up,
            mean_and_worst(cached),
            f"{fewer}, {as_fast}",
            mean_and_worst(without),
            gain,
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    print(written_on())
    print(f"{options.steps} steps, {options.pictures} pictures, guidance {options.guidance:g}\n")
    print(table(HEADINGS, []), flush=True)
    model = TinyModel()
    for name in options.samplers:
        task = Task(model, name, options.pictures, options.batch, options.guidance)
        for cells in compare(task, options.steps):
            print(row(cells), flush=True)


if __name__ == "__main__":
    main()
