"""How close two pictures are: PSNR and SSIM, of 8-bit RGB pictures as arrays of shape (height, width, 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

IDENTICAL = 100.0
"""The PSNR in dB that stands for identical pictures, whose true value is infinite; none is higher."""

_LEVELS = 255.0
_WINDOW = 7
_C1, _C2 = (0.01 * _LEVELS) ** 2, (0.03 * _LEVELS) ** 2


def psnr(picture: Picture, reference: Picture) -> float:
    """Return the peak signal-to-noise ratio in dB, at most `IDENTICAL`; raises ValueError for other sizes."""
    one, other = _pair(picture, reference)
    error = float(((one - other) ** 2).mean())
    return IDENTICAL if error == 0 else min(IDENTICAL, float(10 * np.log10(_LEVELS**2 / error)))


def ssim(picture: Picture, reference: Picture) -> float:
    """Return the mean structural similarity over channels and windows of 7x7 pixels, 1 for identical pictures.

    With even weights and sample covariances, as scikit-image has it. Raises ValueError for pictures of other sizes or
    smaller than a window.
    """
    one, other = _pair(picture, reference)
    if min(one.shape[:2]) < _WINDOW:
        raise ValueError(
            f"SSIM needs pictures of {_WINDOW}x{_WINDOW} pixels or more; got {one.shape[1]}x{one.shape[0]}"
        )
    mean, mean_other = _means(one), _means(other)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    variances = sample * (_means(one**2) - mean**2) + sample * (_means(other**2) - mean_other**2)
    covariance = sample * (_means(one * other) - mean * mean_other)
    similar = (2 * mean * mean_other + _C1) * (2 * covariance + _C2)
    return float((similar / ((mean**2 + mean_other**2 + _C1) * (variances + _C2))).mean())


def difference(picture: Picture, reference: Picture, times: int = 1) -> Picture:
    """Return how far each value is from the reference's, `times` as large, at most 255."""
    one, other = _pair(picture, reference)
    found: Picture = np.clip(times * np.abs(one - other), 0, _LEVELS).astype(np.uint8)
    return found


def _pair(picture: Picture, reference: Picture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if picture.shape != reference.shape or picture.ndim != 3:
        raise ValueError(f"two RGB pictures of one size are compared; got shapes {picture.shape} and {reference.shape}")
    return picture.astype(np.float64), reference.astype(np.float64)


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of every window of each channel."""
    for axis in (0, 1):
        sums = np.cumsum(values, axis=axis)
        zero = np.zeros_like(np.take(sums, [0], axis=axis))
        sums = np.concatenate([zero, sums], axis=axis)
        count = sums.shape[axis]
        ends = np.take(sums, range(_WINDOW, count), axis=axis)
        values = ends - np.take(sums, range(count - _WINDOW), axis=axis)
    means: NDArray[np.float64] = values / _WINDOW**2
    return means
