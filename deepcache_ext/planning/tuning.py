"""Finding the plan whose final pictures are closest, by trying those that may win, in a fixed number of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from deepcache_ext.planning.settings import Settings

TRIED = 2
"""How many other plans are tried in all: those that are likeliest to win."""
MARGIN = 1.0
"""By how many dB another plan has to be closer in the mean, and in no picture less close, to be taken."""
SURE = 2.0
"""By how many dB a plan has to be closer than fewer steps to be called so: one picture doesn't tell less."""

_FIRST, _SECOND = 0, 1
"""The seeds: all is made of the first one; of the second, what decides about the best of the other plans."""

Closeness = Callable[[Settings | int, int], Sequence[float]]
"""Takes settings, or a number of steps without a cache, and the number of a seed from 0; returns the PSNR in dB of each
picture of that seed to the full one."""


@dataclass(frozen=True)
class Question:
    """What is to be found out for one speed."""

    usual: Settings
    others: tuple[Settings, ...]
    """The other plans to try."""
    fewer: int
    """As many steps without a cache as cost the same."""


@dataclass(frozen=True)
class Answer:
    """What was found out. The figures are those of the first seed, of which everything is made."""

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
    """Tell whether the first of two PSNRs in dB is higher by more than a picture or a few leave open."""
    return one - other > SURE


def pictures(questions: Mapping[str, Question]) -> int:
    """Return how many pictures a search makes, the full ones included.

    They are the full one, each question's ways and fewer steps, and three of the second seed if there are other plans.
    """
    others = sum(len(question.others) for question in questions.values())
    return 1 + 2 * len(questions) + others + (3 if others else 0)


def answers(questions: Mapping[str, Question], closeness: Closeness) -> Iterator[tuple[str, Answer]]:
    """Yield each question's name and answer, one after the other, so that what is found stays if `closeness` raises.

    All ways are tried on the first seed, and the usual ones are the answers so far. Of the other plans the one that is
    ahead by most is tried on the second seed as well, beside its usual one; that question's answer comes
    once more if it has changed.
    """
    first, found = {}, {}
    for name, question in questions.items():
        for way in (question.usual, *question.others):
            first[name, way] = closeness(way, _FIRST)
        usual = fmean(first[name, question.usual])
        found[name] = Answer(question.usual, usual, usual, question.fewer, fmean(closeness(question.fewer, _FIRST)))
        yield name, found[name]
    gains = {
        (name, way): fmean(first[name, way]) - found[name].usual
        for name, question in questions.items()
        for way in question.others
    }
    if not gains:
        return
    name, best = max(gains, key=lambda tried: gains[tried])
    usual_way = questions[name].usual
    one, other = ([*first[name, way], *closeness(way, _SECOND)] for way in (best, usual_way))
    if _is_clearly_closer(one, other):
        yield name, replace(found[name], settings=best, psnr=fmean(first[name, best]))


def _is_clearly_closer(one: Sequence[float], other: Sequence[float]) -> bool:
    gains = [a - b for a, b in zip(one, other, strict=True)]
    return fmean(gains) > MARGIN and min(gains) >= 0
