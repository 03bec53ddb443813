"""Seeing that the network is another than in the last evaluation: other weights, or controls that begin or end."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from deepcache_ext.network.own_hooks import OwnHooks

_UNKNOWN = object()


class InForce:
    """Compares what is in force at the first call of an evaluation with what was at that of the last one.

    That is what a caller says of it, and how often somebody has written into the weights of `unet` between two calls.
    What is written during a call, as hosts apply a LoRA, does not count, and what was made in torch's inference mode
    counts nothing. A change within `stages` evaluations of another is one of many, as ramps make them: no jump.
    """

    def __init__(self, unet: nn.Module, stages: int) -> None:
        self._hooks = OwnHooks(unet)
        self._weights = [weakref.ref(weight) for weight in unet.parameters()]
        self._stages = stages
        self._ask: Callable[[], Any] | None = None
        self._index = 0
        self._changed_at = -math.inf
        self._was: Any = _UNKNOWN
        self._writes_before: int | None = None

    def install(self) -> None:
        """Begin to watch."""
        self.remove()
        self._hooks.add_after(self._count)

    def remove(self) -> None:
        """Leave the U-Net as it was found, and forget what was in force."""
        self._hooks.remove()
        self._was, self._writes_before, self._changed_at = _UNKNOWN, None, -math.inf

    def begin(self, index: int, ask: Callable[[], Any] | None) -> None:
        """Begin evaluation `index`, at whose first call `ask` tells what is in force."""
        self._index, self._ask = index, ask

    @property
    def has_jumped(self) -> bool:
        """Whether the network is another now, after having been the same for longer than a step."""
        return self._differs(self._asked()) and self._index - self._changed_at > self._stages

    def note(self) -> bool:
        """Note what is in force at an evaluation's first call, and tell whether it has jumped."""
        jumped, now = self.has_jumped, self._asked()
        if self._differs(now):
            self._changed_at = self._index
        self._was = now
        return jumped

    def _asked(self) -> Any:
        return None if self._ask is None else self._ask()

    def _differs(self, now: Any) -> bool:
        written = self._writes_before is not None and self._writes_before != self._writes()
        return self._was is not _UNKNOWN and bool(written or now != self._was)

    def _count(self, *_: Any) -> None:
        self._writes_before = self._writes()

    def _writes(self) -> int:
        return sum(_writes_of(weight()) for weight in self._weights)


def _writes_of(weight: Tensor | None) -> int:
    return 0 if weight is None or weight.is_inference() else int(weight._version)
