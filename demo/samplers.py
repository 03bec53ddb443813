"""k-diffusion's samplers by the names that people know them under."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepcache_ext.planning import dry_run
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.sampler_run import SamplerRun
from demo.k_diffusion_parts import sampling
from demo.tiny_model import Evaluate, Prompt, TinyModel

Wrap = Callable[[Evaluate], Evaluate]
"""What is done to the denoiser before the sampler gets it."""


@dataclass(frozen=True)
class Sampler:
    """One k-diffusion sampler: its function, its kind and whether it takes Karras sigmas."""

    function: Callable[..., Tensor]
    kind: SamplerKind = SamplerKind()
    karras: bool = False

    def evaluations(self, steps: int) -> int:
        """Return how many denoiser calls `steps` steps make; the last step of a second-order sampler makes one."""
        return steps if self.kind.stages == 1 else 2 * steps - 1

    def sigmas(self, model: TinyModel, steps: int) -> Tensor:
        """Return the noise levels that `steps` steps go through, from the highest to 0."""
        if not self.karras:
            return model.sigmas(steps)
        sigmas: Tensor = sampling.get_sigmas_karras(steps, *model.sigma_range(), device=model.alphas_cumprod.device)
        return sigmas

    def ask(self, model: TinyModel, steps: int) -> SamplerRun:
        """Return what the sampler answers about a run of `steps` steps."""
        return self.ask_over(self.sigmas(model, steps))

    def ask_over(self, sigmas: Tensor) -> SamplerRun:
        """Return what the sampler answers about a run over those noise levels, of shape (steps + 1,)."""
        parameters = inspect.signature(self.function).parameters
        noise = (
            {"noise_sampler": lambda *_: torch.randn(dry_run.SHAPE).double()} if "noise_sampler" in parameters else {}
        )
        levels = sigmas.cpu()
        return dry_run.ask(lambda denoise, x: self.function(denoise, x, levels, disable=True, **noise))

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
        progress: bool = False,
    ) -> Tensor:
        """Return one picture per prompt, RGB from 0 to 1, of shape (prompts, 3, height, width)."""
        sigmas = self.sigmas(model, steps)
        denoiser = wrap(model.denoiser(prompts, guidance))
        torch.manual_seed(seed)
        x: Any = self.function(denoiser, model.noise(len(prompts), seed) * sigmas[0], sigmas, disable=not progress)
        return model.decode(x)


_TWO_STAGES = SamplerKind(stages=2)
_NOISY = SamplerKind(noisy=True)
_NOISY_TWO_STAGES = SamplerKind(stages=2, noisy=True)
_NOISY_EXTRAPOLATING = SamplerKind(noisy=True, extrapolates=True)

SAMPLERS = {
    "Euler": Sampler(sampling.sample_euler),
    "Euler a": Sampler(sampling.sample_euler_ancestral, _NOISY),
    "Heun": Sampler(sampling.sample_heun, _TWO_STAGES),
    "DPM2": Sampler(sampling.sample_dpm_2, _TWO_STAGES),
    "DPM2 a": Sampler(sampling.sample_dpm_2_ancestral, _NOISY_TWO_STAGES),
    "DPM++ 2S a": Sampler(sampling.sample_dpmpp_2s_ancestral, _NOISY_TWO_STAGES, karras=True),
    "DPM++ 2M": Sampler(sampling.sample_dpmpp_2m, SamplerKind(extrapolates=True), karras=True),
    "DPM++ SDE": Sampler(sampling.sample_dpmpp_sde, _NOISY_TWO_STAGES, karras=True),
    "DPM++ 2M SDE": Sampler(sampling.sample_dpmpp_2m_sde, _NOISY_EXTRAPOLATING, karras=True),
    "DPM++ 3M SDE": Sampler(sampling.sample_dpmpp_3m_sde, _NOISY_EXTRAPOLATING, karras=True),
    "LMS": Sampler(sampling.sample_lms, SamplerKind(extrapolates=True)),
}
