"""A small trained text-conditioned U-Net of SD1's block structure: 32x32 RGB avatars in eight styles.

`tiny_avatars.safetensors` holds 3.2 M parameters in float16, trained as an eps-prediction DDPM with SD1's noise
schedule and classifier-free guidance dropout on 24,000 pictures (DiceBear avatar styles, CC0 1.0).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file
from torch import Tensor, nn

from demo.k_diffusion_parts import external

_FILES = Path(__file__).with_name("tiny_avatars")
_UNET_PREFIX = "model.diffusion_model."

Prompt = tuple[str, str]
"""A style and a background, such as ("lorelei", "bg-b6e3f4"); "<null>" leaves either open."""
Evaluate = Callable[..., Tensor]
"""Takes x of shape (pictures, 3, 32, 32) and a sigma or timestep per picture; returns a tensor of x's shape."""

UNCONDITIONAL: Prompt = ("<null>", "<null>")


class TinyModel(nn.Module):
    """The U-Net, its text embedding and its noise schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = json.loads(_FILES.with_suffix(".json").read_text(encoding="utf-8"))
        weights = {key: value.float() for key, value in load_file(_FILES.with_suffix(".safetensors")).items()}
        self._embedding = weights.pop("cond_embed.weight")
        self.unet = UNetModel(**self.config["unet"])
        self.unet.load_state_dict({key.removeprefix(_UNET_PREFIX): value for key, value in weights.items()})
        self.requires_grad_(False).eval()
        s = self.config["schedule"]
        betas = torch.linspace(s["start"] ** 0.5, s["end"] ** 0.5, s["steps"], dtype=torch.float64) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0).float()
        self._schedule = external.DiscreteEpsDDPMDenoiser(self._eps, self.alphas_cumprod, quantize=False)

    def prompts(self, count: int) -> list[Prompt]:
        """Return `count` prompts that go round all styles and backgrounds."""
        styles, backgrounds = self.config["styles"], self.config["backgrounds"]
        turns = len(styles)
        return [
            (styles[i % turns], "bg-" + backgrounds[(i + i // turns) % len(backgrounds)]) for i in range(count)
        ]  # fmt: skip

    def noise(self, count: int, seed: int) -> Tensor:
        """Return standard normal noise of shape (count, 3, 32, 32), each picture's own whatever the count."""
        image = self.config["image"]
        shape = (image["channels"], image["size"], image["size"])
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
        )

    def context(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the text embedding of `prompts`, of shape (prompts, 4, 64)."""
        vocabulary = self.config["vocab"]
        tokens = [[vocabulary.index(word) for word in ("<bos>", *prompt, "<eos>")] for prompt in prompts]
        embedding: Tensor = self._embedding[torch.tensor(tokens)]
        return embedding

    def sigmas(self, steps: int) -> Tensor:
        """Return the model's own `steps` noise levels, evenly spaced in time, and 0, as a tensor of steps + 1."""
        sigmas: Tensor = self._schedule.get_sigmas(steps)
        return sigmas

    def sigma_range(self) -> tuple[float, float]:
        """Return the lowest and the highest noise level."""
        return float(self._schedule.sigma_min), float(self._schedule.sigma_max)

    def denoiser(self, prompts: Sequence[Prompt], guidance: float) -> Evaluate:
        """Return the guided denoiser (x, sigma) -> denoised that k-diffusion's samplers take.

        Each evaluation is one U-Net call with the cond rows first and the uncond rows last.
        """
        return self._guided(self._schedule, prompts, guidance)

    def noise_predictor(self, prompts: Sequence[Prompt], guidance: float) -> Evaluate:
        """Return the guided noise prediction (x, timestep) -> eps at the variance-preserving scale of x."""
        return self._guided(self._eps, prompts, guidance)

    def decode(self, x: Tensor) -> Tensor:
        """Return `x` as RGB from 0 to 1."""
        mean = torch.tensor(self.config["image"]["mean"]).view(1, 3, 1, 1)
        rgb: Tensor = (x * self.config["image"]["std"] + mean + 1) / 2
        return rgb.clamp(0, 1)

    def _eps(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        eps: Tensor = self.unet(x, timesteps, context=context)
        return eps

    def _guided(self, evaluate: Evaluate, prompts: Sequence[Prompt], guidance: float) -> Evaluate:
        context = self.context([*prompts, *[UNCONDITIONAL] * len(prompts)])

        def guided(x: Tensor, level: Tensor) -> Tensor:
            both = evaluate(torch.cat([x, x]), torch.cat([level, level]), context=context)
            cond, uncond = both.chunk(2)
            return uncond + guidance * (cond - uncond)

        return guided
