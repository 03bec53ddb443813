"""Sampling many pictures with one sampler, cached or not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.parts.diffusers_samplers import DIFFUSERS_SAMPLERS, DiffusersSampler
from deepcache_ext import SamplerKind, SamplingPass, Settings
from deepcache_ext.features.forecast import Predictor
from demo.samplers import SAMPLERS, Sampler
from demo.tiny_model import TinyModel

ALL_SAMPLERS: dict[str, Sampler | DiffusersSampler] = {**SAMPLERS, **DIFFUSERS_SAMPLERS}


@dataclass(frozen=True)
class Run:
    """What one way of sampling made of the same prompts and seeds."""

    pictures: Tensor
    """RGB from 0 to 1, of shape (pictures, 3, height, width)."""
    full: float
    reused: float
    """Evaluations of each kind, as a mean over the batches where they differ."""

    def compute(self, reuse: float) -> float:
        """Return the cost in full evaluations, where a reuse costs `reuse` of one."""
        return self.full + self.reused * reuse


@dataclass(frozen=True)
class Task:
    """What every run of a comparison samples."""

    model: TinyModel
    sampler: str
    pictures: int
    batch: int
    guidance: float
    seed: int = 1000
    """Of the first picture; each of the others has one more than the one before."""

    def kind(self, steps: int) -> SamplerKind:
        """Return the sampler's kind in `steps` steps, with whether its reuses are put right."""
        sampler = ALL_SAMPLERS[self.sampler]
        return replace(sampler.kind, pays_back=sampler.ask(self.model, steps).kind.pays_back)

    def run(
        self,
        steps: int,
        settings: Settings | None = None,
        *,
        paired: bool = True,
        predictor: Predictor | None = None,
        reuse: float | None = None,
        asks: bool = True,
    ) -> Run:
        """Sample in `steps` steps, cached by `settings` if there are any, and with another `predictor` than usual.

        `reuse` is its cost as a part of a full evaluation, about SD1's if it is None.
        Without `asks` nothing but its kind is known of the sampler.
        Unless `paired`, a second-order sampler is scheduled as if each of its evaluations were a step of its own.
        """
        sampler = ALL_SAMPLERS[self.sampler]
        total = sampler.evaluations(steps)
        prompts = self.model.prompts(self.pictures)
        made, full, reused = [], total, 0
        for first in range(0, self.pictures, self.batch):
            part = prompts[first : first + self.batch]
            options = {"guidance": self.guidance, "seed": self.seed + first}
            if settings is None:
                made.append(sampler.sample(self.model, part, steps, **options))  # type: ignore[arg-type]
                continue
            asked = sampler.ask(self.model, steps) if asks else None
            pays_back = asked is not None and asked.kind.pays_back
            kind = replace(sampler.kind, stages=sampler.kind.stages if paired else 1, pays_back=pays_back)
            with SamplingPass(
                self.model.unet,
                settings,
                total,
                sampler=kind,
                run=asked,
                reuse=reuse,
                levels=self.model.levels,
                predictor=predictor,
            ) as run:
                made.append(sampler.sample(self.model, part, steps, wrap=run.wrap, **options))  # type: ignore[arg-type]
            full, reused = run.statistics.full, run.statistics.reused
            if full + reused != total:
                raise RuntimeError(f"{self.sampler} made {full + reused} evaluations at {steps} steps, not {total}")
        return Run(torch.cat(made), full, reused)
