"""What the user chose. Every setting is declared once, here: its default, range, label and help."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from deepcache_ext.sentence import shown

LAST_STEP = 9999
"""The highest evaluation that a list of steps may name."""

_NUMBER_OR_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


class Kind(Protocol):
    """What values a setting takes: their range in words, and how a given value is read."""

    def __str__(self) -> str: ...

    def read(self, value: Any) -> Any:
        """Return `value` as the setting's own type; raise ValueError or TypeError if it is not allowed."""


@dataclass(frozen=True)
class WholeNumber:
    """An int from `minimum` to `maximum`; 3.0 and "3" are read as 3."""

    minimum: int
    maximum: int

    def __str__(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    def read(self, value: Any) -> int:
        number = _finite(value)
        if number != int(number) or not self.minimum <= number <= self.maximum:
            raise ValueError
        return int(number)


@dataclass(frozen=True)
class Number:
    """A finite float from `minimum` to `maximum`; "0.5" is read as 0.5."""

    minimum: float
    maximum: float

    def __str__(self) -> str:
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def read(self, value: Any) -> float:
        number = _finite(value)
        if not self.minimum <= number <= self.maximum:
            raise ValueError
        return number


@dataclass(frozen=True)
class Choice:
    """One of `options`."""

    options: tuple[str, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(self.options)

    def read(self, value: Any) -> str:
        if value not in self.options:
            raise ValueError
        return str(value)


@dataclass(frozen=True)
class Steps:
    """Evaluations by number, as text ("0, 5, 9-12") or as a sequence of ints; read as a sorted tuple, no repeats."""

    def __str__(self) -> str:
        return f'a list of evaluations from 0 to {LAST_STEP} such as "0, 5, 9-12"'

    def read(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, str):
            numbers = _numbers_in(value)
        elif isinstance(value, Iterable):
            numbers = [WholeNumber(0, LAST_STEP).read(step) for step in value]
        else:
            raise TypeError
        return tuple(sorted(set(numbers)))


def accepted(name: str, kind: Kind, value: Any) -> Any:
    """Return `value` as `kind` reads it; raises ValueError naming the setting, what is allowed and the value."""
    try:
        return kind.read(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} must be {kind}; got {shown(value)}") from None


def setting(default: Any, kind: Kind, label: str, help: str) -> Any:
    """Declare one field of `Settings`: its default, what it accepts, and what the user reads beside it."""
    return dataclasses.field(default=default, metadata={"kind": kind, "label": label, "help": help})


@dataclass(frozen=True)
class Settings:
    """How one pass caches.

    Raises ValueError, naming the field, the value and what is allowed, for anything else.
    """

    schedule: str = setting(
        "uniform",
        Choice(("auto", "uniform", "non-uniform", "list")),
        "Schedule",
        "Which evaluations of the U-Net run in full. Most samplers make one a step, Heun and its like two. auto: where "
        "they help most at your speed-up; uniform: evenly; non-uniform: denser around a centre; list: those you name.",
    )
    speed_up: float = setting(
        2.0,
        Number(1.0, 4.0),
        "Speed-up",
        "How many times as fast the U-Net should be. Higher is less close to the picture without DeepCache.",
    )
    interval: int = setting(
        3,
        WholeNumber(1, 50),
        "Interval",
        "One in this many evaluations runs in full. Higher is faster and less close.",
    )
    depth: int = setting(
        1,
        WholeNumber(0, 11),
        "Depth",
        "How many pairs of the U-Net's outer blocks run even where the rest is reused. Higher is slower. With a fixed "
        "interval it is closer with samplers that add noise and with Heun, hardly with others. 0 runs none of them. "
        "Where that can't work (no forecast, or noise that is not corrected) 1 is used.",
    )
    center: int = setting(
        15,
        WholeNumber(-1000, 1000),
        "Centre",
        "The number of the evaluation around which full ones are densest, counted from 0.",
    )
    power: float = setting(
        1.4,
        Number(1.0, 5.0),
        "Power",
        "How much denser full evaluations are around the centre. 1 spreads them evenly. The speed stays the same.",
    )
    steps: tuple[int, ...] = setting(
        (),
        Steps(),
        "Full steps",
        'The evaluations to run in full, counted from 0, such as "0, 5, 9-12".',
    )
    start: float = setting(
        0.0,
        Number(0.0, 1.0),
        "Start",
        "The first part of the run that is made in full: 0.2 is the first fifth. Higher is slower, with a closer "
        "composition.",
    )
    end: float = setting(
        1.0,
        Number(0.0, 1.0),
        "End",
        "Where the last part of the run begins that is made in full: 0.8 is for the last fifth. Lower is slower, with "
        "closer details.",
    )
    forecast: str = setting(
        "on",
        Choice(("on", "off")),
        "Forecast",
        "Estimate how the kept features change from step to step. Closer, and as fast. Off reuses them as they are, as "
        "the paper does.",
    )
    correction: str = setting(
        "on",
        Choice(("on", "off")),
        "Correction",
        "Each full evaluation makes up for errors of the reuses before it. Mostly closer, and as fast. Needs depth 0 "
        "and the forecast. Not with UniPC, LMS, PLMS, LCM or samplers of two evaluations a step.",
    )

    @property
    def reuses(self) -> bool:
        """Whether anything is reused by them: at interval 1, or a speed-up of 1, nothing is."""
        if self.schedule == "auto":
            return self.speed_up > 1
        return self.schedule == "list" or self.interval > 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = accepted(field.name, field.metadata["kind"], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.start > self.end:
            raise ValueError(f"start must be a number from 0 to end, which is {self.end:g}; got {self.start:g}")
        if self.schedule == "list" and not self.steps:
            raise ValueError('steps must name at least one evaluation for the schedule "list"; got an empty list')


def _finite(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _numbers_in(text: str) -> list[int]:
    numbers: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _NUMBER_OR_RANGE.fullmatch(part)
        if match is None:
            raise ValueError
        first = int(match[1])
        last = int(match[2] or first)
        if not first <= last <= LAST_STEP:
            raise ValueError
        numbers.extend(range(first, last + 1))
    return numbers
