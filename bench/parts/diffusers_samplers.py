"""DDIM, PLMS and UniPC from diffusers, driving the small networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, PNDMScheduler, UniPCMultistepScheduler
from torch import Tensor

from deepcache_ext import SamplerKind
from deepcache_ext.planning import dry_run
from deepcache_ext.planning.sampler_run import SamplerRun
from demo.samplers import Wrap
from demo.tiny_model import Prompt, TinyModel


@dataclass(frozen=True)
class DiffusersSampler:
    """One of diffusers' schedulers with `demo.samplers.Sampler`'s interface."""

    scheduler: Callable[..., Any]
    kind: SamplerKind = SamplerKind()
    extra_evaluations: int = 0
    eta: float = 0.0
    """How much noise DDIM adds, as a part of what an ancestral sampler does."""

    def evaluations(self, steps: int) -> int:
        """Return how many denoiser calls `steps` steps make."""
        return steps + self.extra_evaluations

    def ask(self, model: TinyModel, steps: int) -> SamplerRun:
        """Return what the sampler answers about a run of `steps` steps."""
        return dry_run.ask(lambda predict, x: self._walk(model, steps, predict, x))

    @torch.no_grad()
    def sample(
        self,
        model: TinyModel,
        prompts: list[Prompt],
        steps: int,
        *,
        guidance: float = 3.0,
        seed: int = 1,
        wrap: Wrap = lambda denoiser: denoiser,
    ) -> Tensor:
        """Return one picture per prompt, RGB from 0 to 1, of shape (prompts, 3, height, width)."""
        torch.manual_seed(seed)
        predict = wrap(model.noise_predictor(prompts, guidance))
        return model.decode(self._walk(model, steps, predict, model.noise(len(prompts), seed)))

    def _walk(self, model: TinyModel, steps: int, predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        """Return what the steps make of `noise` with outputs of `predict`, which takes x and timesteps."""
        alphas = model.alphas_cumprod.cpu()
        betas = 1 - alphas / torch.cat([torch.ones(1), alphas[:-1]])
        scheduler = self.scheduler(trained_betas=betas.numpy(), num_train_timesteps=len(betas), steps_offset=1)
        scheduler.set_timesteps(steps, device=noise.device)
        x: Tensor = noise * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            eps = predict(scheduler.scale_model_input(x, timestep), timestep.expand(len(x)))
            added = {"eta": self.eta} if self.eta else {}
            x = scheduler.step(eps, timestep, x, **added).prev_sample
        return x


def ddim(**options: Any) -> Any:
    """Return diffusers' DDIM as the WebUI has it."""
    return DDIMScheduler(**options, clip_sample=False, set_alpha_to_one=False)


def _plms(**options: Any) -> Any:
    return PNDMScheduler(**options, skip_prk_steps=True)


def _unipc(**options: Any) -> Any:
    return UniPCMultistepScheduler(**options)


DIFFUSERS_SAMPLERS = {
    "DDIM": DiffusersSampler(ddim),
    "PLMS": DiffusersSampler(_plms, extra_evaluations=1),
    "UniPC": DiffusersSampler(_unipc),
}
