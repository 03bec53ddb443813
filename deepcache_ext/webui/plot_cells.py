"""The cells of an X/Y/Z plot: what its axes ask of each."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

_OVERRIDES = "deepcache_overrides"
"""The attribute of a processing object that holds the `_Cell` that it is, if it is one of an X/Y/Z plot."""


class _Cell:
    """What the axes of an X/Y/Z plot ask of one cell, by control. Copies of the cell have it too, but are no cell."""

    def __init__(self, p: Any, values: Mapping[str, Any]) -> None:
        self.p = weakref.ref(p)
        self.values = values


def override(p: Any, values: Mapping[str, Any]) -> None:
    """Exchange the values of some controls for the plot's cell `p`."""
    setattr(p, _OVERRIDES, _Cell(p, {**overrides_of(p), **values}))


def overrides_of(p: Any) -> Mapping[str, Any]:
    """Return the values that are exchanged for `p`, if it is a cell of a plot and no copy of one."""
    cell: _Cell | None = getattr(p, _OVERRIDES, None)
    return cell.values if cell is not None and cell.p() is p else {}
