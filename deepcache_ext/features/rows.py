"""Which rows of an evaluation its U-Net calls are for.

A row is told by a key: anything hashable that says what the row is, such as its kind, its number within the kind and
the conditioning that it has now. A caller that gives an evaluation's keys can say of each call which of them it is for;
else the calls take them in order. Whose keys nobody gives, the rows are told by their place.

Someone else may decide what the calls are given: windows of a longer clip, tiles of a larger picture. No place tells
such rows. So the calls have to be the host's own cut of the sampler's batch: whole batches of its pictures, at their
size, and no row twice. Where nobody says which rows they are for and one call is not for all of them, it also takes a
look at what the first one is given, which waits for the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcache_ext.sentence import shown

ALIKE = 0.99
"""The cosine between the inputs of sampler and U-Net from which on they are taken for the same picture's."""


@dataclass(frozen=True)
class Batch:
    """What is known of the batch that a sampler works on."""

    pictures: int
    """How many there are. The host's own calls have whole batches of them."""
    size: tuple[int, ...]
    """Height and width of each."""
    x: Tensor | None = None
    """The sampler's input, of shape (pictures, channels, height, width), up to a factor what the U-Net's calls get."""

    @classmethod
    def of(cls, x: Tensor) -> Batch:
        """Return what is known of a batch with a sampler's input."""
        return cls(len(x), tuple(x.shape[2:]), x)

    def is_start_of(self, x: Tensor) -> bool:
        """Tell whether a call's rows are these pictures in their order, once or several times. Waits for the device."""
        if self.x is None or self.pictures == 1:
            return True
        channels = min(x.shape[1], self.x.shape[1])
        ours, theirs = (of[:, :channels].detach().float().flatten(1) for of in (self.x, x))
        alike = torch.cosine_similarity(theirs.view(-1, *ours.shape), ours, dim=-1)
        return bool((alike > ALIKE).all())


class Rows:
    """Gives the calls of one evaluation the keys of their rows.

    `keys` are those of the evaluation's rows, in the order of the calls, None where nobody knows; `batch` is what is
    known of the sampler's, `before` how many rows the last evaluation had. Without `exact` the keys are what to expect:
    a call may be said to be for others, and some may be for none. Raises ValueError for keys of which two are the same.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | None = None,
        batch: Batch | None = None,
        before: int | None = None,
        *,
        exact: bool = True,
    ) -> None:
        if keys is not None and len(set(keys)) != len(keys):
            raise ValueError(f"each row must have a key of its own; got {shown(list(keys))}")
        self._keys = None if keys is None else tuple(keys)
        self._batch = batch
        self._before = before
        self._missing = set(keys or ())
        self._exact = exact
        self._said: set[Hashable] = set()
        self.handed = 0
        """Rows that were in calls so far."""

    @property
    def complete(self) -> bool:
        """Whether the calls so far were for all rows with keys, or no call was made."""
        return not self._missing or not self.handed or not self._exact

    def next(self, x: Tensor, said: Sequence[Hashable] | None = None, *, must_say: bool = False) -> Sequence[Hashable]:
        """Return the keys of the rows of the next call, whose input is `x`; none if they can't be told.

        `said` are its keys if somebody said them. With `must_say` a call that nobody did is for none of the rows with
        keys. What comes after all of these, such as the calls of another guidance, is told by its place.
        """
        first, self.handed = self.handed, self.handed + len(x)
        if self._batch is not None and tuple(x.shape[2:]) != self._batch.size:
            return ()
        if said is not None:
            keys: Sequence[Hashable] = said if self._may_be(said) and len(said) == len(x) else ()
            self._said.update(keys)
        elif must_say and (self._missing or not self._exact):
            keys = ()
        else:
            keys = self._in_order(first, len(x)) if self._is_the_hosts(first, x) else ()
        self._missing.difference_update(keys)
        return keys

    def possible(self, x: Tensor) -> Sequence[Hashable]:
        """Return all keys that the next call, whose input is as large as `x`, may have some of; none if unknown."""
        known = self._batch is not None and tuple(x.shape[2:]) == self._batch.size
        return tuple(self._missing) if known and len(x) <= len(self._missing) else ()

    def _may_be(self, said: Sequence[Hashable]) -> bool:
        if self._exact:
            return self._missing.issuperset(said) and len({*said}) == len(said)
        return self._said.isdisjoint(said) and len({*said}) == len(said)

    def _in_order(self, first: int, count: int) -> Sequence[Hashable]:
        if self._keys is None:
            return range(first, first + count)
        beyond = first - len(self._keys)
        if -count < beyond < 0:
            return ()
        return self._keys[first : first + count] or [("after", beyond + row) for row in range(count)]

    def _is_the_hosts(self, first: int, x: Tensor) -> bool:
        if self._batch is None:
            return True
        if not self._is_whole(self._batch, first) or not self._is_whole(self._batch, self.handed):
            return False
        looks = first == 0 and self._before not in {None, 0, len(x)}
        return not looks or self._batch.is_start_of(x)

    def _is_whole(self, batch: Batch, place: int) -> bool:
        """Tell whether a call may begin or end there: whole batches from the first row on, or from the last back."""
        ends = (0,) if self._keys is None else (0, len(self._keys))
        return any((place - end) % batch.pictures == 0 for end in ends)
