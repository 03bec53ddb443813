"""The kept features, by row.

A row is one batch entry of an evaluation's whole input. A host may spread an evaluation's rows over several U-Net
calls and change the split in mid-run, so the rows that one call kept may be asked for by another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signature:
    """What two U-Net inputs must share for the feature of one to fit the other."""

    shape: tuple[int, ...]
    """Channels, height and width, without the batch."""
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor) -> Signature:
        """Return the signature of a U-Net input of shape (rows, channels, height, width)."""
        return cls(tuple(x.shape[1:]), x.dtype, x.device)


@dataclass(frozen=True)
class _Row:
    signature: Signature
    walks: dict[int, Tensor]
    """A feature of shape (1, channels, height, width) for each walk over the blocks, by the walk's key."""


Walk = Sequence[Tensor]
"""One feature of shape (1, channels, height, width) for each row of a call."""


class RowStore:
    """Features of the last refresh, one per row and walk."""

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"RowStore(rows={sorted(self._rows)}, bytes={self.nbytes})"

    @property
    def nbytes(self) -> int:
        """Memory that the kept features hold, in bytes."""
        kept = (walk.untyped_storage() for row in self._rows.values() for walk in row.walks.values())
        return sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())

    def clear(self) -> None:
        """Forget every row and release its memory."""
        self._rows.clear()

    def keep(self, rows: range, signature: Signature, walks: Mapping[int, Walk]) -> None:
        """Keep the features of a call over `rows`, replacing what was kept of them.

        `walks` has key 0 for the walk over the call's own input and other keys for walks over anything else. Nothing
        is kept of a call in which a walk covered another number of rows than the call, since its rows can't be told
        apart, or in which none of several walks is known to be the call's own.
        """
        for row in rows:
            self._rows.pop(row, None)
        if any(len(walk) != len(rows) for walk in walks.values()) or 0 not in walks:
            return
        for position, row in enumerate(rows):
            self._rows[row] = _Row(signature, {key: walk[position] for key, walk in walks.items()})

    def take(self, rows: range, signature: Signature) -> dict[int, Tensor] | None:
        """Return a fresh tensor of shape (rows, channels, height, width) for each walk's key, or None.

        None where a row is not kept, was kept for another signature, or was kept by a forward that made other walks.
        """
        kept = [self._rows.get(row) for row in rows]
        found = [row for row in kept if row is not None and row.signature == signature]
        if not found or len(found) != len(kept) or len({frozenset(row.walks) for row in found}) != 1:
            return None
        return {key: torch.cat([row.walks[key] for row in found]) for key in found[0].walks}
