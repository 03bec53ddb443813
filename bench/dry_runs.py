"""How long does it take to ask a sampler what it will do?

Each of the demo's samplers, and those of the WebUI's in `bench/parts/host_samplers.py`, is asked about runs of several
lengths. The time is the processor's own, of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from bench.parts.host_samplers import HOST_SAMPLERS
from bench.parts.report import table, written_on
from deepcache_ext.planning.dry_run import Denoise, ask
from demo.k_diffusion_parts import sampling
from demo.samplers import SAMPLERS, Sampler

FUNCTIONS = {
    name: sampler.function for name, sampler in {**SAMPLERS, **HOST_SAMPLERS}.items() if isinstance(sampler, Sampler)
}
LOWEST, HIGHEST = 0.03, 14.6
"""Stable Diffusion's noise levels."""


def seconds(name: str, steps: int) -> float:
    """Return how long the named sampler takes to answer, in seconds."""
    function, sigmas = FUNCTIONS[name], sampling.get_sigmas_karras(steps, LOWEST, HIGHEST)
    draws = "noise_sampler" in inspect.signature(function).parameters

    def run(denoise: Denoise, x: Tensor) -> Any:
        noise = {"noise_sampler": lambda *_: torch.randn_like(x)} if draws else {}
        return function(denoise, x, sigmas, disable=True, **noise)

    start = time.thread_time()
    ask(run)
    return time.thread_time() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 150])
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    print(written_on())
    found = {
        (name, steps): [1000 * seconds(name, steps) for _ in range(options.times)]
        for name in FUNCTIONS
        for steps in options.steps
    }
    rows = [
        [
            name,
            *(
                f"{statistics.median(found[name, steps]):.0f} ({max(found[name, steps]):.0f})"
                for steps in options.steps
            ),
        ]
        for name in FUNCTIONS
    ]
    print("\nMilliseconds of a dry run, median (largest)\n")
    print(table(["sampler", *(f"{steps} steps" for steps in options.steps)], rows))


if __name__ == "__main__":
    main()
