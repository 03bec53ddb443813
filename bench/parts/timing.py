"""Clocks for calls and for the blocks inside them, on a CPU and on a CUDA device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deepcache_ext.timer import now, seconds_between


@dataclass
class Clock:
    """Marks moments; on a CUDA device with events, so that nothing waits for the device between two marks."""

    device: str

    def mark(self) -> Any:
        """Return this moment."""
        return now(torch.device(self.device))

    def time(self, call: Callable[[], object]) -> float:
        """Return the seconds that `call` takes."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        start = self.mark()
        call()
        return seconds_between(start, self.mark())


@dataclass
class Samples:
    """Measurements by name, over the repeats."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add one measurement."""
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Return the median of `name`."""
        return statistics.median(self.values[name])


@contextmanager
def block_times(clock: Clock, blocks: list[nn.Module]) -> Iterator[list[float]]:
    """Collect the seconds that each of `blocks`, in the order of their calls, takes inside."""
    marks: list[Any] = []
    handles = [block.register_forward_pre_hook(lambda *_: marks.append(clock.mark())) for block in blocks]
    handles += [block.register_forward_hook(lambda *_: marks.append(clock.mark())) for block in blocks]
    seconds: list[float] = []
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
    seconds.extend(seconds_between(start, end) for start, end in zip(marks[::2], marks[1::2], strict=True))
