"""The output that would leave the denoised picture as it was.

Noise that a sampler adds moves the U-Net's input, and with it the output; what is left once the noise is taken out, the
denoised picture x0, moves little. So at a reuse two guesses of the output are at hand: the outermost blocks' on a kept
feature, and the one that leads to the x0 of the last refresh. Where noise is added their errors have little to do with
each other, and a mean of both is nearer than either (docs/closeness.md). We know of no source for it.

The U-Net's input is taken to be x = alpha x0 + s noise, with alpha^2 = alphas_cumprod, s^2 = 1 - alpha^2 and
sigma = s / alpha, which is what every checkpoint of the SD1, SD2 and SDXL families gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

SHARE = 0.35
"""How far an output on a forecast feature is drawn towards the one that keeps x0; see docs/closeness.md."""
SHARE_OF_HELD = 0.5
"""How far one on a held feature is."""
HIGHEST_SIGMA = 100.0
"""Above it, at the start of a zero-terminal-SNR run, an output for "eps" says nothing about x0."""

Prediction = Literal["eps", "v"]


@dataclass(frozen=True)
class NoiseLevels:
    """What a U-Net's timesteps and outputs mean: the noise at each of its timesteps, and what it predicts.

    `alphas_cumprod` is of shape (timesteps,), from the least noise on. Raises ValueError for another shape and for any
    other `prediction`.
    """

    alphas_cumprod: Tensor
    prediction: Prediction = "eps"

    def __post_init__(self) -> None:
        if self.alphas_cumprod.ndim != 1 or not len(self.alphas_cumprod):
            raise ValueError(f"alphas_cumprod must have one dimension; got shape {tuple(self.alphas_cumprod.shape)}")
        if self.prediction not in get_args(Prediction):
            raise ValueError(f'prediction must be "eps" or "v"; got {self.prediction!r}')

    def sigma(self, times: Tensor) -> Tensor:
        """Return sigma at `times`, of shape (rows,) and on their device; log sigma is a line between two timesteps."""
        last = len(self.alphas_cumprod) - 1
        times = times.float().clamp(0, last)
        low = times.floor().long()
        at = torch.stack([low, (low + 1).clamp(max=last)])
        left = self.alphas_cumprod.to(times.device)[at].float().clamp(1e-12, 1 - 1e-6)
        logs = ((1 - left) / left).log() / 2
        return torch.lerp(logs[0], logs[1], times - low).exp()


@dataclass(frozen=True)
class Prior:
    """One U-Net call at which the whole U-Net ran: its input and output of shape (rows, channels, height, width)."""

    x: Tensor
    times: Tensor
    """Of shape (rows,)."""
    output: Tensor


def drawn(output: Tensor, x: Tensor, times: Tensor, last: Prior, levels: NoiseLevels, share: float) -> Tensor:
    """Return a reuse's `output` at `x` and `times`, drawn by `share` towards the one that keeps the x0 of `last`.

    Rows whose last sigma was above `HIGHEST_SIGMA` stay as they are. What `x` has beyond the output's channels, masks
    and images, is not looked at.
    """
    sigma, last_sigma = (levels.sigma(at).view(-1, 1, 1, 1) for at in (times, last.times))
    alpha, last_alpha = ((1 + level.square()).rsqrt() for level in (sigma, last_sigma))
    latent, last_latent = (each[:, : output.shape[1]].float() for each in (x, last.x))
    last_output = last.output.float()
    if levels.prediction == "v":
        x0 = last_alpha * (last_latent - last_sigma * last_output)
        keeping = (alpha * latent - x0) / (sigma * alpha)
    else:
        x0 = last_latent / last_alpha - last_sigma * last_output
        keeping = (latent / alpha - x0) / sigma
    keeping = torch.where(last_sigma > HIGHEST_SIGMA, output.float(), keeping)
    return torch.lerp(output.float(), keeping, share).to(output.dtype)
