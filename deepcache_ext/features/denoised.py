"""The output that would leave the denoised picture as it was.

Noise that a sampler adds moves the U-Net's input, and with it the output; what is left once the noise is taken out, the
denoised picture x0, moves little. So at a reuse two guesses of the output are at hand: the outermost blocks' on a kept
feature, and the one that leads to the x0 of the last refresh. Where noise is added their errors have little to do with
each other, and a mean of both is nearer than either (docs/research.md). We know of no source for it.

The U-Net's input is taken to be x = alpha x0 + s noise, with alpha^2 = alphas_cumprod, s^2 = 1 - alpha^2 and
sigma = s / alpha, which is what every checkpoint of the SD1, SD2 and SDXL families gets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcache_ext.features.per_row import PerRow, plus
from deepcache_ext.sentence import shown

SHARE = 0.35
"""How far an output on a forecast feature is drawn towards the one that keeps x0; see docs/research.md."""
SHARE_OF_HELD = 0.5
"""How far one on a held feature is."""
FINENESS = 64
"""Into how many parts a timestep is divided where scales are looked up; sigma is then right to 0.6 percent."""
HIGHEST_SIGMA = 100.0
"""Above it, at the start of a zero-terminal-SNR run, an output for "eps" says nothing about x0."""

Prediction = Literal["eps", "v"]


class Scales(NamedTuple):
    """What inputs and outputs at some timesteps count, each of shape (rows, 1, 1, 1), or one number for all rows.

    The denoised picture is `of_input` times the input plus `of_output` times the output; the output that leads to one
    is `to_output` times it plus `back` times the input.
    """

    of_input: PerRow
    of_output: PerRow
    to_output: PerRow
    back: PerRow
    of_noise: PerRow
    """What an output counts in the noise that a sampler gets."""
    telling: PerRow
    """1 where sigma is at most `HIGHEST_SIGMA`, else 0."""


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
        """Return sigma at `times`, of shape (rows,) and on their device, for which it waits.

        Log sigma is a line between two timesteps.
        """
        found = self.sigmas(times.detach().cpu().double().numpy())  # many devices have no double precision
        return torch.as_tensor(found, dtype=torch.float32, device=times.device)

    def sigmas(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return sigma at the timesteps `times`, of their shape; that of the outermost one beyond the model's."""
        logs = self._log_sigmas.numpy()
        return np.exp(np.interp(times, np.arange(len(logs), dtype=np.float64), logs))

    def times(self, sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the timesteps at which sigma is `sigmas`, of their shape; the outermost one beyond the model's."""
        logs = self._log_sigmas.numpy()
        return np.interp(np.log(np.maximum(sigmas, np.exp(logs[0]))), logs, np.arange(len(logs), dtype=np.float64))

    def scales(self, times: PerRow) -> Scales:
        """Return what inputs and outputs count at `times`, of shape (rows,), or at one number.

        Of tensors to a `FINENESS`th of a timestep: looked up, since on a graphics card every operation costs a launch.
        """
        if not isinstance(times, Tensor):
            return Scales(*_scales(float(self.sigmas(np.array(times))), self.prediction))
        table = self._table_on(times.device)
        found = table[(times.float() * FINENESS).clamp_(0, len(table) - 1).long()]
        return Scales(*found.view(-1, len(Scales._fields), 1, 1, 1).unbind(1))

    @cached_property
    def _log_sigmas(self) -> Tensor:
        left = self.alphas_cumprod.detach().cpu().double().clamp(1e-12, 1 - 1e-6)
        return ((1 - left) / left).log() / 2

    def _table_on(self, device: torch.device) -> Tensor:
        """Return the scales of every `FINENESS`th timestep, of shape (timesteps * FINENESS, scales)."""
        if device not in self._tables:
            times = torch.arange((len(self.alphas_cumprod) - 1) * FINENESS + 1)
            sigma = self.sigma(times.double() / FINENESS).double()
            self._tables[device] = torch.stack(_scales(sigma, self.prediction), dim=1).float().to(device)
        return self._tables[device]


def _scales(sigma: Any, prediction: Prediction) -> tuple[Any, ...]:
    """Return `Scales` at sigma, a number or a tensor; each is the like."""
    root, one = (1 + sigma**2) ** 0.5, 0 * sigma + 1  # root is 1 / alpha
    v = prediction == "v"
    of_input, of_output = (1 / root, -sigma / root) if v else (root, -sigma)
    of_noise, telling = 1 / root if v else one, (sigma <= HIGHEST_SIGMA) * one
    return of_input, of_output, 1 / of_output, -of_input / of_output, of_noise, telling


Memory = dict[str, Any]
"""What is remembered of a U-Net call in which the whole U-Net ran: tensors of shape (rows, ...), or one number for all.

"x0" is the denoised picture in single precision, "share" how far reuses are drawn to it.
"""


def remembered(x: Tensor, scales: Scales, output: Tensor, share: float) -> Memory:
    """Return what to remember of a full call: its input and output, of shape (rows, ...)."""
    return {
        "x0": plus(_latent(x, output) * scales.of_input, output.float(), scales.of_output),
        "share": scales.telling * share,
    }


def drawn(output: Tensor, x: Tensor, scales: Scales, last: Memory) -> Tensor:
    """Return a reuse's `output` at `x`, drawn towards the one that keeps the x0 of `last`.

    Rows whose last sigma was above `HIGHEST_SIGMA` stay as they are. What `x` has beyond the output's channels, masks
    and images, is not looked at.
    """
    keeping = plus(_latent(x, output) * scales.back, last["x0"], scales.to_output)
    return torch.lerp(output.float(), keeping, last["share"]).to(output.dtype)


def _latent(x: Tensor, output: Tensor) -> Tensor:
    return x[:, : output.shape[1]].float()
