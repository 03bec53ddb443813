"""Which evaluations of a pass refresh and which reuse: pure functions of the number of evaluations."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepcache_ext.planning.placement import (
    LONGEST_UNPLANNED,
    full_evaluations,
    interval,
    longest_gap,
    rule_for,
    spread,
)
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.settings import LAST_STEP, Number, Settings, WholeNumber, accepted

POWER_STEP = 0.02
"""By how much `non_uniform` lowers a power that gives too few distinct evaluations."""


OUTERMOST = 0.08
"""What a reuse of the outermost block pair costs on SD1 and SD2, as a part of a full evaluation; see bench/macs.py."""


def cost_on_sd(depth: int) -> float:
    """Return about what a reuse costs on SD1 and SD2 at depth 0 or at a small one, as a part of a full evaluation."""
    return OUTERMOST if depth else 0.0


class _Total(WholeNumber):
    def __str__(self) -> str:
        return f"{super().__str__()}, or None if unknown"


class _Cost(Number):
    """A finite float from 0 to below 1."""

    def __str__(self) -> str:
        return "a number from 0 to below 1, a part of a full evaluation"

    def read(self, value: Any) -> float:
        cost = super().read(value)
        if cost == self.maximum:
            raise ValueError
        return cost


_TOTAL = _Total(1, LAST_STEP + 1)
_COST = _Cost(0.0, 1.0)


class Action(enum.Enum):
    """What one evaluation does."""

    FULL = "full"
    """The untouched U-Net; nothing is kept."""
    REFRESH = "refresh"
    """The whole U-Net, and the deep feature is kept."""
    REUSE = "reuse"
    """Only the outermost blocks; the kept feature stands in for the rest."""


def uniform(total: int, interval: int) -> tuple[int, ...]:
    """Return the full evaluations of the paper's 1:N schedule: 0, N, 2N, ... below `total`."""
    return tuple(range(0, total, interval))


