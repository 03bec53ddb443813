"""How long does a whole run take with each preset, untouched, cached, and with DeepCacheSDHelper?

Full-size networks with random weights, on which speed does not depend, in runs of a sampler that adds no noise and of
one that does (Euler, Euler a): all evaluations of one run, without the sampler's own arithmetic. "of ideal" is how near
the cached run comes to full evaluations and reuses that take what their own blocks do. DeepCacheSDHelper, on diffusers'
U-Net of SD1.5, runs at the interval whose number of full evaluations is nearest. On a CUDA device it is in float16 and
timed by events:

    python3 dev.py bench preset_speed --device cuda
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from DeepCache import DeepCacheSDHelper

from bench.parts.networks import NETWORKS, use_sdp_attention
from bench.parts.report import row, table, written_on
from bench.speed import LATENTS, Contender, HelperContender
from deepcache_ext import Action, NoiseLevels, SamplerKind, SamplingPass, Settings
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import PRESETS

FAMILIES: dict[str, Family] = {"SD1.5": "SD1", "SDXL": "SDXL"}
SAMPLERS = {"Euler": SamplerKind(), "Euler a": SamplerKind(noisy=True)}
HEADINGS = ("network", "rows", "sampler", "preset", "untouched", "cached", "speed-up", "of ideal", "DeepCacheSDHelper")
LEVELS = NoiseLevels(torch.linspace(0.9991, 0.0047, 1000))


def untouched(contender: Contender, evaluations: int) -> float:
    """Return the seconds of a run without the cache."""
    return contender.clock.time(lambda: [contender.call() for _ in range(evaluations)])


def cached(contender: Contender, evaluations: int, preset: str, family: Family, kind: SamplerKind) -> Iterator[float]:
    """Yield the seconds of a run with a preset, and those that it would take if nothing were added to its blocks."""
    settings = Settings(**PRESETS[preset][family])
    depth = kind.depth(settings)
    cost = reuse_cost(depth, family)
    run = SamplingPass(contender.unet, settings, evaluations, sampler=kind, levels=LEVELS, reuse=cost)
    reuses = sum(action is Action.REUSE for action in run.schedule.actions())

    def evaluate() -> None:
        for index in range(evaluations):
            contender.inputs["timesteps"].fill_(1000 * (1 - index / evaluations) - 1)
            run.start_evaluation()
            contender.call()

    with run:
        yield contender.clock.time(evaluate)
    full, reuse = contender.full(depth)
    yield (evaluations - reuses) * full + reuses * reuse


def with_helper(contender: HelperContender, evaluations: int, full: int) -> float:
    """Return the seconds of a run with DeepCacheSDHelper at its least depth, with about `full` full evaluations."""
    scheduler = SimpleNamespace(timesteps=contender.timesteps)
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=contender.unet, scheduler=scheduler))
    interval = min(range(1, evaluations + 1), key=lambda n: abs(-(-evaluations // n) - full))
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    seconds = contender.clock.time(lambda: [contender.call(index) for index in range(evaluations)])
    helper.disable()
    return seconds


def compare(contender: Contender, family: Family, evaluations: int, repeats: int) -> Iterator[list[str]]:
    """Yield the cells of a row for each sampler and preset, after those of the network and its rows."""
    helper = HelperContender(contender) if family == "SD1" else None
    contender.call()
    for name, preset in itertools.product(SAMPLERS, PRESETS):
        times: list[Sequence[float]] = []
        for _ in range(repeats):
            whole = untouched(contender, evaluations)
            ours, ideal = cached(contender, evaluations, preset, family, SAMPLERS[name])
            full = round(evaluations / PRESETS[preset][family]["speed_up"])
            times.append((whole, ours, ideal, with_helper(helper, evaluations, full) if helper else 0.0))
        whole, ours, ideal, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        cells = [name, preset, f"{whole:.3g} s", f"{ours:.3g} s", f"{whole / ours:.2f}x", f"{100 * ideal / ours:.0f} %"]
        yield [*cells, f"{theirs:.3g} s" if helper else ""]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--device", choices=LATENTS, default="cpu", help="cuda runs in float16 with device events")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8], help="pictures, of two rows each")
    parser.add_argument("--latent", type=int, help="height and width of the latent (default: the network's usual)")
    parser.add_argument("--small", action="store_true", help="narrow networks, to see that it runs")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    use_sdp_attention()
    print(written_on(options.device))
    print(f"{options.steps} steps, medians of {options.repeats} repeats, attention by torch's fused kernel\n")
    print(table(HEADINGS, []), flush=True)
    for name, pictures in itertools.product(options.networks, options.batch):
        size = options.latent or LATENTS[options.device].get(name, NETWORKS[name].latent)
        contender: Any = Contender(name, options.device, 2 * pictures, size, small=options.small)
        for cells in compare(contender, FAMILIES[name], options.steps, options.repeats):
            print(row([f"{name}, {size}x{size}", f"{2 * pictures}", *cells]), flush=True)
        del contender
        gc.collect()


if __name__ == "__main__":
    main()
