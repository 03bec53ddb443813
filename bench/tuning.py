"""Is what a tuning keeps closer than the presets' own plans, on prompts and seeds that it was not found with?

Tunes by the extension's own search (`deepcache_ext.planning.tuning`) on the small networks of demo/tiny_model.py, once
for each of some prompts, and makes fresh pictures with what it kept, with the presets' own plans, and in as many steps
as cost the same. "untold" counts the tunings whose plan is less close than fewer steps, in the mean of the fresh
pictures, and that did not say so.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.parts.report import read_csv, standard_error, table, write_csv, written_on
from bench.parts.runs import ALL_SAMPLERS
from bench.presets import family_of
from deepcache_ext import SamplerKind, SamplingPass, Settings
from deepcache_ext.planning.tuning import Answer, answers
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.tuning.questions import questions
from demo import tiny_model
from demo.pictures import psnr
from demo.tiny_model import Prompt, TinyModel

SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "UniPC", "DPM++ 2M SDE")
FRESH_SEED = 50_000


@dataclass(frozen=True)
class Result:
    """One preset on one network, tuned for some prompts and seen on others."""

    network: str
    sampler: str
    steps: int
    guidance: float
    tunings: int
    pictures: int
    preset: str
    changed: int
    """How many tunings took another plan than the preset's own."""
    usual: float
    """PSNR of the preset's own plan on the fresh pictures, in dB, in the mean."""
    tuned: float
    """The same of the plans kept, in the mean over tunings."""
    gain_error: float
    """Standard error of the mean gain, over the pictures."""
    fewer: float
    told: int
    """How many tunings said that fewer steps are as close."""
    untold: int

    @property
    def case(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.network, self.sampler, self.steps, self.guidance, self.tunings, self.pictures, self.preset


class Pictures:
    """The pictures of some prompts, by way and seed, and how close they are to the full ones."""

    def __init__(self, model: TinyModel, sampler: str, steps: int, guidance: float, prompts: Sequence[Prompt]) -> None:
        self._model, self._name, self._steps, self._guidance = model, sampler, steps, guidance
        self._asked = ALL_SAMPLERS[sampler].ask(model, steps)
        self._prompts = list(prompts)
        self.closeness = functools.cache(self._closeness)
        self._full = functools.cache(functools.partial(self._make, steps))

    @property
    def kind(self) -> SamplerKind:
        """The sampler's kind, and whether its reuses are put right."""
        return replace(ALL_SAMPLERS[self._name].kind, pays_back=self._asked.kind.pays_back)

    def _closeness(self, way: Settings | int, seed: int) -> Tensor:
        """Return the PSNR to the full picture of each prompt, of shape (prompts,)."""
        return psnr(self._make(way, seed), self._full(seed))

    def _make(self, way: Settings | int, seed: int) -> Tensor:
        sampler = ALL_SAMPLERS[self._name]
        make = functools.partial(
            sampler.sample, self._model, self._prompts, guidance=self._guidance, seed=seed * len(self._prompts)
        )
        if isinstance(way, int):
            return make(steps=way)
        total, reuse = sampler.evaluations(self._steps), reuse_cost(way.depth, family_of(self._model))
        with SamplingPass(
            self._model.unet,
            way,
            total,
            sampler=self.kind,
            run=self._asked,
            reuse=reuse,
            levels=self._model.levels,
        ) as run:
            return make(steps=self._steps, wrap=run.wrap)


def measure(model: TinyModel, sampler: str, steps: int, guidance: float, tunings: int, pictures: int) -> list[Result]:
    """Return a result for each preset."""
    of = ALL_SAMPLERS[sampler]
    evaluations = {count: of.evaluations(count) for count in range(2, steps + 1)}
    prompts = model.prompts(tunings + pictures)
    seen = Pictures(model, sampler, steps, guidance, prompts[:tunings])
    asked = questions(seen.kind, of.evaluations(steps), family_of(model), evaluations)
    fresh = Pictures(model, sampler, steps, guidance, prompts[tunings:])

    def tuned(number: int) -> dict[str, Answer]:
        return dict(answers(asked, lambda way, seed: [float(seen.closeness(way, 1 + seed)[number])]))

    found = [tuned(number) for number in range(tunings)]
    results = []
    for preset, question in asked.items():
        kept = [of_tuning[preset] for of_tuning in found]
        usual = fresh.closeness(question.usual, FRESH_SEED)
        by_tuning = torch.stack([fresh.closeness(answer.settings, FRESH_SEED) for answer in kept])
        fewer = torch.stack([fresh.closeness(answer.fewer_steps, FRESH_SEED) for answer in kept])
        worse = (by_tuning.mean(dim=1) < fewer.mean(dim=1)).tolist()
        gain = by_tuning.mean(dim=0) - usual
        case = (model.name, sampler, steps, guidance, tunings, pictures, preset)
        figures = float(usual.mean()), float(by_tuning.mean()), standard_error(gain), float(fewer.mean())
        told = [not answer.is_worth_it for answer in kept]
        untold = sum(is_worse and not said for is_worse, said in zip(worse, told, strict=True))
        changed = sum(answer.settings != question.usual for answer in kept)
        results.append(Result(*case, changed, *figures, sum(told), untold))
    return results


def gains(results: Sequence[Result]) -> str:
    """Return a table with a row for each sampler and preset, and the mean over samplers below."""
    rows = [
        [
            r.network, r.sampler, f"{r.steps}", r.preset, f"{r.changed} of {r.tunings}", f"{r.usual:.1f}",
            f"{r.tuned - r.usual:+.2f} ± {r.gain_error:.2f}", f"{r.tuned - r.fewer:+.1f}", f"{r.told}", f"{r.untold}",
        ]
        for r in results
    ]  # fmt: skip
    headings = ["network", "sampler", "steps", "preset", "changed", "usual, dB", "gain", "over fewer", "told", "untold"]
    return table(headings, rows)


def means(results: Sequence[Result]) -> str:
    """Return a table of the mean gain by sampler and network."""
    networks = [*dict.fromkeys(r.network for r in results), "all"]
    samplers = [*dict.fromkeys(r.sampler for r in results), "all"]

    def gain(sampler: str, network: str) -> str:
        found = [r.tuned - r.usual for r in results if sampler in {r.sampler, "all"} and network in {r.network, "all"}]
        return f"{sum(found) / len(found):+.2f}" if found else ""

    rows = [[sampler, *(gain(sampler, network) for network in networks)] for sampler in samplers]
    return table(["sampler", *networks], rows)


def main() -> None:
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tiny_model.NAMES, default=tiny_model.NAMES)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", nargs="+", type=int, default=[20])
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--tunings", type=int, default=8, help="prompts to tune for, each alone")
    parser.add_argument("--pictures", type=int, default=24, help="fresh pictures")
    parser.add_argument("--out", type=Path, default=Path("docs/tuning.csv"), help="what is there is added to")
    parser.add_argument("--show", action="store_true", help="print the tables of what is there")
    options = parser.parse_args()
    found = read_csv(Result, options.out) if options.out.exists() else []
    print(written_on())
    if not options.show:
        for network in options.networks:
            model = TinyModel(network)
            for steps, sampler in itertools.product(options.steps, options.samplers):
                results = measure(model, sampler, steps, options.guidance, options.tunings, options.pictures)
                cases = {result.case for result in results}
                found = [other for other in found if other.case not in cases] + results
                print(gains(results), flush=True)
                write_csv(found, options.out)
    print(f"\n{gains(found)}\n\nMean gain in dB\n\n{means(found)}")


if __name__ == "__main__":
    main()
