"""How long each call of a U-Net takes, measured without making the device wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepcache_ext.network.own_hooks import OwnHooks

Times = Mapping[tuple[str, tuple[int, ...]], Sequence[float]]
"""The seconds of calls, in order, by their label and the shape of their input."""

TIMED = frozenset({"cpu", "cuda"})
"""The devices that tell when they have done a call."""


class CallTimer:
    """Times the calls of `unet`: by events on a CUDA device, by the clock on a processor.

    On other devices a call returns before it is done and nothing tells when it is, so there none is timed. `label` is
    asked after every call. Other hooks put on between `install` and `remove` are timed with the call.
    """

    def __init__(self, unet: nn.Module, label: Callable[[], str]) -> None:
        self._label = label
        self._calls: list[tuple[tuple[str, tuple[int, ...]], Any, Any]] = []
        self._start: Any = None
        self._device = torch.device("cpu")
        self._size: tuple[int, ...] = ()
        self._hooks = OwnHooks(unet)

    def install(self) -> None:
        """Start timing, from before all hooks that are on the U-Net already."""
        self._hooks.add_before(self._before, first=True)
        self._hooks.add_after(self._after)

    def remove(self) -> None:
        """Stop timing."""
        self._hooks.remove()

    def seconds(self) -> Times:
        """Return the seconds of the calls; waits for a CUDA device to finish them."""
        times: dict[tuple[str, tuple[int, ...]], list[float]] = {}
        for kind, start, end in self._calls:
            times.setdefault(kind, []).append(seconds_between(start, end))
        return times

    def _before(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("x")
        self._device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        self._start = now(self._device) if self._device.type in TIMED else None
        self._size = tuple(getattr(x, "shape", ()))

    def _after(self, _unet: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        label = self._label()
        if self._start is not None:
            self._calls.append(((label, self._size), self._start, now(self._device)))
        self._start = None


def now(device: torch.device) -> Any:
    """Return this moment for `seconds_between`; on a CUDA device an event, for which nothing waits.

    The event is that device's, which need not be the current one: hosts that are told to use another only name it.
    """
    if device.type != "cuda":
        return time.perf_counter()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Return the seconds between two moments of the same kind; waits for a CUDA device to reach `end`."""
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
