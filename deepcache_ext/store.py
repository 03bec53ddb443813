"""The kept features, by row.

A row is one batch entry of an evaluation's whole input. A host may spread an evaluation's rows over several U-Net
calls and change the split in mid-run, so the rows that one call kept may be asked for by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    walks: tuple[Tensor, ...]
    """One feature of shape (1, channels, height, width) for each time the forward walked the blocks."""


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
        kept = (walk.untyped_storage() for row in self._rows.values() for walk in row.walks)
        return sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())

    def clear(self) -> None:
        """Forget every row and release its memory."""
        self._rows.clear()

    def keep(self, rows: range, signature: Signature, walks: Iterable[Walk]) -> None:
        """Keep the features of a call over `rows`, replacing what was kept of them.

        A call in which a walk covered another number of rows than the call itself can't be told apart by row;
        nothing of it is kept.
        """
        walks = list(walks)
        for row in rows:
            self._rows.pop(row, None)
        if not walks or any(len(walk) != len(rows) for walk in walks):
            return
        for position, row in enumerate(rows):
            self._rows[row] = _Row(signature, tuple(walk[position] for walk in walks))

    def take(self, rows: range, signature: Signature) -> list[Tensor] | None:
        """Return a fresh tensor of shape (rows, channels, height, width) for each walk, or None.

        None where a row is not kept, was kept for another signature, or was kept by a forward that walked the
        blocks another number of times.
        """
        kept = [self._rows.get(row) for row in rows]
        found = [row for row in kept if row is not None and row.signature == signature]
        if not found or len(found) != len(kept) or len({len(row.walks) for row in found}) != 1:
            return None
        return [torch.cat(walk) for walk in zip(*(row.walks for row in found), strict=True)]
