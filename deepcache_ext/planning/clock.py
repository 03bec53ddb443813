"""The clock of a pass: which evaluation it is, what it was planned to do, and what it does as things turned out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from torch import Tensor

from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.sampler_run import SamplerRun
from deepcache_ext.planning.schedule import Action, Schedule, cost_on_sd
from deepcache_ext.planning.settings import Settings

RISE = 1.001
"""By how much noise levels have to rise for it to count; rounding is less."""


class Clock:
    """Counts the evaluations of one pass, and says what each does.

    The plan is `schedule`, which has no place for the evaluations in `elsewhere`, by their numbers in the run: those at
    another size. `jumps` is whether noise levels may rise that the plan knows nothing of, `remembers` whether the
    predictor needs two evaluations in full before it knows a row.
    """

    def __init__(
        self, schedule: Schedule, elsewhere: frozenset[int] = frozenset(), *, jumps: bool, remembers: bool
    ) -> None:
        self.index = -1
        """The number of the evaluation, from 0; -1 before the first one."""
        self.action = Action.FULL
        """What it does."""
        self.meant = Action.FULL
        """What it was to do before its rows, its network or anything else was seen to be another."""
        self.switched = 0
        """Evaluations meant to reuse that ran in full, because rows or the network were new or had just been."""
        self._plan = schedule
        self._elsewhere = elsewhere
        self._jumps = jumps
        self._remembers = remembers
        self._seen: set[Hashable] = set()
        self._noise = math.inf
        self._most_rows = 0
        self._has_grown = False
        self._postponed = False
        self._renews = False

    def advance(self) -> bool:
        """Go on to the next evaluation, and tell whether the plan has it; one that it has not is made in full."""
        self.index += 1
        if self.index in self._elsewhere:
            self.action = self.meant = Action.FULL
            return False
        return True

    def decide(
        self,
        keys: Sequence[Hashable] | None,
        *,
        known: bool,
        keeps: bool,
        corrects: bool,
        partial: bool,
        noise: Tensor | None,
        in_full: bool,
    ) -> None:
        """Decide what the evaluation does, by its rows' `keys`, `partial` and `noise`; see `SamplingPass`.

        `known` is whether something is kept of all of its rows, `keeps` whether of any, `corrects` whether an
        evaluation in full makes up for the reuses before it. With `in_full` it is one, whatever was planned.
        """
        number = number_of(self.index, self._elsewhere)
        was_to = self._plan.action(number)
        if keys is not None and not self._seen.issuperset(keys):
            self._plan = self._plan.anew(number)
            self._seen.update(keys)
        planned = self._plan.action(number)
        rose = self._jumps and self._has_risen(noise)
        self.meant = self._as_it_turned_out(planned, partial=partial, rose=rose, keeps=keeps, corrects=corrects)
        self.action = Action.FULL if in_full else self.meant
        new = not known and keeps
        self.switched += (self._renews or new) and was_to is Action.REUSE
        self._renews = new and self._remembers

    def compute(self) -> None:
        """Compute the evaluation if it was to reuse, and keep what comes of it."""
        if self.action is Action.REUSE:
            self.action = Action.REFRESH

    def compute_anew(self) -> None:
        """Compute the evaluation, and the next one if a line needs two: the network has jumped."""
        self.switched += self.action is Action.REUSE
        self.compute()
        self._renews = self._remembers

    def leave_alone(self) -> None:
        """Have the evaluation run in full, and keep nothing of it."""
        self.action = Action.FULL

    def count_rows(self, rows: int, *, first_call: bool) -> None:
        """Note how many rows the evaluation's calls were for so far, the call that begins now included."""
        if rows > self._most_rows:
            self._most_rows = rows
            self._has_grown = self.action is Action.REUSE and not first_call

    def _has_risen(self, noise: Tensor | None) -> bool:
        before, self._noise = self._noise, math.inf if noise is None else float(noise.max())
        return self._noise > before * RISE

    def _as_it_turned_out(self, action: Action, *, partial: bool, rose: bool, keeps: bool, corrects: bool) -> Action:
        if (self._postponed or self._has_grown or self._renews or rose) and action is Action.REUSE:
            action = Action.REFRESH
        self._has_grown = False
        self._postponed = partial and action is Action.REFRESH and keeps
        if self._postponed:
            return Action.REUSE
        ends_reuses = action is Action.FULL and self.action is Action.REUSE and corrects
        return Action.REFRESH if ends_reuses else action  # whose feature tells what the reuses before it were off


def schedule_of(
    settings: Settings, total: int | None, sampler: SamplerKind, run: SamplerRun | None, reuse: float | None
) -> Schedule:
    """Return the plan of a run of `total` evaluations, of those at the usual size; see `SamplingPass`."""
    elsewhere = frozenset[int]() if run is None else run.others
    rises = frozenset[int]() if run is None else run.rises - run.others
    return Schedule(
        settings,
        max(1, total - len(elsewhere)) if total and elsewhere else total,
        sampler,
        cost_on_sd(sampler.depth(settings)) if reuse is None else reuse,
        always=frozenset(number_of(index, elsewhere) for index in rises),
    )


def number_of(index: int, elsewhere: frozenset[int]) -> int:
    """Return which of the evaluations at the usual size an evaluation is, both counted from 0."""
    return index - sum(other < index for other in elsewhere)
