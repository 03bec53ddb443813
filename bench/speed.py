"""How fast are a refresh and a reuse, and how near is a run to what its blocks' own times allow?

Full-size networks with random weights, on which speed does not depend. All contenders take turns in every repeat,
and each refresh with its reuses is compared with the full evaluations before and after it.
"ideal" is the evaluation's time less that of the skipped blocks, both from the untouched network in the same repeat;
"own time" is what the extension's hooks and its copy of the feature take of a refresh.
On SD1.5, DeepCacheSDHelper on the diffusers U-Net of the same configuration runs in the same repeats; its branch b
is depth b + 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import UNet2DConditionModel
from torch import nn

from bench.parts.networks import NETWORKS, in_precision, use_sdp_attention
from bench.parts.report import save_figure, table, written_on
from bench.parts.timing import Clock, Samples, block_times
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.network.hook import CallHook
from deepcache_ext.network.views import View

LATENTS = {"cpu": {"SDXL": 64}, "cuda": {}}
"""Where the usual latent is not used: SDXL at 64x64 on a CPU, where it takes long enough."""
REUSES = 2
"""Reuses after each refresh, per repeat."""


SD15 = {"cross_attention_dim": 768}
"""diffusers' default configuration is SD1.5's but for the width of the text's embedding."""
NARROW = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 48, "attention_head_dim": 4}


class Contender:
    """A U-Net whose full evaluations, refreshes and reuses are timed."""

    prefix = ""

    def __init__(self, name: str, device: str, rows: int, latent: int, *, small: bool = False) -> None:
        network = NETWORKS[name]
        self.small = small
        self.device = device
        self.clock = Clock(device)
        self.dtype = torch.float16 if device == "cuda" else torch.float32
        self.unet = in_precision(network.build(small=small, device=device), self.dtype)
        lists: Any = self.unet
        self.blocks: list[nn.Module] = [*lists.input_blocks, lists.middle_block, *lists.output_blocks]
        self.inputs = network.inputs(self.unet, rows, latent=latent, device=device, dtype=self.dtype)

    @torch.no_grad()
    def call(self) -> None:
        """Run one evaluation."""
        half = torch.autocast("cuda", self.dtype) if self.device == "cuda" else contextlib.nullcontext()
        with half:
            self.unet(**self.inputs)

    def full(self, depth: int) -> tuple[float, float]:
        """Return the seconds of a full evaluation, and of that what would be left without the deep part."""
        with block_times(self.clock, self.blocks) as seconds:
            timed = self.clock.time(self.call)
        whole = self.clock.time(self.call)
        return whole, whole * (1 - sum(seconds[depth : len(seconds) - depth]) / timed)

    def cached(self, depth: int) -> tuple[float, float, float]:
        """Return the seconds of a refresh and of a reuse, and what the refresh spent in the extension's own code."""
        with own_time() as own, SamplingPass(self.unet, Settings(interval=REUSES + 1, depth=depth)) as run:
            run.start_evaluation()
            refresh = self.clock.time(self.call)
            spent = sum(own)
            reuse = self.clock.time(lambda: self._reuses(run)) / REUSES
        return refresh, reuse, spent

    def launch_overhead(self, depth: int) -> float:
        """Return which fraction of a reuse the device waits for the host, from the sum of its kernels' times."""
        with SamplingPass(self.unet, Settings(interval=2 * REUSES + 1, depth=depth)) as run:
            run.start_evaluation()
            self.call()
            reuse = self.clock.time(lambda: self._reuses(run)) / REUSES
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                self._reuses(run)
                torch.cuda.synchronize()
        busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / REUSES
        return max(0.0, 1 - float(busy) / reuse)

    def _reuses(self, run: SamplingPass) -> None:
        for _ in range(REUSES):
            run.start_evaluation()
            self.call()


