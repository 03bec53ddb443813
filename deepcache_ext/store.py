"""The kept features, by row.

A row is one batch entry of an evaluation's whole input. A host may spread an evaluation's rows over several U-Net
calls and change the split in mid-run, so the rows that one call kept may be asked for by another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from deepcache_ext.denoised import NoiseLevels, Prior, drawn
from deepcache_ext.forecast import Held, Kept, Predictor


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

    rows: range
    x: Tensor
    """Of shape (rows, channels, height, width)."""
    times: Tensor
    """Timesteps, of shape (rows,), on the same device; 0 where the call has none for each row."""
    timed: bool = True
    """Whether it has."""

    @property
    def signature(self) -> Signature:
        """What the features of the call fit."""
        return Signature(tuple(self.x.shape[1:]), self.x.dtype, self.x.device)


@dataclass(frozen=True)
class _Row:
    signature: Signature
    walks: dict[int, Kept]
    """What is kept of each walk over the blocks, by the walk's key."""
    generation: int
    prior: Prior | None
    """The refresh itself, where outputs are drawn towards its denoised picture."""


Walk = Sequence[Tensor]
"""One feature of shape (1, channels, height, width) for each row of a call."""


class RowStore:
    """Features of the last refresh, one per row and walk, and whatever of earlier ones the `predictor` keeps with them.

    What a row is served follows from what was kept of this row alone, and from its own input and timestep. With
    `levels` the outputs of the last refresh are kept too; see `deepcache_ext.denoised`.
    """

    def __init__(self, predictor: Predictor | None = None, *, levels: NoiseLevels | None = None) -> None:
        self._rows: dict[int, _Row] = {}
        self._predictor = predictor or Held()
        self._levels = levels
        self._generation = 0

    def __len__(self) -> int:
        return len(self._current())

    def __repr__(self) -> str:
        return f"RowStore(rows={sorted(self._current())}, bytes={self.nbytes})"

    @property
    def nbytes(self) -> int:
        """Memory that the kept features hold, in bytes."""
        kept = [walk for row in self._rows.values() for walk in row.walks.values()]
        storages = (one.feature.untyped_storage() for walk in kept for one in walk.refreshes())
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def clear(self) -> None:
        """Forget every row and release its memory."""
        self._rows.clear()

    def start_refresh(self) -> None:
        """Serve no row any more that isn't kept anew; what was kept stays if the predictor needs it."""
        if self._predictor.remembers:
            self._rows = self._current()
            self._generation += 1
        else:
            self.clear()

    def keep(self, call: Call, walks: Mapping[int, Walk], output: object = None) -> None:
        """Keep the features of `call`, and its `output` if that is wanted, replacing what was kept of its rows.

        `walks` has key 0 for the walk over the call's own input and other keys for walks over anything else. Nothing
        is kept of a call in which a walk covered another number of rows than the call, since its rows can't be told
        apart, or in which none of several walks is known to be the call's own.
        """
        before = {row: self._rows.pop(row, None) for row in call.rows}
        if any(len(walk) != len(call.rows) for walk in walks.values()) or 0 not in walks:
            return
        x, times = call.x.detach(), call.times
        if self._predictor.remembers or self._levels is not None:
            x, times = x.clone(), times.clone()
        outputs = output.detach().clone() if self._draws(output, call) else None
        for position, row in enumerate(call.rows):
            one = Call(range(row, row + 1), x[position : position + 1], times[position : position + 1])
            of_row = {key: walk[position] for key, walk in walks.items()}
            prior = None if outputs is None else Prior(one.x, one.times, outputs[position : position + 1])
            self._rows[row] = _Row(call.signature, self._after(before[row], one, of_row), self._generation, prior)

    def take(self, call: Call) -> dict[int, Tensor] | None:
        """Return a fresh tensor of shape (rows, channels, height, width) for each walk's key, or None.

        It is the feature that the predictor expects of `call`. None where a row is not kept, was kept for another
        signature, or was kept by a forward that made other walks.
        """
        current = self._current()
        kept = [current.get(row) for row in call.rows]
        found = [row for row in kept if row is not None and row.signature == call.signature]
        if not found or len(found) != len(kept) or len({frozenset(row.walks) for row in found}) != 1:
            return None
        expected = self._predictor.expected
        return {key: expected([row.walks[key] for row in found], call.x, call.times) for key in found[0].walks}

    def drawn(self, call: Call, output: Any) -> Any:
        """Return the `output` of a reuse, drawn towards the last refresh's denoised picture where that is kept."""
        priors = [row.prior for row in (self._rows[number] for number in call.rows) if row.prior is not None]
        if self._levels is None or len(priors) != len(call.rows) or not self._draws(output, call):
            return output
        last = Prior(
            torch.cat([prior.x for prior in priors]),
            torch.cat([prior.times for prior in priors]),
            torch.cat([prior.output for prior in priors]),
        )
        return drawn(output, call.x, call.times, last, self._levels, self._predictor.share)

    def _draws(self, output: object, call: Call) -> TypeGuard[Tensor]:
        """Tell whether the output is one to draw: its noise level known, its size the input's, no more channels."""
        if self._levels is None or not call.timed or not isinstance(output, Tensor):
            return False
        return output.shape[2:] == call.x.shape[2:] and output.shape[1] <= call.x.shape[1]

    def _current(self) -> dict[int, _Row]:
        return {number: row for number, row in self._rows.items() if row.generation == self._generation}

    def _after(self, last: _Row | None, call: Call, walks: dict[int, Tensor]) -> dict[int, Kept]:
        """Return what to keep of a row where `last` was kept of it before."""
        fits = last is not None and last.signature == call.signature and last.walks.keys() == walks.keys()
        if last is None or not fits:
            return {key: self._predictor.first(new, call.x, call.times) for key, new in walks.items()}
        return {key: self._predictor.after(last.walks[key], new, call.x, call.times) for key, new in walks.items()}
