"""The kept features: one batch for each U-Net call that computed some, with the keys of its rows.

A row is one batch entry of an evaluation's whole input, and its key says which. A host may spread an evaluation's rows
over several U-Net calls and change the split in mid-run, so the rows that one call kept may be asked for by another.
The same rows again are served from the batch as it is; other rows are put together by slices and one concatenation.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor

from deepcache_ext.features.denoised import Memory, NoiseLevels, Scales, drawn, remembered
from deepcache_ext.features.forecast import Held, Kept, Predictor
from deepcache_ext.features.per_row import PerRow

T = TypeVar("T")
Values = TypeVar("Values", Tensor, PerRow)


@dataclass(frozen=True)
class Signature:
    """What two U-Net inputs must share for the feature of one to fit the other."""

    shape: tuple[int, ...]
    """Channels, height and width, without the batch."""
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Call:
    """What one U-Net call is given, and which of its evaluation's rows it is for."""

    keys: Sequence[Hashable]
    """Of its rows, each another."""
    x: Tensor
    """Of shape (rows, channels, height, width)."""
    times: PerRow
    """Timesteps, of shape (rows,) on the same device, or the one of all rows; 0 where the call has none for each."""
    timed: bool = True
    """Whether it has."""
    _scales: list[Scales] = field(default_factory=list, init=False, repr=False)

    def scales(self, levels: NoiseLevels) -> Scales:
        """Return what the call's inputs and outputs count by the `levels` that it is first asked with."""
        if not self._scales:
            self._scales.append(levels.scales(self.times))
        return self._scales[0]

    @cached_property
    def signature(self) -> Signature:
        """What the features of the call fit."""
        return Signature(tuple(self.x.shape[1:]), self.x.dtype, self.x.device)


@dataclass(frozen=True, eq=False)
class _Batch:
    """What is kept of some rows: one tensor of each kind for all of them."""

    keys: tuple[Hashable, ...]
    """Of its rows, in their order. For as long as it is a place of one, it is of all."""
    signature: Signature
    generation: int
    kept: Mapping[int, Mapping[str, Any]]
    """By the key of the walk over the blocks, and by name; `OUTPUT` has what drawing needs to know of the output."""

    @cached_property
    def form(self) -> Hashable:
        """What batches must share for their rows to be put together: names, and numbers that all rows have."""
        return frozenset(
            (walk, name, None if isinstance(value, Tensor) else value)
            for walk, of_walk in self.kept.items()
            for name, value in of_walk.items()
        )

    @cached_property
    def walks(self) -> dict[int, torch.Size]:
        """The channels, height and width of each walk's feature."""
        return {walk: of_walk["feature"].shape[1:] for walk, of_walk in self.kept.items() if walk != OUTPUT}

    def tensors(self) -> Iterable[Tensor]:
        values = (value for of_walk in self.kept.values() for value in of_walk.values())
        return (value for value in values if isinstance(value, Tensor))

    def only(self, rows: Sequence[int], keys: Sequence[Hashable]) -> _Batch:
        """Return a batch with copies of those rows, which have these keys."""
        copies = {
            walk: {name: _copied(value, rows) for name, value in of_walk.items()} for walk, of_walk in self.kept.items()
        }
        return _Batch(tuple(keys), self.signature, self.generation, copies)


_Place = tuple[_Batch, int]
"""A row: the batch that it is kept in, and its position there."""
OUTPUT = -1
"""The key, in the place of a walk's, of what drawing needs to know of an output."""


