"""Finding the plan whose final pictures are closest, by trying some on a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from deepcache_ext.planning.settings import Settings

SEEDS = 3
"""How often pictures are made of each way that is still in question."""
TRIED = 4
"""How many other plans are tried for a speed."""
MARGIN = 1.0
"""By how many dB another plan has to be closer in the mean, and in no picture less close, to be taken."""
SURE = 1.0
"""By how many dB a plan has to be closer than fewer steps to be called so: a few pictures don't tell less."""

Closeness = Callable[[Settings | int, int], Sequence[float]]
"""Takes settings, or a number of steps without a cache, and the number of a seed from 0; returns the PSNR in dB of each
picture of that seed to the full one."""


@dataclass(frozen=True)
class Question:
    """What is to be found out for one speed."""

    usual: Settings
    others: tuple[Settings, ...]
    fewer: Mapping[Settings, int]
    """As many steps without a cache as cost the same, by plan."""


@dataclass(frozen=True)
class Answer:
    """What was found out."""

    settings: Settings
    """The plan whose pictures are closest: the usual one, unless another is clearly closer."""
    psnr: float
    """Of its pictures, in the mean."""
    usual: float
    """Of the usual plan's."""
    fewer_steps: int
    fewer: float
    """Of the pictures in fewer steps."""

    @property
    def is_worth_it(self) -> bool:
        """Whether the plan is surely closer than fewer steps at the same cost."""
        return is_surely_closer(self.psnr, self.fewer)


def is_surely_closer(one: float, other: float) -> bool:
    """Tell whether the first of two mean PSNRs in dB is higher by more than a few pictures leave open."""
    return one - other > SURE


def runs(questions: Mapping[str, Question], share: Mapping[str, float], seeds: int = SEEDS) -> float:
    """Return about how many full runs a search takes; `share` tells what a run at a speed is of a full one.

    It assumes that every other speed adds one more plan to compare.
    """
    each = (len(question.others) + 1 + 1.5 * (seeds - 1) + seeds for question in questions.values())
    return seeds + sum(count * share[name] for name, count in zip(questions, each, strict=True))


def answers(
    questions: Mapping[str, Question], closeness: Closeness, seeds: int = SEEDS
) -> Iterator[tuple[str, Answer]]:
    """Yield each question's name and answer, one after the other, so that what is found stays if `closeness` raises.

    All ways are tried on the first seed; the closest one and the usual one on the others.
    """
    for name, question in questions.items():
        first = {way: list(closeness(way, 0)) for way in (question.usual, *question.others)}
        best = max(question.others, key=lambda way: fmean(first[way]), default=question.usual)
        finalists = {way: first[way] for way in (question.usual, best)}
        if fmean(first[best]) <= fmean(first[question.usual]):
            finalists = {question.usual: first[question.usual]}
        for seed in range(1, seeds):
            for way in finalists:
                finalists[way].extend(closeness(way, seed))
        usual = finalists[question.usual]
        chosen = best if best in finalists and _is_clearly_closer(finalists[best], usual) else question.usual
        steps = question.fewer[chosen]
        fewer = [value for seed in range(seeds) for value in closeness(steps, seed)]
        yield name, Answer(chosen, fmean(finalists[chosen]), fmean(usual), steps, fmean(fewer))


def _is_clearly_closer(one: Sequence[float], other: Sequence[float]) -> bool:
    gains = [a - b for a, b in zip(one, other, strict=True)]
    return fmean(gains) > MARGIN and min(gains) >= 0
