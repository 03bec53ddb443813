"""How much memory does a cached run take at its peak, beside what an untouched one does?

Counted on full-size networks without weights (torch's device "meta", which works out nothing but shapes), in half
precision and with fused attention, over whole runs with every second evaluation in full. So the machine does not
matter. What an operation takes and frees within itself is not seen; on a card an allocator rounds up.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.parts.allocated import Allocated
from bench.parts.networks import NETWORKS, in_precision, use_sdp_attention
from bench.parts.report import row, table
from deepcache_ext import SamplingPass, Settings
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel

EVALUATIONS = 8
MIB = 2**20
HEADINGS = ("network", "rows", "sampler", "depth", "untouched, MiB", "cached at the peak, MiB", "kept, MiB")


@dataclass(frozen=True)
class Taken:
    """Bytes that a run takes beside weights and inputs."""

    untouched: int
    """At the peak of an untouched call."""
    cached: int
    """At the peak of the cached run."""
    kept: int
    """Between its evaluations, in the end."""


class Network:
    """A full-size U-Net without weights."""

    def __init__(self, name: str, rows: int) -> None:
        network = NETWORKS[name]
        use_sdp_attention()
        self.unet: Any = in_precision(network.build(device="meta"), torch.float16)
        for module in filter(None, (self.unet.time_embed, getattr(self.unet, "label_emb", None))):
            module.register_forward_pre_hook(_in_half)  # as autocast, which this device has not
        self.inputs = network.inputs(self.unet, rows, dtype=torch.float16, device="meta")
        self.inputs["timesteps"] = self.inputs["timesteps"].float()

    def measure(self, sampler: str, depth: int) -> Taken:
        """Return what a run takes with a sampler and at a depth; raises RuntimeError if it did not cache."""
        model, sampled = TinyModel(), SAMPLERS[sampler]
        asked = sampled.ask(model, EVALUATIONS)
        kind = replace(sampled.kind, pays_back=asked.kind.pays_back)
        options: dict[str, Any] = {"sampler": kind, "run": asked, "levels": model.levels}
        untouched = self._run(lambda: None, 1).peak
        with SamplingPass(self.unet, Settings(interval=2, depth=depth), EVALUATIONS, **options) as run:
            cached = self._run(run.start_evaluation, EVALUATIONS)
            if run.statistics.error or run.statistics.reused != EVALUATIONS // 2:
                raise RuntimeError(f"every second evaluation was to reuse; {run.statistics}")
            return Taken(untouched, cached.peak, cached.now)

    @torch.no_grad()
    def _run(self, begin: Callable[[], object], evaluations: int) -> Allocated:
        allocated = Allocated()
        with mock.patch("torch.nn.functional.scaled_dot_product_attention", _fused), allocated:
            for _ in range(evaluations):
                begin()
                self.unet(**self.inputs)
        return allocated


def _in_half(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].half(),)


def _fused(query: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return what a fused kernel leaves: its output, and no matrix of weights."""
    return torch.empty_like(query)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["SD1.5", "SDXL"])
    parser.add_argument("--rows", nargs="+", type=int, default=[2, 8], help="two for each picture")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["Euler", "Euler a"])
    parser.add_argument("--depths", nargs="+", type=int, default=[0, 1, 3])
    options = parser.parse_args()
    print(table(HEADINGS, []), flush=True)
    for name, rows in itertools.product(options.networks, options.rows):
        network = Network(name, rows)
        for sampler, depth in itertools.product(options.samplers, options.depths):
            taken = network.measure(sampler, depth)
            more = (taken.cached - taken.untouched) / MIB
            figures = f"{taken.untouched / MIB:.0f}", f"{more:+.0f}", f"{taken.kept / MIB:.0f}"
            print(row([name, f"{rows}", sampler, f"{depth}", *figures]), flush=True)


if __name__ == "__main__":
    main()
