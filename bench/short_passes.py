"""From how many evaluations on does caching pay in a pass over a picture, as img2img and face fixers make them?

The pass makes the last steps of a run from a picture of the same network to which noise is added. Each preset is
compared with as many evaluations as cost about the same, over the same noise levels and spread evenly among those of
the pass. PSNR to the pass without caching, the mean over the pictures.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.parts.report import read_csv, table, with_result, write_csv, written_on
from bench.presets import family_of, networks
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import PRESETS, for_run
from demo import tiny_model
from demo.pictures import psnr
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel

USUAL = ("Euler", "Euler a", "Heun", "DPM++ 2M")
SEED = 1000


@dataclass(frozen=True)
class Result:
    """One preset in one pass."""

    network: str
    sampler: str
    steps: int
    evaluations: int
    preset: str
    full: int
    mean: float
    fewer: int
    """Evaluations that cost about the same."""
    fewer_mean: float

    @property
    def case(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.network, self.sampler, self.steps, self.evaluations, self.preset

    @property
    def gain(self) -> float:
        """What the preset gains over fewer evaluations, in dB."""
        return self.mean - self.fewer_mean


class Pass:
    """The last `count` steps of a run, from a given picture."""

    def __init__(self, model: TinyModel, sampler: str, steps: int, count: int, pictures: int, guidance: float) -> None:
        self.model = model
        self.sampler = SAMPLERS[sampler]
        self.evaluations = self.sampler.evaluations(count)
        self._prompts = model.prompts(pictures)
        self._guidance = guidance
        self._sigmas = self.sampler.sigmas(model, steps)[-count - 1 :]
        self._asked = self.sampler.ask_over(self._sigmas)
        self.kind = replace(self.sampler.kind, pays_back=self._asked.kind.pays_back)

    def picture(self, start: Tensor, settings: Settings | None = None, count: int | None = None) -> tuple[Tensor, int]:
        """Return what the pass makes of `start` and its full evaluations: cached, or in `count` steps."""
        sigmas = self._sigmas
        if count is not None:
            sigmas = sigmas[np.linspace(0, len(sigmas) - 1, count + 1).round().astype(int)]
        if settings is None:
            return self._made(start, sigmas, self.model.denoiser(self._prompts, self._guidance)), self.evaluations
        family = family_of(self.model)
        with SamplingPass(
            self.model.unet,
            settings,
            self.evaluations,
            sampler=self.kind,
            run=self._asked,
            reuse=reuse_cost(self.kind.depth(settings), family),
            levels=self.model.levels,
        ) as run:
            made = self._made(start, sigmas, run.wrap(self.model.denoiser(self._prompts, self._guidance)))
        return made, run.statistics.full

    @torch.no_grad()
    def _made(self, start: Tensor, sigmas: Tensor, denoiser: object) -> Tensor:
        torch.manual_seed(SEED)
        x = start + self.model.noise(len(start), SEED) * sigmas[0]
        return self.model.decode(self.sampler.function(denoiser, x, sigmas, disable=True))


@torch.no_grad()
def starts(model: TinyModel, pictures: int, guidance: float) -> Tensor:
    """Return latents of pictures to start from."""
    sigmas = model.sigmas(20)
    noise = model.noise(pictures, SEED + 500) * sigmas[0]
    return SAMPLERS["Euler"].function(model.denoiser(model.prompts(pictures), guidance), noise, sigmas, disable=True)


def compare(of: Pass, start: Tensor, sampler: str, steps: int) -> Iterator[Result]:
    """Yield a result for each preset that reuses something in the pass."""
    reference, _ = of.picture(start)
    family = family_of(of.model)
    for name, settings in PRESETS.items():
        chosen = for_run(Settings(**settings[family]), name, of.kind)
        made, full = of.picture(start, chosen)
        if full == of.evaluations:
            continue
        reuse = reuse_cost(of.kind.depth(chosen), family)
        compute = full + (of.evaluations - full) * reuse
        fewer = min(range(1, 50), key=lambda count: abs(of.sampler.evaluations(count) - compute))
        without, _ = of.picture(start, count=fewer)
        means = float(psnr(made, reference).mean()), fewer, float(psnr(without, reference).mean())
        yield Result(of.model.name, sampler, steps, of.evaluations, name, full, *means)


def gains(results: list[Result]) -> str:
    """Return a table: by number of evaluations, each preset's mean gain, its least one and how often it is one."""
    rows = []
    for count in sorted({result.evaluations for result in results}):
        cells = []
        for name in PRESETS:
            found = [r.gain for r in results if (r.evaluations, r.preset) == (count, name)]
            won = sum(gain > 0 for gain in found)
            cells.append(f"{np.mean(found):+.1f} ({min(found):+.1f}), {won} of {len(found)}" if found else "")
        rows.append([f"{count}", *cells])
    return table(["evaluations", *PRESETS], rows)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tiny_model.NAMES, default=["avatars", "emoji", "clipart"])
    parser.add_argument("--weights", type=Path, help="a folder of networks in their place, as for bench presets")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=USUAL)
    parser.add_argument("--steps", nargs="+", type=int, default=[20])
    parser.add_argument("--counts", nargs="+", type=int, default=[*range(2, 11)])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path("docs/short-passes.csv"), help="what is there is added to")
    parser.add_argument("--show", action="store_true", help="print the table of what is there")
    options = parser.parse_args()
    print(written_on())
    found = read_csv(Result, options.out) if options.out.exists() else []
    for model in () if options.show else networks(options.networks, options.weights):
        start = starts(model, options.pictures, options.guidance)
        for sampler, steps, count in itertools.product(options.samplers, options.steps, options.counts):
            of = Pass(model, sampler, steps, count, options.pictures, options.guidance)
            for result in compare(of, start, sampler, steps):
                found = with_result(found, result)
            write_csv(found, options.out)
    print(f"\nGain over fewer evaluations in dB, mean (least), and how often there is one\n\n{gains(found)}")


if __name__ == "__main__":
    main()
