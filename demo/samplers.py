"""k-diffusion's samplers by the names that people know them under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from demo.k_diffusion_parts import sampling
from demo.tiny_model import Evaluate, Prompt, TinyModel

Wrap = Callable[[Evaluate], Evaluate]
"""What is done to the denoiser before the sampler gets it."""


@dataclass(frozen=True)
class Sampler:
    """One k-diffusion sampler: its function, whether it takes Karras sigmas, its evaluations per step, added noise."""

    function: Callable[..., Tensor]
    karras: bool = False
    order: int = 1
    noisy: bool = False

    def evaluations(self, steps: int) -> int:
        """Return how many denoiser calls `steps` steps make; the last step of a second-order sampler makes one."""
        return steps if self.order == 1 else 2 * steps - 1

    def sigmas(self, model: TinyModel, steps: int) -> Tensor:
        """Return the noise levels that `steps` steps go through, from the highest to 0."""
        if not self.karras:
            return model.sigmas(steps)
        sigmas: Tensor = sampling.get_sigmas_karras(steps, *model.sigma_range())
        return sigmas

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
        """Return one picture per prompt, RGB from 0 to 1, of shape (prompts, 3, 32, 32)."""
        sigmas = self.sigmas(model, steps)
        denoiser = wrap(model.denoiser(prompts, guidance))
        torch.manual_seed(seed)
        x: Any = self.function(denoiser, model.noise(len(prompts), seed) * sigmas[0], sigmas, disable=not progress)
        return model.decode(x)


SAMPLERS = {
    "Euler": Sampler(sampling.sample_euler),
    "Euler a": Sampler(sampling.sample_euler_ancestral, noisy=True),
    "Heun": Sampler(sampling.sample_heun, order=2),
    "DPM2": Sampler(sampling.sample_dpm_2, order=2),
    "DPM2 a": Sampler(sampling.sample_dpm_2_ancestral, order=2, noisy=True),
    "DPM++ 2S a": Sampler(sampling.sample_dpmpp_2s_ancestral, karras=True, order=2, noisy=True),
    "DPM++ 2M": Sampler(sampling.sample_dpmpp_2m, karras=True),
    "DPM++ SDE": Sampler(sampling.sample_dpmpp_sde, karras=True, order=2, noisy=True),
    "DPM++ 2M SDE": Sampler(sampling.sample_dpmpp_2m_sde, karras=True, noisy=True),
    "DPM++ 3M SDE": Sampler(sampling.sample_dpmpp_3m_sde, karras=True, noisy=True),
}
