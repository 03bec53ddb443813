"""What to expect of a run that a host's sampler is about to make: what it answers, or else what its name says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepcache_ext.planning.dry_run import UnansweredError
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.sampler_run import SamplerRun
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.dry_runs import Launched

logger = logging.getLogger("deepcache")


@dataclass(frozen=True)
class ExpectedRun:
    """What a run is planned by."""

    evaluations: int | None
    """How many it makes; None if nobody knows."""
    kind: SamplerKind
    decides_itself: bool = False
    """Whether it depends on the denoiser's outputs how often it is evaluated."""
    asked: SamplerRun | None = None
    """What the sampler answered; None if it was not asked or did not answer."""


class ExpectedRuns:
    """The runs of one job, each asked once: twenty pictures of one batch make twenty equal runs."""

    def __init__(self) -> None:
        self._asked: dict[Any, SamplerRun | None] = {}

    def of(
        self, sampler: Any, steps: int, func: Callable[[], Any], *, img2img: bool, scheduler: str, asks: bool
    ) -> ExpectedRun:
        """Return what to expect of the run of the host's `sampler` that `func` makes, launched with so many `steps`.

        Without `asks` the sampler is not asked, nor is one whose arguments the host does not show; names have to do
        then. Of one that does not answer nothing but its name's kind is known.
        """
        name, launched = sampler.config.name, Launched(sampler, func)
        kind, itself = host.samplers.kind(name), host.samplers.decides_itself(name)
        if not asks or not launched.can_be_asked:
            return ExpectedRun(
                host.samplers.evaluations(name, steps, img2img=img2img, scheduler=scheduler), kind, itself
            )
        key = launched.key()
        if key not in self._asked:
            self._asked[key] = _answer(launched, name)
        run = self._asked[key]
        if run is None:
            return ExpectedRun(None, kind, itself)
        host.samplers.remember(run, name, steps, img2img=img2img, scheduler=scheduler)
        return ExpectedRun(run.evaluations, run.kind, run.decides_itself, run)


def _answer(launched: Launched, name: str) -> SamplerRun | None:
    try:
        return launched.ask(host.loaded().unet)
    except UnansweredError as error:
        logger.info("DeepCache: what %s will do is not known beforehand: %s", name, error)
        return None
