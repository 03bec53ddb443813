"""How much memory tensors take at most while something runs, counted on any device, "meta" among them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, for as long as a tensor on them lives.

    What an operation allocates and frees within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._tensors: dict[int, int] = {}
        """How many live on each storage, by the address of torch's own object for it: on "meta" it has no other."""

    def __torch_dispatch__(
        self, operation: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        found = operation(*args, **(kwargs or {}))
        known = {one.untyped_storage()._cdata for one in given} - self._tensors.keys()
        for one in tree_leaves(found):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in known:
                self._note(one)
        return found

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address not in self._tensors:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._tensors[address] = self._tensors.get(address, 0) + 1
        weakref.finalize(tensor, self._drop, address, size)

    def _drop(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        if not self._tensors[address]:
            del self._tensors[address]
            self.now -= size
