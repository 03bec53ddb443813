"""Where full evaluations are worth most: the schedule "auto"."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.settings import Settings

Gaps = NDArray[np.float64]

LONGEST = 0.25
"""The longest way from one full evaluation to the next, as a part of the run; see docs/research.md."""
LONGEST_UNPLANNED = 5
"""The longest interval of a run whose number of evaluations nobody knows."""
SPARSE = 2.3
"""From how many evaluations on for each full one no two growing gaps are of 1."""
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


SPARED = 2
"""How many evaluations at the end of a run with even gaps reuse: the picture shows least of them."""
FEWEST_SHORT = 4
"""With fewer gaps of 1 before those of 2 there are none: the line through two neighbours leads astray at the change."""


@dataclass(frozen=True)
class Rule:
    """How full evaluations are spread over a run."""

    growth: float = 6.0
    """How many times as far apart they are at the end as at the start; 1 for gaps of at most two neighbouring sizes."""
    tail: float = 0.5
    """How far the last full evaluation is from the end where gaps grow, in last gaps."""
    spare_last: bool = True
    """Whether the last evaluation, which the picture shows least of, is full only if all are."""
    begins_with_line: bool = False
    """Whether the first two evaluations are full, so that every reuse has a line; not with fewer than `SPARSE` says."""
    longest: int | None = None
    """The most evaluations from one full one to the next; None for any number."""

    def at_most(self, longest: int) -> Rule:
        """Return the rule with another longest gap."""
        return replace(self, longest=longest)


def rule_for(sampler: SamplerKind, settings: Settings) -> Rule:
    """Return how full evaluations are spread for a sampler of this kind by these settings.

    Gaps that grow follow what the picture shows, which early evaluations decide. A sampler that extrapolates from its
    last outputs enlarges the error of one that differs from the next in kind, so there gaps are even. Where reuses are
    put right afterwards, late ones count for more than early ones do by then, and gaps grow less; even ones begin after
    a first line, without which a reuse may lead to another picture, or grow a little if noise is added, too. See
    docs/research.md.
    """
    corrected = sampler.corrects(settings)
    if sampler.extrapolates and sampler.noisy and corrected:
        return Rule(growth=2.0, tail=1.0)
    if sampler.extrapolates:
        return Rule(growth=1.0, begins_with_line=corrected)
    return Rule(growth=4.0 if corrected else 6.0)


def longest_gap(total: int) -> int:
    """Return the most evaluations that a run of `total` may have from one full evaluation to the next."""
    return max(2, math.ceil(total * LONGEST))


def placed(total: int, count: int, rule: Rule = Rule()) -> tuple[int, ...]:
    """Return which `count` of `total` evaluations are full, or as many more as it takes for no gap to be too long."""
    while True:
        found = _spread(total, count, rule)
        if rule.longest is None or max(np.diff([*found, total])) <= rule.longest or len(found) == total:
            return found
        count += 1


def spread(inside: range, count: int, rule: Rule, stages: int = 1) -> tuple[int, ...]:
    """Return which evaluations `inside` a run of a sampler with so many stages are full, about `count` of them.

    Of two stages the second decides the step, so all of these come before any first one but the run's own.
    """
    deciding = [index for index in inside if index % stages == stages - 1]
    others = [index for index in inside if index != inside.start and index not in deciding]
    chosen = {inside.start}
    for group in (deciding, others):
        left = max(count - len(chosen.difference(group)), 1 if group is deciding else 0)
        if group and left > 0:
            of_group = replace(rule, spare_last=rule.spare_last and group[-1] == inside.stop - 1)
            chosen.update(group[position] for position in placed(len(group), left, of_group))
    return tuple(sorted(chosen))


def _spread(total: int, count: int, rule: Rule) -> tuple[int, ...]:
    """Return which `count` of `total` evaluations are full: 0, and from there on in gaps that never shrink.

    Early evaluations decide what the picture shows, so a reuse there costs it most; and a line through two refreshes
    that are closer together than the reuse is to them leads astray, hence no gap is shorter than the one before it.
    """
    if count >= total:
        return tuple(range(total))
    if count == 1:
        return (0,)
    if rule.begins_with_line and total / count < SPARSE and count > 2:
        return _after_a_line(total, count, rule)
    return _even(total, count, rule) if rule.growth == 1 else _growing(total, count, rule)


def _even(total: int, count: int, rule: Rule) -> tuple[int, ...]:
    """Return about `count` full evaluations in gaps of at most two neighbouring sizes, the last `SPARED` reused.

    They are fewer where there would be some gaps of 1 but not `FEWEST_SHORT`.
    """
    spared = min(rule.longest or total, max(SPARED + 1, total // count)) if rule.spare_last else 1
    last = max(total - spared, count - 1)
    gap, longer = divmod(last, count - 1)
    shorter = count - 1 - longer
    if gap == 1 and longer and shorter < FEWEST_SHORT:
        return _spread(total, count - 1, rule)
    return (0, *np.cumsum([gap] * shorter + [gap + 1] * longer).tolist())


def _after_a_line(total: int, count: int, rule: Rule) -> tuple[int, ...]:
    """Return `count` full evaluations: 0, 1, and from there on in gaps of at most two neighbouring sizes."""
    gap, longer = divmod(total - 2 - rule.spare_last, count - 2)
    return (0, 1, *(1 + np.cumsum([gap] * (count - 2 - longer) + [gap + 1] * longer)).tolist())


def _growing(total: int, count: int, rule: Rule) -> tuple[int, ...]:
    """Return `count` full evaluations in gaps that grow geometrically, the last of them `tail` last gaps from the end.

    No gap is below 1, nor below 2 from `SPARSE` on, where there are too few full evaluations for more than one or two
    gaps of 1.
    """
    shortest = 1.0 if total / count < SPARSE else 2.0
    shape = rule.growth ** ((np.arange(count - 1) + 0.5) / (count - 1))
    longest = float(max(shortest, rule.longest or total))
    gaps = _gaps(shape, shortest, longest, total, rule.tail)
    last = min(total - 1, int((count - 1) * longest), max(count - 1, round(total - gaps[-1] * rule.tail)))
    if rule.spare_last and last == total - 1:
        last = total - 2
        gaps = _gaps(shape, shortest, longest, last, 0.0)
    ends = np.floor(np.cumsum(gaps) * last / gaps.sum() + 0.5)
    return (0, *np.cumsum(np.sort(np.diff(ends, prepend=0))).astype(int).tolist())


def _gaps(shape: Gaps, shortest: float, longest: float, length: float, tail: float) -> Gaps:
    """Return gaps in the proportions of `shape`, within bounds, that with `tail` of the last one fill `length`."""
    low, high = 0.0, length
    for _ in range(_HALVINGS):
        scale = (low + high) / 2
        gaps = np.clip(scale * shape, shortest, longest)
        low, high = (scale, high) if gaps.sum() + tail * gaps[-1] < length else (low, scale)
    return gaps
