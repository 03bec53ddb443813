"""How long does a whole run take with each preset, untouched, cached, and with DeepCacheSDHelper?

Full-size networks with random weights, on which speed does not depend, in runs of a sampler that adds no noise and of
one that does (Euler, Euler a), with what the correction of reuses takes: all evaluations of one run, without the
sampler's own arithmetic. "of ideal" is how near the cached run comes to full evaluations and reuses that take what
their own blocks do. DeepCacheSDHelper, on diffusers' U-Net of SD1.5, runs at the interval whose number of full
evaluations is nearest; beside its time stands the speed-up over that U-Net untouched, which is another implementation.
On a CUDA device it is in float16 and timed by events, and more columns tell of a run, untouched and cached: "host", how
long until everything is enqueued; "memory", the most that was allocated over the weights, and of the cached run how
much more than untouched; "kept", what stayed between evaluations; with --kernels how many the device got. Each line is
printed when it is done. --quick takes less than five minutes on a card:

    python3 dev.py bench preset_speed --device cuda --quick
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from DeepCache import DeepCacheSDHelper

from bench.parts.networks import NETWORKS, use_sdp_attention
from bench.parts.report import row, table, written_on
from bench.speed import LATENTS, Contender, HelperContender
from deepcache_ext import Action, SamplingPass, Settings
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import PRESETS, for_run
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel

FAMILIES: dict[str, Family] = {"SD1.5": "SD1", "SDXL": "SDXL"}
TIMED = ("Euler", "Euler a")
HEADINGS = ("network", "rows", "sampler", "preset", "untouched", "cached", "speed-up", "of ideal", "DeepCacheSDHelper")
ON_CARD = ("host, ms", "memory, MiB", "kept, MiB")
MIB = 2**20


@dataclass(frozen=True)
class Taken:
    """What a run took: seconds, seconds of the host until all is enqueued, and bytes over what was there before."""

    seconds: float
    host: float
    peak: int


class Runs:
    """Runs of one network, all in the same sampler's evaluations."""

    def __init__(self, contender: Contender, family: Family, sampler: str, steps: int) -> None:
        self.contender = contender
        self.family = family
        model, sampled = TinyModel(), SAMPLERS[sampler]
        self.levels = model.levels
        self.asked = sampled.ask(model, steps)
        self.kind = replace(sampled.kind, pays_back=self.asked.kind.pays_back)
        self.times = model.timesteps(sampled.sigmas(model, steps)[:-1]).tolist()
        self.helper = HelperContender(contender) if family == "SD1" else None

    def untouched(self) -> Taken:
        """Run without the cache."""
        return self._taken(lambda: None)

    def cached(self, preset: str) -> Iterator[Taken | float | int]:
        """Yield what a run with a preset took, the bytes that it kept, and the seconds of its blocks alone."""
        with self.begun(preset) as run:
            reuses = sum(action is Action.REUSE for action in run.schedule.actions())
            yield self._taken(run.start_evaluation)
            yield run.kept_bytes
        full, reuse = self.contender.full(run.depth)
        yield (len(self.times) - reuses) * full + reuses * reuse

    def begun(self, preset: str) -> SamplingPass:
        """Return a pass with a preset, which holds nothing yet."""
        settings = for_run(Settings(**PRESETS[preset][self.family]), preset, self.kind)
        cost = reuse_cost(self.kind.depth(settings), self.family)
        options: dict[str, Any] = {"sampler": self.kind, "run": self.asked, "levels": self.levels, "reuse": cost}
        return SamplingPass(self.contender.unet, settings, len(self.times), **options)

    def kernels(self, preset: str | None) -> int:
        """Return how many kernels a run gives the device, untouched if there is no preset."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            if preset is None:
                self._evaluate(lambda: None)
            else:
                with self.begun(preset) as run:
                    self._evaluate(run.start_evaluation)
            torch.cuda.synchronize()
        return sum(event.count for event in profile.key_averages() if event.self_device_time_total)

    def _taken(self, begin: Callable[[], object]) -> Taken:
        on_card = self.contender.device == "cuda"
        if on_card:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before, host = torch.cuda.memory_allocated() if on_card else 0, 0.0

        def run() -> None:
            nonlocal host
            start = time.perf_counter()
            self._evaluate(begin)
            host = time.perf_counter() - start

        seconds = self.contender.clock.time(run)
        return Taken(seconds, host, torch.cuda.max_memory_allocated() - before if on_card else 0)

    def _evaluate(self, begin: Callable[[], object]) -> None:
        for at in self.times:
            self.contender.inputs["timesteps"].fill_(at)
            begin()
            self.contender.call()


def with_helper(contender: HelperContender, evaluations: int, full: int) -> tuple[float, float]:
    """Return the seconds of a run untouched and with DeepCacheSDHelper, at its least depth.

    It makes about `full` evaluations in full.
    """
    whole = contender.clock.time(lambda: [contender.call(index) for index in range(evaluations)])
    scheduler = SimpleNamespace(timesteps=contender.timesteps)
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=contender.unet, scheduler=scheduler))
    interval = min(range(1, evaluations + 1), key=lambda n: abs(-(-evaluations // n) - full))
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    seconds = contender.clock.time(lambda: [contender.call(index) for index in range(evaluations)])
    helper.disable()
    return whole, seconds


def compare(runs: Runs, repeats: int, *, kernels: bool = False) -> Iterator[list[str]]:
    """Yield the cells of a row for each preset, after those of the network, its rows and the sampler."""
    evaluations, helper = len(runs.times), runs.helper
    on_card = runs.contender.device == "cuda"
    uncached = runs.kernels(None) if kernels else 0
    for preset in PRESETS:
        measured: list[tuple[Any, ...]] = []
        for _ in range(repeats):
            whole = runs.untouched()
            ours, kept, ideal = runs.cached(preset)
            full = round(evaluations / PRESETS[preset][runs.family]["speed_up"])
            theirs = with_helper(helper, evaluations, full) if helper else (0.0, 0.0)
            measured.append((whole, ours, kept, ideal, *theirs))
        wholes, cached, keeps, ideals, *others = zip(*measured, strict=True)
        whole, ours = (statistics.median(one.seconds for one in column) for column in (wholes, cached))
        ideal = statistics.median(ideals)
        cells = [preset, f"{whole:.3g} s", f"{ours:.3g} s", f"{whole / ours:.2f}x", f"{100 * ideal / ours:.0f} %"]
        their_whole, theirs = (statistics.median(column) for column in others)
        cells.append(f"{theirs:.3g} s, {their_whole / theirs:.2f}x" if helper else "")
        if on_card:
            hosts = [1000 * statistics.median(one.host for one in column) for column in (wholes, cached)]
            peaks = [max(one.peak for one in column) / MIB for column in (wholes, cached)]
            cells += [f"{hosts[0]:.0f}, {hosts[1]:.0f}"]
            cells += [f"{peaks[0]:.0f}, {peaks[1] - peaks[0]:+.0f}", f"{max(keeps) / MIB:.0f}"]
            cells += [f"{uncached}, {runs.kernels(preset)}"] if kernels else []
        yield cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--device", choices=LATENTS, default="cpu", help="cuda runs in float16 with device events")
    parser.add_argument("--samplers", nargs="+", choices=TIMED, default=TIMED)
    parser.add_argument("--batch", nargs="+", type=int, help="pictures, of two rows each (default 1 4 8, quick 1 4)")
    parser.add_argument("--latent", type=int, help="height and width of the latent (default: the network's usual)")
    parser.add_argument("--small", action="store_true", help="narrow networks, to see that it runs")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--kernels", action="store_true", help="count kernels too, which makes all else slower")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, help="default 3, quick 1")
    options = parser.parse_args()
    pictures_of_runs = options.batch or ([1, 4] if options.quick else [1, 4, 8])
    repeats = options.repeats or (1 if options.quick else 3)
    use_sdp_attention()
    print(written_on(options.device))
    print(f"{options.steps} steps, medians of {repeats} repeats, attention by torch's fused kernel\n")
    on_card = options.device == "cuda"
    headings = [*HEADINGS, *(ON_CARD if on_card else ()), *(["kernels"] if options.kernels and on_card else ())]
    print(table(headings, []), flush=True)
    for name, pictures in itertools.product(options.networks, pictures_of_runs):
        size = options.latent or LATENTS[options.device].get(name, NETWORKS[name].latent)
        contender: Any = Contender(name, options.device, 2 * pictures, size, small=options.small)
        contender.call()
        for sampler in options.samplers:
            runs = Runs(contender, FAMILIES[name], sampler, options.steps)
            for cells in compare(runs, repeats, kernels=options.kernels and on_card):
                print(row([f"{name}, {size}x{size}", f"{2 * pictures}", sampler, *cells]), flush=True)
        del contender, runs
        gc.collect()


if __name__ == "__main__":
    main()
