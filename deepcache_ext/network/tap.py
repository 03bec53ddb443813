"""Hearing what a block is given and what it returns, whether a forward calls it or goes through its layers itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def layers(block: nn.Module) -> list[nn.Module]:
    """Return the layers that a forward may go through in the place of calling `block`; the block if it has none."""
    return list(block) if isinstance(block, nn.Sequential) and len(block) else [block]


class Tap:
    """Calls `before` with a block's input and `after` with its output.

    Some forwards call a block as a module, others iterate over its layers and call these. Where the block is called,
    what its own hooks make of input and output counts.
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        before: Callable[[Tensor], None] | None = None,
        after: Callable[[Tensor], None] | None = None,
    ) -> None:
        self._block = block
        self._before = before
        self._after = after
        self._is_called = False
        self._handles: list[RemovableHandle] = []

    def enter(self) -> None:
        """Begin to hear."""
        own = layers(self._block)
        self._is_called = False
        self._handles = [self._block.register_forward_pre_hook(self._begins)]
        if self._after is not None:
            self._handles.append(self._block.register_forward_hook(self._ends))
        if own == [self._block]:
            return
        if self._before is not None:
            self._handles.append(own[0].register_forward_pre_hook(self._first_begins))
        if self._after is not None:
            self._handles.append(own[-1].register_forward_hook(self._last_ends))

    def exit(self) -> None:
        """Hear nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begins(self, _block: nn.Module, args: tuple[Any, ...]) -> None:
        self._is_called = True
        if self._before is not None:
            self._before(args[0])

    def _ends(self, _block: nn.Module, _args: Any, output: Tensor) -> None:
        self._is_called = False
        if self._after is not None:
            self._after(output)

    def _first_begins(self, _layer: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._is_called and self._before is not None:
            self._before(args[0])

    def _last_ends(self, _layer: nn.Module, _args: Any, output: Tensor) -> None:
        if not self._is_called and self._after is not None:
            self._after(output)
