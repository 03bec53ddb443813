"""Count the multiply-accumulates of an evaluation by depth, and compare the run averages with the paper's.

Counted with torch's flop counter on the meta device, so that full-size networks take seconds and no memory. "G" is
10^9 for one image; convolutions and linear layers as the paper counts them, and with attention products.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from bench.parts.control_net import ControlledForward, ControlNet
from bench.parts.networks import NETWORKS
from bench.parts.report import save_figure, table, written_on
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.network.unet import max_depth

PAPER_LDM = {1: 99.82, 2: 52.12, 3: 36.48, 5: 23.50, 10: 13.97, 20: 9.39}
PAPER_LDM_EVALUATIONS = 250
PAPER_SD_EVALUATIONS = 51
"""PLMS with 50 steps evaluates twice in its first step."""
PAPER_SD = 130.45

CONTEXT = 768
"""Width of SD1.5's text embedding."""
HELPER_DEPTHS = 3

CONTROLLED = ("SD1.5", "SDXL")
INTERVAL = 5
"""Of the speed-ups with a ControlNet."""

FAMILIES = {"SD1": "SD1.5", "SD2": "SD2.1", "SDXL": "SDXL"}
"""The network that stands for each family of checkpoints."""

Cost = tuple[float, float]
"""Multiply-accumulates of convolutions and linear layers, and the same with attention products."""


@functools.lru_cache
def costs(name: str, latent: int = 0) -> list[Cost]:
    """Return the cost of a refresh and of a reuse at depth 1, 2, ... of one image through network `name`.

    `latent` is its height and width, 0 the network's usual.
    """
    network = NETWORKS[name]
    unet = network.build(device="meta")
    inputs = network.inputs(unet, rows=1, latent=latent or network.latent, device="meta")
    result = []
    for depth in range(1, max_depth(unet) + 1):
        with SamplingPass(unet, Settings(interval=2, depth=depth)) as run:
            run.start_evaluation()
            refresh = _count(functools.partial(unet, **inputs))
            run.start_evaluation()
            result.append(_count(functools.partial(unet, **inputs)))
            if run.statistics.reused != 1:
                raise RuntimeError(f"{name} did not reuse at depth {depth}: {run.statistics}")
        if depth == 1:
            result.insert(0, refresh)
    return result


def controlled_costs(name: str, depth: int) -> tuple[float, float, float]:
    """Return what a refresh, a reuse with a whole control model and a reuse with a short one cost, all of it counted.

    For one image through network `name` and one ControlNet of its width.
    """
    network = NETWORKS[name]
    unet = network.build(device="meta")
    inputs = network.inputs(unet, rows=1, device="meta")
    control = ControlNet(unet)
    hint = torch.zeros(1, 3, 8 * network.latent, 8 * network.latent, device="meta")
    unet.forward = ControlledForward(network, unet, control, hint)
    found = []
    for models in ([], [control]):
        settings = Settings(interval=2, depth=depth)
        with SamplingPass(unet, settings, control_models=functools.partial(list, models)) as run:
            run.start_evaluation()
            refresh = _count(functools.partial(unet, **inputs))[1]
            run.start_evaluation()
            found.append(_count(functools.partial(unet, **inputs))[1])
    return refresh, found[0], found[1]


def fractions(name: str) -> list[float]:
    """Return the cost of a reuse at depth 1, 2, ... as fractions of a refresh's, attention included."""
    refresh, *reuses = costs(name)
    return [reuse[1] / refresh[1] for reuse in reuses]


def panel_costs() -> dict[str, dict[str, Any]]:
    """Return the costs of a full evaluation and of a reuse at depth 1, 2, ... by family, attention included."""
    by_family = {family: [cost for _, cost in costs(name)] for family, name in FAMILIES.items()}
    return {family: {"full": full, "reuse": reuses} for family, (full, *reuses) in by_family.items()}