class RowStore:
    """Features of the last refresh, by row and walk, and whatever of earlier ones the `predictor` keeps with them.

    What a row is served follows from what was kept of this row alone, and from its own input and timestep. With
    `levels` the denoised pictures of the last refresh are kept too; see `deepcache_ext.features.denoised`.
    """

    def __init__(self, predictor: Predictor | None = None, *, levels: NoiseLevels | None = None) -> None:
        self._places: dict[Hashable, _Place] = {}
        self._predictor = predictor or Held()
        self._levels = levels
        self._generation = 0

    def __len__(self) -> int:
        return len(self._current())

    def __repr__(self) -> str:
        return f"RowStore(rows={list(self._current())}, bytes={self.nbytes})"

    @property
    def nbytes(self) -> int:
        """Memory that is held for the rows, in bytes."""
        batches = {batch for batch, _ in self._places.values()}
        storages = (tensor.untyped_storage() for batch in batches for tensor in batch.tensors())
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def clear(self) -> None:
        """Forget every row and release its memory."""
        self._places.clear()

    def start_refresh(self) -> None:
        """Serve no row any more that isn't kept anew; what was kept stays if the predictor needs it."""
        if self._predictor.remembers:
            self._places = self._current()
            self._generation += 1
        else:
            self.clear()

    def has(self, keys: Iterable[Hashable]) -> bool:
        """Tell whether rows with all of these keys are kept of the last refresh."""
        return self._current().keys() >= {*keys}

    def serves(self, keys: Iterable[Hashable], size: Sequence[int], device: torch.device) -> bool:
        """Tell whether rows with all of these keys are kept of the last refresh, of that height and width, there."""
        current = self._current()
        found = [current[key][0].signature for key in keys if key in current]
        fits = all(of.shape[1:] == tuple(size) and of.device == device for of in found)
        return fits and len(found) == len([*keys]) > 0

    def keep(self, call: Call, walks: Mapping[int, Tensor], output: object = None) -> bool:
        """Keep the features of `call`, and of its `output` what is wanted, replacing what was kept of its rows.

        `walks` has one feature of shape (rows, channels, height, width) for each walk over the blocks, which is the
        store's from now on: with key 0 the walk over the call's own input, with other keys walks over anything else.
        Nothing is kept of a call in which a walk covered another number of rows than the call, since its rows can't be
        told apart, or in which none of several walks is known to be the call's own. Returns whether something was.
        """
        before = self._removed(call.keys)
        if any(len(walk) != len(call.keys) for walk in walks.values()) or 0 not in walks:
            return False
        signature = call.signature
        shapes = {walk: feature.shape[1:] for walk, feature in walks.items()}
        last = [
            place if place and place[0].signature == signature and place[0].walks == shapes else None
            for place in before
        ]
        memory = self._memory(call, output)
        for rows in _alike(last):
            x, times = _picked(call.x, rows), _picked(call.times, rows)
            earlier = [place for place in (last[row] for row in rows) if place is not None]
            kept: dict[int, Kept] = {}
            for walk, of_call in walks.items():
                feature = _copied(of_call, rows)
                if earlier:
                    kept[walk] = self._predictor.after(_joined(earlier, walk), feature, x, times)
                else:
                    kept[walk] = self._predictor.first(feature, x, times)
            if memory is not None:
                kept[OUTPUT] = {name: _copied(value, rows) for name, value in memory.items()}
            keys = tuple(call.keys[row] for row in rows)
            self._put(_Batch(keys, signature, self._generation, kept))
        return True

    def take(self, call: Call) -> dict[int, Tensor] | None:
        """Return a fresh tensor of shape (rows, channels, height, width) for each walk's key, or None.

        It is the feature that the predictor expects of `call`. None where a row is not kept, was kept for another
        signature, or was kept by a forward that made other walks or resized their pictures otherwise.
        """
        whole = self._whole(call.keys)
        if whole is not None and whole.generation == self._generation:
            return self._expected_of(whole, call) if whole.signature == call.signature else None
        current, signature = self._current(), call.signature
        places = [current[key] for key in call.keys if key in current]
        batches = {batch for batch, _ in places}
        if not places or len(places) != len(call.keys) or any(batch.signature != signature for batch in batches):
            return None
        walks = next(iter(batches)).walks
        if any(batch.walks != walks for batch in batches):
            return None
        return {walk: self._expected(call, places, walk) for walk in walks}

    def between(self, call: Call, x: Tensor, times: PerRow) -> Tensor | None:
        """Return the feature of a refresh's rows at `x` and `times` before it; None where nothing better is known.

        Rows with other pasts, and a call in which the forward made more walks than one, are left as they are.
        """
        places = [place for place in map(self._current().get, call.keys) if place is not None]
        if len(places) < len(call.keys) or len(_alike(places)) > 1 or [*places[0][0].walks] != [0]:
            return None
        return self._predictor.between(_joined(places, 0), x, times)

    def drawn(self, call: Call, output: Any) -> Any:
        """Return the `output` of a reuse, drawn towards the last refresh's denoised picture where that is kept."""
        if self._levels is None or not can_draw(output, call):
            return output
        places = [self._places[key] for key in call.keys]
        if any(OUTPUT not in of.kept for of, _ in places):
            return output
        return drawn(output, call.x, call.scales(self._levels), _joined(places, OUTPUT))

    def _whole(self, keys: Sequence[Hashable]) -> _Batch | None:
        """Return the batch that has just these rows, in that order, if there is one."""
        place = self._places.get(keys[0]) if keys else None
        return place[0] if place is not None and place[0].keys == tuple(keys) else None

    def _expected_of(self, batch: _Batch, call: Call) -> dict[int, Tensor]:
        found = {}
        for walk in batch.walks:
            kept = {**batch.kept[walk]}
            feature = self._predictor.expected(kept, call.x, call.times)
            found[walk] = feature.clone() if feature is kept["feature"] else feature
        return found

    def _expected(self, call: Call, places: Sequence[_Place], walk: int) -> Tensor:
        found: dict[int, tuple[Tensor, int]] = {}
        groups = _alike(places)
        for rows in groups:
            of_rows = [places[row] for row in rows]
            kept = _joined(of_rows, walk)
            feature = self._predictor.expected(kept, _picked(call.x, rows), _picked(call.times, rows))
            if feature is kept["feature"] and len(groups) == len(_runs(of_rows)) == 1:
                feature = feature.clone()
            found.update({row: (feature, position) for position, row in enumerate(rows)})
        if len(groups) == 1:
            return found[0][0]
        return _one([feature[rows] for feature, rows in _runs(found[row] for row in range(len(places)))])

    def _memory(self, call: Call, output: object) -> Memory | None:
        if self._levels is None or not can_draw(output, call):
            return None
        return remembered(call.x, call.scales(self._levels), output.detach(), self._predictor.share)

    def _current(self) -> dict[Hashable, _Place]:
        return {key: place for key, place in self._places.items() if place[0].generation == self._generation}

    def _put(self, batch: _Batch) -> None:
        self._places.update({key: (batch, position) for position, key in enumerate(batch.keys)})

    def _removed(self, keys: Sequence[Hashable]) -> list[_Place | None]:
        """Take those rows out, copying what is left of their batches, and return where they were."""
        removed = [self._places.pop(key, None) for key in keys]
        for batch in {place[0] for place in removed if place is not None}:
            left = {key: position for key, (of, position) in self._places.items() if of is batch}
            if left:
                self._put(batch.only([*left.values()], [*left]))
        return removed


