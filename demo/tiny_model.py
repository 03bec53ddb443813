"""Small trained text-conditioned U-Nets, each with its noise schedule; weights lie beside this file.

All are trained with SD1's noise schedule and classifier-free guidance dropout:

* "avatars", the demo's: SD1's block structure, predicts the noise, 32x32 RGB avatars (DiceBear styles, CC0 1.0);
* "emoji": SDXL's block structure (sgm), predicts the noise in the latent space of a small autoencoder, 128x128 RGB
  pictures (Noto emoji, Apache 2.0);
* "clipart": SD2's block structure, predicts v, in the same latent space (Open Clip Art, public domain).

bench/train.py trained the last two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcache_ext.features.denoised import NoiseLevels, Prediction
from demo import unet_packages, weights
from demo.autoencoder import Decoder
from demo.k_diffusion_parts import external

NAMES = ("avatars", "emoji", "clipart")
_UNET_PREFIX = "model.diffusion_model."

Prompt = tuple[str, str]
"""A style and a background, such as ("lorelei", "bg-b6e3f4"); "<null>" leaves either open."""
Evaluate = Callable[..., Tensor]
"""Takes x of shape (pictures, channels, height, width) and a level for each picture; returns a tensor of x's shape."""

UNCONDITIONAL: Prompt = ("<null>", "<null>")


def files(name: str) -> Path:
    """Return where the named network's files lie, without their endings."""
    return Path(__file__).with_name(f"tiny_{name}")


def unet_class(package: str) -> Any:
    """Return the U-Net's class of "ldm" (SD1, SD2) or "sgm" (SDXL)."""
    return (unet_packages.sgm() if package == "sgm" else unet_packages.ldm()).UNetModel


def alphas_cumprod(schedule: dict[str, Any]) -> Tensor:
    """Return the products of a "scaled_linear" noise schedule, of shape (steps,)."""
    betas = (
        torch.linspace(schedule["start"] ** 0.5, schedule["end"] ** 0.5, schedule["steps"], dtype=torch.float64) ** 2
    )
    return torch.cumprod(1 - betas, dim=0).float()


class TinyModel(nn.Module):
    """A named network: its U-Net, text embedding, noise schedule, and decoder if it works on latents.

    With `config` the network is the one that this JSON file describes; its weights are in the safetensors files beside
    it whose names are its own, with or without an ending such as "-0". It samples on the device that it is moved to,
    from the same noise everywhere.
    """

    alphas_cumprod: Tensor
    _embedding: Tensor

    def __init__(self, name: str = "avatars", config: Path | None = None) -> None:
        super().__init__()
        self.name = name
        config = config or files(name).with_suffix(".json")
        self.config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        stored: dict[str, Tensor] = {}
        for file in sorted(config.parent.glob("*.safetensors")):
            if re.fullmatch(rf"{re.escape(config.stem)}(-\d+)?", file.stem):
                stored |= weights.load(file)
        self.register_buffer("_embedding", stored.pop("cond_embed.weight"))
        self.unet = unet_class(self.config.get("package", "ldm"))(**self.config["unet"])
        self.unet.load_state_dict({key.removeprefix(_UNET_PREFIX): value for key, value in stored.items()})
        self._decoder: Decoder | None = None
        if "autoencoder" in self.config:
            self._decoder = _decoder(config.with_name(self.config["autoencoder"]))
        self.requires_grad_(False).eval()
        self.register_buffer("alphas_cumprod", alphas_cumprod(self.config["schedule"]))
        self.prediction: Prediction = self.config["prediction"]
        of_prediction = {"eps": external.DiscreteEpsDDPMDenoiser, "v": external.DiscreteVDDPMDenoiser}
        self._schedule = of_prediction[self.prediction](self._predict, self.alphas_cumprod, quantize=False)

    @property
    def levels(self) -> NoiseLevels:
        """What the U-Net's timesteps and outputs mean."""
        return NoiseLevels(self.alphas_cumprod, self.prediction)

    def prompts(self, count: int) -> list[Prompt]:
        """Return `count` prompts that go round all styles and backgrounds."""
        styles, backgrounds = self.config["styles"], self.config["backgrounds"]
        turns = len(styles)
        return [
            (styles[i % turns], "bg-" + backgrounds[(i + i // turns) % len(backgrounds)]) for i in range(count)
        ]  # fmt: skip

    def noise(self, count: int, seed: int) -> Tensor:
        """Return normal noise of shape (count, channels, height, width), each picture's own whatever the count."""
        image = self.config["image"]
        shape = (image["channels"], image["size"], image["size"])
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
        return torch.stack(drawn).to(self.alphas_cumprod.device)

    def context(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the text embedding of `prompts`, of shape (prompts, 4, 64)."""
        vocabulary = self.config["vocab"]
        tokens = [[vocabulary.index(word) for word in ("<bos>", *prompt, "<eos>")] for prompt in prompts]
        embedding: Tensor = self._embedding[torch.tensor(tokens, device=self._embedding.device)]
        return embedding

    def sigmas(self, steps: int) -> Tensor:
        """Return the model's own `steps` noise levels, evenly spaced in time, and 0, as a tensor of steps + 1."""
        sigmas: Tensor = self._schedule.get_sigmas(steps)
        return sigmas

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """Return the U-Net's timesteps of noise levels, of the same shape."""
        times: Tensor = self._schedule.sigma_to_t(sigmas)
        return times

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
        guided = self._guided(self._predict, prompts, guidance)
        if self.prediction == "eps":
            return guided

        def noise(x: Tensor, timesteps: Tensor) -> Tensor:
            alphas = self.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1)
            return alphas.sqrt() * guided(x, timesteps) + (1 - alphas).sqrt() * x

        return noise

    def decode(self, x: Tensor) -> Tensor:
        """Return `x` as RGB from 0 to 1, of shape (n, 3, height, width)."""
        mean = torch.tensor(self.config["image"]["mean"], device=x.device).view(1, -1, 1, 1)
        pictures: Tensor = x * self.config["image"]["std"] + mean
        if self._decoder is not None:
            pictures = self._decoder(pictures)
        return ((pictures + 1) / 2).clamp(0, 1)

    def _predict(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        output: Tensor = self.unet(x, timesteps, context=context)
        return output

    def _guided(self, evaluate: Evaluate, prompts: Sequence[Prompt], guidance: float) -> Evaluate:
        context = self.context([*prompts, *[UNCONDITIONAL] * len(prompts)])

        def guided(x: Tensor, level: Tensor) -> Tensor:
            both = evaluate(torch.cat([x, x]), torch.cat([level, level]), context=context)
            cond, uncond = both.chunk(2)
            return uncond + guidance * (cond - uncond)

        return guided


def _decoder(file: Path) -> Decoder:
    prefix = "decoder."
    decoder = Decoder()
    kept = {key: value for key, value in weights.load(file).items() if key.startswith(prefix)}
    decoder.load_state_dict({key.removeprefix(prefix): value for key, value in kept.items()})
    return decoder
