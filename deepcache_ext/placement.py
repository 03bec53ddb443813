"""Where full evaluations are worth most: the schedule "auto"."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Gaps = NDArray[np.float64]

GROWTH = 6.0
"""How many times as far apart full evaluations are at the end of a run as at its start; see bench/placement.py."""
SPARSE = 2.3
"""From how many evaluations on for each full one no two full evaluations follow each other."""
_HALVINGS = 60


def full_evaluations(total: int, speed_up: float, reuse: float) -> int:
    """Return how many of `total` evaluations are full if the whole costs 1 / `speed_up`; at least one.

    `reuse` is what a reuse costs, as a part of a full evaluation.
    """
    return min(total, max(1, round((total / speed_up - total * reuse) / (1 - reuse))))


def interval(speed_up: float, reuse: float) -> int:
    """Return the smallest interval, from 1 to 50, at which a uniform schedule is as fast."""
    spare = 1 / speed_up - reuse
    return 50 if spare <= (1 - reuse) / 50 else math.ceil(round((1 - reuse) / spare, 6))


def placed(total: int, count: int, growth: float = GROWTH, *, spare_last: bool = True) -> tuple[int, ...]:
    """Return which `count` of `total` evaluations are full: 0, and from there on in gaps that never shrink.

    The gaps grow geometrically, `growth` times over all of them, and the last full evaluation is half a gap from the
    end. No gap is below 1, nor below 2 from `SPARSE` on. With `spare_last` the last evaluation, which the picture shows
    least of, is full only if all are. Early evaluations decide what the picture shows, so a reuse there costs it most;
    and a line through two refreshes that are closer together than the reuse is to them leads astray, hence no gap is
    shorter than the one before it, and where there are too few full evaluations for more than one or two gaps of 1
    there are none. Found by search on the demo's model.
    """
    if count >= total:
        return tuple(range(total))
    if count == 1:
        return (0,)
    shortest = 1.0 if total / count < SPARSE else 2.0
    shape = growth ** ((np.arange(count - 1) + 0.5) / (count - 1))
    gaps = _gaps(shape, shortest, total, 0.5)
    last = min(total - 1, max(count - 1, round(total - gaps[-1] / 2)))
    if spare_last and last == total - 1:
        last = total - 2
        gaps = _gaps(shape, shortest, last, 0.0)
    ends = np.floor(np.cumsum(gaps) * last / gaps.sum() + 0.5)
    return (0, *np.cumsum(np.sort(np.diff(ends, prepend=0))).astype(int).tolist())


def _gaps(shape: Gaps, shortest: float, length: float, tail: float) -> Gaps:
    """Return gaps in the proportions of `shape`, none below `shortest`, that with `tail` of the last fill `length`."""
    low, high = 0.0, length
    for _ in range(_HALVINGS):
        scale = (low + high) / 2
        gaps = np.maximum(shortest, scale * shape)
        low, high = (scale, high) if gaps.sum() + tail * gaps[-1] < length else (low, scale)
    return gaps
