"""Seeing that the network is another than in the last evaluation: other weights, or controls that begin or end."""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from deepcache_ext.network.own_hooks import OwnHooks

_UNKNOWN = object()
_VERSION: Callable[[Any], int] = operator.attrgetter("_version")
"""How often a tensor has been written into, as torch counts it."""
PARTS = 16
"""One matrix in so many is looked at between two evaluations, others each time; of a kind with as many at least one."""
FEW = 16
"""Matrices that a part has at least."""


class InForce:
    """Compares what is in force at the first call of an evaluation with what was at that of the last one.

    That is what a caller says of it, and how often somebody has written into the matrices of `unet` between two calls.
    Torch counts that, but for what goes through `.data` (findings/writes-that-torch-does-not-count.sh). To look at each
    takes longer than all else of a reuse, so it is one in `PARTS`: what is merged into one kind of layer is seen, what
    is written into a single matrix may not be.
    What is written during a call, as hosts apply a LoRA, does not count, and what was made in torch's inference mode
    counts nothing. A change within `stages` evaluations of another is one of many, as ramps make them: no jump.
    `failed` gets an exception in counting; the call itself goes on.
    """

    def __init__(self, unet: nn.Module, stages: int, failed: Callable[[Exception], None]) -> None:
        self._unet = unet
        self._hooks = OwnHooks(unet, failed)
        self._parts = self._parts_now()
        self._listed = self._turn = 0
        self._stages = stages
        self._ask: Callable[[], Any] | None = None
        self._index = 0
        self._changed_at = -math.inf
        self._was: Any = _UNKNOWN
        self._writes_before: tuple[int, int] | None = None

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
        return self._differs(self._asked()) and self._is_alone

    def note(self) -> bool:
        """Note what is in force at an evaluation's first call, and tell whether it has jumped."""
        now = self._asked()
        differs, alone = self._differs(now), self._is_alone
        if differs:
            self._changed_at = self._index
        self._was = now
        return differs and alone

    @property
    def _is_alone(self) -> bool:
        """Whether a change now would be the first for longer than a step."""
        return self._index - self._changed_at > self._stages

    def _asked(self) -> Any:
        return None if self._ask is None else self._ask()

    def _differs(self, now: Any) -> bool:
        written = self._writes_before is not None and self._writes_before != self._writes()
        return self._was is not _UNKNOWN and bool(written or now != self._was)

    def _count(self, *_: Any) -> None:
        self._turn += 1
        self._writes_before = self._writes()

    def _writes(self) -> tuple[int, int]:
        """Return how often the matrices were listed, and how often the part whose turn it is was written into.

        It is asked at every call, so without a loop of our own.
        """
        part = self._parts[self._turn % len(self._parts)]
        try:
            return self._listed, sum(map(_VERSION, [weight() for weight in part]))
        except AttributeError:  # some weights are gone, and whoever has put others in their place has written
            self._parts = self._parts_now()
            self._listed += 1
            return self._writes()

    def _parts_now(self) -> list[list[weakref.ref[nn.Parameter]]]:
        """Return the matrices that are in the U-Net now, dealt out so that every part has some of every kind."""
        by_kind = sorted(
            self._unet.named_parameters(), key=lambda named: named[0].split(".")[-4:]
        )  # as attn1.to_out.0.weight
        matrices = (weight for _, weight in by_kind if weight.ndim > 1 and not weight.is_inference())
        weights = [weakref.ref(weight) for weight in matrices]
        parts = max(1, min(PARTS, len(weights) // FEW))
        return [weights[first::parts] for first in range(parts)]