def can_draw(output: object, call: Call) -> TypeGuard[Tensor]:
    """Tell whether an output is one to draw: its noise level known, its size the input's, no more channels."""
    if not call.timed or not isinstance(output, Tensor):
        return False
    return output.shape[2:] == call.x.shape[2:] and output.shape[1] <= call.x.shape[1]


def _alike(places: Sequence[_Place | None]) -> list[list[int]]:
    """Return the numbers of the rows that can be put together, by the form of their batches, None for none."""
    groups: dict[Hashable, list[int]] = {}
    for row, place in enumerate(places):
        groups.setdefault(None if place is None else place[0].form, []).append(row)
    return [*groups.values()]


def _runs(places: Iterable[tuple[T, int]]) -> list[tuple[T, slice]]:
    """Return the places as ranges of neighbours in the same thing."""
    runs: list[tuple[T, slice]] = []
    for thing, position in places:
        if runs and runs[-1][0] is thing and runs[-1][1].stop == position:
            runs[-1] = (thing, slice(runs[-1][1].start, position + 1))
        else:
            runs.append((thing, slice(position, position + 1)))
    return runs


def _joined(places: Sequence[_Place], walk: int) -> Kept:
    """Return what is kept of those rows, of batches of one form: a view where they are neighbours in one batch."""
    batch = places[0][0]
    if len(places) == len(batch.keys) and all(place == (batch, row) for row, place in enumerate(places)):
        return {**batch.kept[walk]}
    runs = _runs(places)
    return {
        name: _one([batch.kept[walk][name][rows] for batch, rows in runs]) if isinstance(value, Tensor) else value
        for name, value in batch.kept[walk].items()
    }


def _picked(value: Values, rows: Sequence[int]) -> Values:
    """Return some rows of a tensor, in ascending order: all of it, or a view where they are neighbours.

    A number is that of all rows.
    """
    if not isinstance(value, Tensor) or len(rows) == len(value):
        return value
    return _one([value[part] for _, part in _runs((value, row) for row in rows)])


def _copied(value: Values, rows: Sequence[int]) -> Values:
    """Return some rows of a tensor that will not be needed as a whole: all of it, or a copy. A number is of all."""
    picked = _picked(value, rows)
    if not isinstance(value, Tensor) or not isinstance(picked, Tensor):
        return picked
    neighbours = rows[-1] - rows[0] + 1 == len(rows) < len(value)
    return picked.clone() if neighbours else picked


def _one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