class HelperContender:
    """DeepCacheSDHelper on diffusers' SD1.5 U-Net, with the same inputs."""

    prefix = "helper "

    def __init__(self, like: Contender) -> None:
        self.clock = like.clock
        torch.manual_seed(0)
        with torch.device(like.device):
            self.unet: nn.Module = UNet2DConditionModel(**(NARROW if like.small else SD15)).eval()
        if like.dtype is torch.float16:
            self.unet.half()
        self.unet.requires_grad_(requires_grad=False)
        self.x, self.context = like.inputs["x"], like.inputs["context"]
        self.timesteps = [1000 - 20 * index for index in range(50)]

    @torch.no_grad()
    def call(self, index: int) -> None:
        """Run evaluation `index` of a run of fifty."""
        self.unet(self.x, torch.tensor(self.timesteps[index]), encoder_hidden_states=self.context)

    def full(self, _depth: int) -> tuple[float, None]:
        """Return the seconds of a full evaluation."""
        return self.clock.time(lambda: self.call(0)), None

    def cached(self, depth: int) -> tuple[float, float, None]:
        """Return the seconds of a refresh and of a reuse."""
        scheduler = SimpleNamespace(timesteps=self.timesteps)
        helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=self.unet, scheduler=scheduler))
        helper.set_params(cache_interval=REUSES + 1, cache_branch_id=depth - 1)
        helper.enable()
        refresh = self.clock.time(lambda: self.call(0))
        reuse = self.clock.time(lambda: [self.call(index) for index in range(1, REUSES + 1)]) / REUSES
        helper.disable()
        return refresh, reuse, None


@contextlib.contextmanager
def own_time() -> Iterator[list[float]]:
    """Collect the seconds that the hooks and the tap of a pass made inside take, on the host's clock."""
    seconds: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = method(*arguments)
            seconds.append(time.perf_counter() - start)
            return result

        return call

    parts: list[tuple[Any, str]] = [(CallHook, "_before"), (CallHook, "_after"), (View, "_keep")]
    with contextlib.ExitStack() as patches:
        for owner, name in parts:
            patches.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield seconds


def measure(
    name: str,
    device: str,
    rows: int,
    latent: int,
    depths: Sequence[int],
    intervals: Sequence[int],
    repeats: int,
    *,
    small: bool = False,
) -> tuple[Samples, list[str]]:
    """Return the samples of one network and, on a CUDA device, what share of a reuse is launch overhead by depth.

    Each refresh and its reuses run between two full evaluations and are compared with the mean of the two, so that
    a drift of the machine's speed cancels. A run of N is one refresh and N - 1 times the reuse measured after it.
    """
    contender = Contender(name, device, rows, latent, small=small)
    contenders: list[Any] = [contender]
    if name == "SD1.5":
        contenders.append(HelperContender(contender))
    for one in contenders:
        one.cached(depths[0])  # warm-up
    samples = Samples()
    for _ in range(repeats):
        for one in contenders:
            for depth in depths:
                _measure_one(samples, one, depth, intervals)
    waiting = [f"{100 * contender.launch_overhead(depth):.0f} %" if device == "cuda" else "" for depth in depths]
    return samples, waiting


def _measure_one(samples: Samples, contender: Any, depth: int, intervals: Sequence[int]) -> None:
    before, ideal_before = contender.full(depth)
    refresh, reuse, own = contender.cached(depth)
    after, ideal_after = contender.full(depth)
    full = (before + after) / 2
    found = {"full": full, "refresh": refresh, "reuse": reuse, "refresh / full": refresh / full}
    for interval in intervals:
        found[f"N = {interval}"] = interval * full / (refresh + (interval - 1) * reuse)
    if own is not None:
        ideal = (ideal_before + ideal_after) / 2
        found |= {"own / full": own / full, "ideal": ideal}
        for interval in intervals:
            best = interval * full / (full + (interval - 1) * ideal)
            found |= {f"N = {interval} ideal": best, f"N = {interval} of ideal": found[f"N = {interval}"] / best}
    for what, value in found.items():
        samples.add(f"{contender.prefix}{depth} {what}", value)


