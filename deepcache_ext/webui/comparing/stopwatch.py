"""How long the U-Net takes during some of the host's work, whether anything is cached or not."""

from __future__ import annotations

from typing import Any

from deepcache_ext.timer import CallTimer
from deepcache_ext.webui.hosts import host


class Stopwatch:
    """Times all calls of the U-Net in force from `start` to `stop`, also where it is exchanged in between."""

    def __init__(self) -> None:
        self._running = False
        self._timers: list[CallTimer] = []
        self._unet: Any = None

    def start(self) -> None:
        """Start timing, from the next evaluation on."""
        self.stop()
        self._running = True

    def start_evaluation(self, _params: Any) -> None:
        """Follow the U-Net; to be called when the host's denoiser begins an evaluation."""
        if not self._running:
            return
        unet = host.loaded().unet
        if unet is self._unet or unet is None:
            return
        self._let_go()
        self._unet = unet
        self._timers.append(CallTimer(unet, lambda: ""))
        self._timers[-1].install()

    def stop(self) -> float:
        """Stop timing, and return the seconds since `start`."""
        self._let_go()
        timers, self._timers = self._timers, []
        self._running = False
        return sum(sum(calls) for timer in timers for calls in timer.seconds().values())

    def _let_go(self) -> None:
        if self._unet is not None:
            self._timers[-1].remove()
        self._unet = None
