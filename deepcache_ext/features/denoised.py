"""The output that would leave the denoised picture as it was.

Noise that a sampler adds moves the U-Net's input, and with it the output; what is left once the noise is taken out, the
denoised picture x0, moves little. So at a reuse two guesses of the output are at hand: the outermost blocks' on a kept
feature, and the one that leads to the x0 of the last refresh. Where noise is added their errors have little to do with
each other, and a mean of both is nearer than either (docs/closeness.md). We know of no source for it.

The U-Net's input is taken to be x = alpha x0 + s noise, with alpha^2 = alphas_cumprod, s^2 = 1 - alpha^2 and
sigma = s / alpha, which is what every checkpoint of the SD1, SD2 and SDXL families gets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from deepcache_ext.sentence import shown

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
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.alphas_cumprod.ndim != 1 or not len(self.alphas_cumprod):
            raise ValueError(f"alphas_cumprod must have one dimension; got shape {tuple(self.alphas_cumprod.shape)}")
        if self.prediction not in get_args(Prediction):
            raise ValueError(f'prediction must be "eps" or "v"; got {shown(self.prediction)}')

    def sigma(self, times: Tensor) -> Tensor:
        """Return sigma at `times`, of shape (rows,) and on their device; log sigma is a line between two timesteps."""
        return self._at(times)[0]

    def of_output(self, times: Tensor, *, denoised: bool) -> Tensor:
        """Return how much an output at `times` counts in what the sampler gets, of shape (rows,).

        That is the denoised picture, at the scale of x0, or the predicted noise.
        """
        sigma, root, _ = self._at(times)
        if denoised:
            return -sigma if self.prediction == "eps" else -sigma / root
        return torch.ones_like(sigma) if self.prediction == "eps" else 1 / root

    def _at(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sigma and 1 / alpha at `times`, and 1 where an output there says something about x0, else 0."""
        times = times.float().clamp(0, len(self.alphas_cumprod) - 1)
        logs, slopes, telling, one = self._table_on(times.device)[times.long()].unbind(1)
        sigma = torch.addcmul(logs, slopes, times.frac()).exp()
        return sigma, torch.addcmul(one, sigma, sigma).sqrt(), telling

    def _table_on(self, device: torch.device) -> Tensor:
        """Return of each timestep log sigma, how much more the next is, whether both tell anything of x0, and 1."""
        if device not in self._tables:
            left = self.alphas_cumprod.detach().float().clamp(1e-12, 1 - 1e-6)
            logs = ((1 - left) / left).log() / 2
            following = torch.cat([logs[1:], logs[-1:]])
            telling = (torch.maximum(logs, following).exp() <= HIGHEST_SIGMA).float()
            self._tables[device] = torch.stack([logs, following - logs, telling, torch.ones_like(logs)], dim=1).to(
                device
            )
        return self._tables[device]


Memory = dict[str, Tensor]
"""What is remembered of a U-Net call in which the whole U-Net ran: tensors of shape (rows, ...).

"x0" is the denoised picture in single precision, "telling" 1 where its sigma was at most `HIGHEST_SIGMA`, else 0.
"""


def remembered(x: Tensor, times: Tensor, output: Tensor, levels: NoiseLevels) -> Memory:
    """Return what to remember of a full call: its input, timesteps and output, of shape (rows, ...)."""
    of_rows = levels._at(times)
    sigma, root, _ = (value.view(-1, 1, 1, 1) for value in of_rows)
    latent, output = _latent(x, output), output.float()
    if levels.prediction == "v":
        x0 = torch.addcmul(latent, output, sigma, value=-1) / root
    else:
        x0 = torch.addcmul(latent * root, output, sigma, value=-1)
    return {"x0": x0, "telling": of_rows[2]}


def drawn(output: Tensor, x: Tensor, times: Tensor, last: Memory, levels: NoiseLevels, share: float) -> Tensor:
    """Return a reuse's `output` at `x` and `times`, drawn by `share` towards the one that keeps the x0 of `last`.

    Rows whose last sigma was above `HIGHEST_SIGMA` stay as they are. What `x` has beyond the output's channels, masks
    and images, is not looked at.
    """
    sigma, root, _ = (value.view(-1, 1, 1, 1) for value in levels._at(times))
    latent = _latent(x, output)
    if levels.prediction == "v":
        keeping = torch.addcmul(latent, last["x0"], root, value=-1) / sigma
    else:
        keeping = (latent * root - last["x0"]) / sigma
    shares = (share * last["telling"]).view(-1, 1, 1, 1)
    return torch.lerp(output.float(), keeping, shares).to(output.dtype)


def _latent(x: Tensor, output: Tensor) -> Tensor:
    return x[:, : output.shape[1]].float()
