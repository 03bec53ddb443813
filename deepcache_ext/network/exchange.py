"""Exchanging children of a module for the length of one call."""

from __future__ import annotations

from torch import nn


class Exchange:
    """Puts other modules in the place of some children of `module`, and the originals back."""

    def __init__(self, module: nn.Module, **stand_ins: nn.Module) -> None:
        self._module = module
        self._stand_ins = stand_ins
        self._originals: dict[str, nn.Module | None] = {}

    def enter(self) -> None:
        """Put the stand-ins in place."""
        self._originals = {name: self._module._modules[name] for name in self._stand_ins}
        self._module._modules.update(self._stand_ins)

    def exit(self) -> None:
        """Put the originals back."""
        self._module._modules.update(self._originals)
        self._originals = {}
