"""Arithmetic with what each row has of its own: a tensor on the device, or one number for all where the host knows it.

On a graphics card every operation costs a launch, a number none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PerRow = Tensor | float
"""A tensor of shape (rows,) or (rows, 1, 1, 1), or the number that all rows have."""


def plus(one: Tensor, other: Tensor, weight: PerRow, *, sign: int = 1, out: Tensor | None = None) -> Tensor:
    """Return `one` and `sign` times `weight` of `other`, both of shape (rows, channels, height, width)."""
    if isinstance(weight, Tensor):
        return torch.addcmul(one, other, weight.to(other.dtype).view(-1, 1, 1, 1), value=sign, out=out)
    return torch.add(one, other, alpha=sign * weight, out=out)


def within(value: PerRow, low: float, high: float) -> PerRow:
    """Return a fresh `value` within bounds."""
    return value.clamp_(low, high) if isinstance(value, Tensor) else min(max(value, low), high)


def never_zero(value: PerRow) -> PerRow:
    """Return a fresh `value` with infinity where it is 0."""
    return value.masked_fill_(value == 0, math.inf) if isinstance(value, Tensor) else value or math.inf


def copy_of(value: PerRow) -> PerRow:
    """Return a copy in single precision."""
    return value.to(torch.float32, copy=True) if isinstance(value, Tensor) else value


def of_pixels(of_rows: PerRow) -> PerRow:
    """Return what each row has in a shape that goes with its pixels."""
    return of_rows.view(-1, 1, 1, 1) if isinstance(of_rows, Tensor) else of_rows


def of_each_row(timesteps: Tensor, x: Tensor) -> Tensor:
    """Return the timesteps of a call with input `x` as shape (rows,) on its device."""
    times = timesteps.detach()
    if times.shape == x.shape[:1] and times.device == x.device:
        return times
    return times.to(x.device).reshape(-1).expand(len(x))