def main() -> None:
    """Print the tables and draw the speed-ups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["SD1.5", "SDXL", "LDM-4-G"])
    parser.add_argument("--device", choices=LATENTS, default="cpu", help="cuda runs in float16 with device events")
    parser.add_argument("--batch", nargs="+", type=int, default=[2], help="rows of a U-Net call (default 2)")
    parser.add_argument("--latent", type=int, help="height and width of the latent (default: the network's usual)")
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--intervals", nargs="+", type=int, default=[2, 3, 5])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="narrow networks, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("docs/speed.png"), help="the picture (default docs/speed.png)")
    options = parser.parse_args()
    use_sdp_attention()
    print(written_on(options.device))
    print(f"medians of {options.repeats} repeats, {torch.get_num_threads()} threads, attention by torch's fused kernel")
    curves: list[Callable[[Any], None]] = []
    for name in options.networks:
        for rows in options.batch:
            size = options.latent or LATENTS[options.device].get(name, NETWORKS[name].latent)
            title = f"{name}, {size}x{size} latent, batch {rows}"
            sizes = options.depths, options.intervals, options.repeats
            samples, waiting = measure(name, options.device, rows, size, *sizes, small=options.small)
            print(f"\n{title}\n")
            print(_table(samples, options.depths, options.intervals, waiting), flush=True)
            curves.append(_curve(title, samples, options.depths, options.intervals))
            gc.collect()
    save_figure(options.out, *curves, width=4.5)


def _table(samples: Samples, depths: Sequence[int], intervals: Sequence[int], waiting: Sequence[str]) -> str:
    headings = ["", "full", "refresh", "refresh / full (quartiles)", "own time / full", "reuse", "ideal reuse"]
    headings += [f"N = {interval}, of ideal" for interval in intervals]
    headings += ["launch overhead"] if any(waiting) else []
    rows = []
    for depth, wait in zip(depths, waiting, strict=True):
        m = functools.partial(_median, samples, f"{depth} ")
        cells = [f"depth {depth}", f"{m('full'):.4g} s", f"{m('refresh'):.4g} s"]
        cells.append(_with_quartiles(samples, f"{depth} refresh / full"))
        cells += [f"{100 * m('own / full'):.3f} %", f"{m('reuse'):.4g} s", f"{m('ideal'):.4g} s"]
        cells += [f"{m(f'N = {n}'):.2f}x, {100 * m(f'N = {n} of ideal'):.1f} %" for n in intervals]
        rows.append(cells + ([wait] if wait else []))
    for depth in depths if f"helper {depths[0]} full" in samples.values else ():
        m = functools.partial(_median, samples, f"helper {depth} ")
        cells = [f"DeepCacheSDHelper, branch {depth - 1}", f"{m('full'):.4g} s", f"{m('refresh'):.4g} s"]
        cells += [_with_quartiles(samples, f"helper {depth} refresh / full"), "", f"{m('reuse'):.4g} s", ""]
        cells += [f"{m(f'N = {n}'):.2f}x" for n in intervals]
        rows.append(cells + ([""] if any(waiting) else []))
    return table(headings, rows)


def _median(samples: Samples, prefix: str, name: str) -> float:
    return samples.median(prefix + name)


def _with_quartiles(samples: Samples, name: str) -> str:
    values = samples.values[name]
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{samples.median(name):.3f} ({low:.3f} to {high:.3f})"


def _curve(title: str, samples: Samples, depths: Sequence[int], intervals: Sequence[int]) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        for depth in depths:
            ours = [samples.median(f"{depth} N = {n}") for n in intervals]
            (line,) = axes.plot(intervals, ours, "o-", label=f"depth {depth}")
            ideal = [samples.median(f"{depth} N = {n} ideal") for n in intervals]
            axes.plot(intervals, ideal, ":", color=line.get_color(), label=f"ideal, depth {depth}")
            if f"helper {depth} full" in samples.values:
                helper = [samples.median(f"helper {depth} N = {n}") for n in intervals]
                label = f"DeepCacheSDHelper, branch {depth - 1}"
                axes.plot(intervals, helper, "x--", color=line.get_color(), label=label)
        axes.set(title=title, xlabel="interval N", ylabel="speed-up", ylim=(1, None))
        axes.legend(fontsize="small")

    return draw


if __name__ == "__main__":
    main()
