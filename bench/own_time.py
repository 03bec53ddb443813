"""How much time of its own does the cache take on the host, in a refresh and in a reuse?

A fast card waits for Python, so what the cache does there counts whatever the device does. Measured on narrow networks
of SD1.5's and SDXL's blocks with random weights, where little but Python takes time, as the network is and with a
forward of somebody else's on each attention: one that remembers nothing, as IP-Adapter's, and one that counts its
calls, as NegPiP's, which a reuse calls again.

"profiler" is what runs inside the cache's functions under Python's profiler, which makes Python slower and operations
not. "clock" is the processor's time of this thread without it: of a refresh what it takes more than the untouched call,
of a reuse what it takes more than its blocks by hand. Both are medians; the share is the clock's, of an untouched call.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import deepcache_ext
from bench.parts.networks import NETWORKS
from bench.parts.report import row, table, written_on
from bench.parts.walk import Walk
from deepcache_ext import SamplingPass, Settings
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel

ROWS = 2
LATENT = 8
DEPTH = 1
WARM_UP = 3
REPEATS = 40
ASKED = ("Euler", "Euler a")
PACKAGE = str(Path(deepcache_ext.__file__).parent)
HEADINGS = (
    "network", "forwards", "sampler", "untouched", "refresh: profiler", "clock", "share",
    "reuse: profiler", "clock", "share",
)  # fmt: skip


class Counts:
    """Counts the calls of the attentions that it has set a forward on."""

    calls = 0

    def around(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return what to call in the place of `original`."""

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            return original(*args, **kwargs)

        return forward


def passing_on(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return what to call in the place of `original`, which remembers nothing."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return original(*args, **kwargs)

    return forward


FORWARDS: dict[str, Callable[[], Callable[[Any], Any]] | None] = {
    "its own": None,
    "foreign": lambda: passing_on,
    "counting": lambda: Counts().around,
}


class Timed:
    """A narrow network whose calls are timed, beside one like it that nothing takes hold of."""

    def __init__(self, name: str, forwards: str) -> None:
        network = NETWORKS[name]
        self.unet, self.untouched = (network.build(small=True) for _ in range(2))
        self.inputs = network.inputs(self.unet, ROWS, latent=LATENT)
        self._time = 999.0
        make = FORWARDS[forwards]
        for unet in (self.unet, self.untouched):
            if make is None:
                continue
            around = make()
            for module in unet.modules():
                if {"to_q", "to_k", "to_v"} <= module._modules.keys():
                    vars(module)["forward"] = around(module.forward)

    @torch.no_grad()
    def measure(self, sampler: str, repeats: int) -> tuple[float, ...]:
        """Return the median seconds of an untouched call, and the own time of a refresh and of a reuse.

        Each of these twice, by the profiler and by the clock.
        """
        times: dict[str, list[float]] = {}
        feature = Walk(self.untouched, **self.inputs).deep(DEPTH)
        settings, model = Settings(interval=2, depth=DEPTH), TinyModel()
        asked = SAMPLERS[sampler].ask(model, 2 * (WARM_UP + repeats))
        for measured in (_seconds, _profiled):
            with SamplingPass(self.unet, settings, sampler=asked.kind, run=asked, levels=model.levels) as run:
                for number in range(WARM_UP + repeats):
                    found = {
                        "untouched": measured(lambda: self.untouched(**self.inputs)),
                        "refresh": measured(lambda: self._evaluate(run)),
                        "by hand": measured(lambda: self._by_hand(feature)),
                        "reuse": measured(lambda: self._evaluate(run)),
                    }
                    for name, value in found.items() if number >= WARM_UP else ():
                        times.setdefault(f"{name} {measured.__name__}", []).append(value)
            if run.statistics.missed or run.statistics.error:
                raise RuntimeError(f"every second evaluation was to reuse; {run.statistics}")
        at = {name: statistics.median(values) for name, values in times.items()}
        untouched = at["untouched _seconds"]
        refresh, reuse = at["refresh _seconds"] - untouched, at["reuse _seconds"] - at["by hand _seconds"]
        return untouched, at["refresh _profiled"], refresh, at["reuse _profiled"], reuse

    def _evaluate(self, run: SamplingPass) -> None:
        self._time -= 1
        self.inputs["timesteps"].fill_(self._time)
        run.start_evaluation()
        self.unet(**self.inputs)

    def _by_hand(self, feature: Tensor) -> None:
        walk = Walk(self.untouched, **self.inputs)
        walk.inputs(DEPTH)
        walk.head(walk.outer(feature, DEPTH))


def _seconds(call: Callable[[], object]) -> float:
    """Return the processor's time that `call` takes."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _profiled(call: Callable[[], object]) -> float:
    """Return the time that `call` spends in functions of the cache, by Python's profiler, what they call included."""
    profile = cProfile.Profile(time.thread_time)
    profile.runcall(call)
    entered = 0.0
    for (file, _, _), (_, _, _, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file.startswith(PACKAGE):
            entered += sum(spent[3] for caller, spent in callers.items() if not caller[0].startswith(PACKAGE))
    return entered


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["SD1.5", "SDXL"])
    parser.add_argument("--forwards", nargs="+", choices=FORWARDS, default=list(FORWARDS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(written_on())
    print(f"milliseconds, medians of {options.repeats} repeats, one thread\n")
    print(table(HEADINGS, []), flush=True)
    for name, forwards in itertools.product(options.networks, options.forwards):
        timed = Timed(name, forwards)
        for sampler in ASKED:
            untouched, *own = timed.measure(sampler, options.repeats)
            cells = [name, forwards, sampler, f"{1000 * untouched:.1f}"]
            for profiled, clocked in zip(own[::2], own[1::2], strict=True):
                cells += [f"{1000 * profiled:.2f}", f"{1000 * clocked:.2f}", f"{100 * clocked / untouched:.1f} %"]
            print(row(cells), flush=True)


if __name__ == "__main__":
    main()