def helper_reuses(depths: int) -> list[float]:
    """Return what DeepCacheSDHelper's reuses cost on diffusers' U-Net of SD1.5's configuration, at depth 1, 2, ..."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(cross_attention_dim=CONTEXT).eval()
        x, context = torch.zeros(1, 4, 64, 64), torch.zeros(1, 77, CONTEXT)
    unet.requires_grad_(requires_grad=False)
    result = []
    for depth in range(1, depths + 1):
        scheduler = SimpleNamespace(timesteps=[0, 1])
        helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=unet, scheduler=scheduler))
        helper.set_params(cache_interval=2, cache_branch_id=depth - 1)
        helper.enable()
        refresh, reuse = (
            _count(functools.partial(unet, x, torch.tensor(timestep), encoder_hidden_states=context))
            for timestep in scheduler.timesteps
        )
        helper.disable()
        if reuse >= refresh:
            raise RuntimeError(f"DeepCacheSDHelper did not reuse at depth {depth}")
        result.append(reuse[1])
    return result


def average(cost: list[Cost], evaluations: int, interval: int, depth: int) -> float:
    """Return the mean cost of an evaluation of a uniform run, attention products left out."""
    full = -(-evaluations // interval)
    return (full * cost[0][0] + (evaluations - full) * cost[depth][0]) / evaluations


def _count(call: Callable[[], Any]) -> Cost:
    with FlopCounterMode(display=False) as counter:
        call()
    by_operation = counter.get_flop_counts()["Global"]
    total = sum(by_operation.values()) / 2
    attention = sum(flops for operation, flops in by_operation.items() if _is_attention(operation)) / 2
    return total - attention, total


def _is_attention(operation: Any) -> bool:
    return str(operation) in ("aten.bmm", "aten.baddbmm") or "attention" in str(operation)


def main() -> None:
    """Print the tables and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/macs.png"), help="the picture (default docs/macs.png)")
    parser.add_argument("--costs", type=Path, help="write the costs that the WebUI's panel uses to this file")
    options = parser.parse_args()
    if options.costs is not None:
        options.costs.write_text(json.dumps(panel_costs(), indent=2) + "\n", encoding="utf-8")
    print(written_on())
    names = ("SD1.5", "SD2.1", "SDXL", "LDM-4-G")
    depths = range(1, max(len(costs(name)) for name in names))
    headings = ["G", "full", *(f"depth {depth}" for depth in depths)]
    for part, title in enumerate(("convolutions and linear layers", "with attention products")):
        rows = [
            [f"{name}, {NETWORKS[name].latent}x{NETWORKS[name].latent} latent"]
            + [f"{cost[part] / 1e9:.2f}" for cost in costs(name)]
            + [""] * (len(headings) - 1 - len(costs(name)))
            for name in names
        ]
        print(f"\nOne evaluation, {title}\n")
        print(table(headings, rows))

    print("\nWith a ControlNet, depth 1, with attention products\n")
    rows = []
    for name in CONTROLLED:
        refresh, whole, short = controlled_costs(name, 1)
        cells = [f"{name}, {NETWORKS[name].latent}x{NETWORKS[name].latent} latent"]
        cells += [f"{cost / 1e9:.2f}" for cost in (refresh, whole, short)]
        cells += [f"{INTERVAL / (1 + (INTERVAL - 1) * reuse / refresh):.2f}x" for reuse in (whole, short)]
        rows.append(cells)
    speeds = [f"N = {INTERVAL}, {what}" for what in ("control model whole", "short")]
    print(table(["G", "full", "reuse, control model whole", "reuse, short", *speeds], rows))

    print("\nLDM-4-G, mean of 250 evaluations, depth 1\n")
    ldm = costs("LDM-4-G")
    rows = []
    for interval, published in PAPER_LDM.items():
        ours = average(ldm, PAPER_LDM_EVALUATIONS, interval, 1) / 1e9
        rows.append([str(interval), f"{ours:.2f}", f"{published:.2f}", f"{100 * (ours / published - 1):+.2f} %"])
    print(table(["N", "ours", "paper", "difference"], rows))

    ours = average(costs("SD1.5"), PAPER_SD_EVALUATIONS, 5, 2) / 1e9
    print(f"\nSD1.5, mean of {PAPER_SD_EVALUATIONS} PLMS evaluations, N = 5, depth 2\n")
    difference = f"{100 * (ours / PAPER_SD - 1):+.2f} %"
    print(table(["ours", "paper", "difference"], [[f"{ours:.2f}", f"{PAPER_SD}", difference]]))

    print("\nSD1.5, a reuse, with attention products\n")
    helper = helper_reuses(HELPER_DEPTHS)
    rows = [
        [str(depth), f"{costs('SD1.5')[depth][1] / 1e9:.4f}", f"{cost / 1e9:.4f}"]
        for depth, cost in enumerate(helper, start=1)
    ]
    print(table(["depth", "ours", "DeepCacheSDHelper"], rows))
    _draw(names, options.out)


def _draw(names: tuple[str, ...], out: Path) -> None:
    def draw(axes: Any) -> None:
        for name in names:
            values = [100 * fraction for fraction in fractions(name)]
            axes.plot(range(1, len(values) + 1), values, marker="o", label=name)
        axes.set(xlabel="depth", ylabel="cost of a reuse, % of a full evaluation", ylim=(0, 100))
        axes.legend()

    save_figure(out, draw)


if __name__ == "__main__":
    main()