def non_uniform(total: int, interval: int, center: int, power: float) -> tuple[int, ...]:
    """Return ceil(total / interval) full evaluations that are densest around `center`.

    With k that number, c the centre, T the total and p the power, let z_j be the k+1 evenly spaced points of the
    straight line from (-c)^(1/p) to (T-c)^(1/p) in the complex plane, principal roots. The full evaluations are
    0 and trunc(Re(z_j^p)) + c, repeats, the lowest and the highest of these left out. A power that gives fewer
    than k is lowered in steps of 0.02; where none above 1 gives k, the schedule is `uniform`.

    This is DeepCache (arXiv 2312.00858) eq. 7 as its authors' code computes it: for 0 < c < T the root of -c is
    complex, so the curve is not the sign-preserving one that the equation suggests.
    """
    count = -(-total // interval)
    while power > 1:
        low, high = (-center) ** (1 / power), (total - center) ** (1 / power)
        offsets = np.unique(np.trunc((np.linspace(low, high, count + 1) ** power).real))[1:-1]
        chosen = (0, *(int(offset) + center for offset in offsets))
        if len(set(chosen)) == count and min(chosen) >= 0 and max(chosen) < total:
            return chosen
        power -= POWER_STEP
    return uniform(total, interval)


def window(total: int, start: float, end: float) -> range:
    """Return the evaluations i with start <= i / total < end: those that may reuse."""
    inside = [index for index in range(total) if start <= index / total < end]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


@dataclass(frozen=True)
class Schedule:
    """The plan of one pass.

    `total` is the number of evaluations the sampler will make, or None where nobody knows (DPM adaptive). Then, and
    for evaluations past `total`, the non-uniform schedule goes on as 1:N, and without a total the window is the
    whole run. The first evaluation of the window always refreshes.

    The schedule "auto" places as many full evaluations in the window as the settings' speed-up leaves there, where each
    costs `reuse` of a full one if it reuses. A speed at which full evaluations would be too far apart is not aimed at:
    the plan is then as fast as it may be, and `shortfall` says so. Where there is no total, and past it, it goes on as
    the uniform schedule of that speed.

    With two stages in a step (see `sampler`) the second evaluation decides the step, and the first of the next step is
    at the same sigma or close to it. So each step in which the uniform or non-uniform schedule has a full evaluation
    makes its second one in full, "auto" gives all of these before any first one but the run's own, and a list stays as
    it is.

    `begin` is the number of its first evaluation, which is not 0 in a plan that was made in mid-run (`anew`). Of the
    evaluations in `always`, by their numbers in the run, none is reused.

    Raises ValueError for a `total` that is no whole number from 1 to 10000, and for a `reuse` that is no number from 0
    to below 1.
    """

    settings: Settings
    total: int | None = None
    sampler: SamplerKind = SamplerKind()
    reuse: float = OUTERMOST
    begin: int = 0
    always: frozenset[int] = frozenset()
    _window: range | None = field(init=False, repr=False)
    _full: tuple[int, ...] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.total is not None:
            object.__setattr__(self, "total", accepted("total", _TOTAL, self.total))
        object.__setattr__(self, "reuse", accepted("reuse", _COST, self.reuse))
        s = self.settings
        inside = None if self.total is None else window(self.total, s.start, s.end)
        object.__setattr__(self, "_window", inside)
        object.__setattr__(self, "_full", self._listed(inside))

    @property
    def shortfall(self) -> str:
        """Why the plan of "auto" is slower than asked for, as a sentence; "" where it is not, or without a total."""
        if self.settings.schedule != "auto" or not self._window or self.total is None:
            return ""
        length, made = len(self._window), len(self._spread(self._window, self.total))
        if made <= self._wanted(length):
            return ""
        fastest = length / (made + (length - made) * self.reuse)
        return (
            f"{self.settings.speed_up:g}x is out of reach at depth {self.sampler.depth(self.settings)}, "
            f"about {fastest:.1f}x is the most: more would put full evaluations too far apart"
        )

    def anew(self, index: int) -> Schedule:
        """Return the plan from evaluation `index` on, made as for a run of the evaluations that are left.

        It is for a picture of another prompt, which its first evaluations decide, too. Only "auto" is planned anew,
        where it has a total and its window goes on; any other schedule does what it says.
        """
        s, done = self.settings, index - self.begin
        if s.schedule != "auto" or self.total is None or not 0 < done < self.total or done >= s.end * self.total:
            return self
        left = self.total - done
        start, end = (max(0.0, (at * self.total - done) / left) for at in (s.start, s.end))
        return replace(self, settings=replace(s, start=start, end=end), total=left, begin=index)

    def action(self, index: int) -> Action:
        """Return what evaluation `index`, counted from 0, does."""
        index -= self.begin
        if self._reuses(index):
            return Action.REUSE
        behind = 1 if self.settings.forecast == "off" else 2
        used = any(self._reuses(later) for later in range(index + 1, index + 1 + behind))
        return Action.REFRESH if used else Action.FULL

    def actions(self) -> tuple[Action, ...]:
        """Return the whole plan; raises ValueError if the total is unknown."""
        if self.total is None:
            raise ValueError("the plan needs the number of evaluations; total is None")
        return tuple(self.action(self.begin + index) for index in range(self.total))

    @property
    def _interval(self) -> int:
        s = self.settings
        if s.schedule != "auto":
            return s.interval
        return min(interval(s.speed_up, self.reuse), LONGEST_UNPLANNED)

    def _listed(self, inside: range | None) -> tuple[int, ...] | None:
        s = self.settings
        if s.schedule == "list":
            return s.steps
        if s.schedule == "auto" and inside and self.total is not None:
            return self._placed(inside, self.total)
        if s.schedule == "non-uniform" and inside:
            first = inside.start
            return tuple(first + i for i in non_uniform(len(inside), s.interval, s.center - first, s.power))
        return None

    def _wanted(self, length: int) -> int:
        """Return how many of `length` evaluations in the window are full at the settings' speed."""
        return full_evaluations(length, self.settings.speed_up, self.reuse)

    def _placed(self, inside: range, total: int) -> tuple[int, ...]:
        """Return the full evaluations in the window: as many as the speed leaves there, and the whole run's own.

        So a window never thins out what it has inside.
        """
        of_run = (index for index in self._spread(range(total), total) if index in inside)
        return tuple(sorted({*self._spread(inside, total), *of_run}))

    def _spread(self, inside: range, total: int) -> tuple[int, ...]:
        stages = self.sampler.stages
        rule = replace(
            rule_for(self.sampler, self.settings), longest=longest_gap(total // stages), spare_last=inside.stop == total
        )
        return spread(inside, self._wanted(len(inside)), rule, stages)

    def _reuses(self, index: int) -> bool:
        s, stages = self.settings, self.sampler.stages
        if index + self.begin in self.always:
            return False
        first = 0
        if self._window is not None:
            first = self._window.start
            past_the_end = s.end == 1 and index >= self._window.stop > first
            if index not in self._window and not past_the_end:
                return False
        if index == first or (self._interval == 1 and s.schedule != "list"):
            return False
        if stages == 1 or s.schedule == "list" or (s.schedule == "auto" and self._full is not None):
            return not self._due(index, first)
        step = index - index % stages
        due = [self._due(evaluation, first) for evaluation in range(step, step + stages)]
        return not (all(due) or (any(due) and index == step + stages - 1))

    def _due(self, index: int, first: int) -> bool:
        """Return whether the schedule, which knows no stages, makes evaluation `index` in full."""
        s = self.settings
        if self._full is None:
            return index >= first and (index - first) % self._interval == 0
        if s.schedule != "list" and self.total is not None and index >= self.total:
            return (index - self._full[-1]) % self._interval == 0
        return index in self._full
