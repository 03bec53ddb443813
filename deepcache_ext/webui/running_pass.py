"""One pass on the host's U-Net, from its first evaluation to its report."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sampling import SamplingPass
from deepcache_ext.timer import CallTimer, Times
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.host import Evaluation
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.reports import NO_EVALUATION, PassReport, explain


class RunningPass:
    """One pass on the host's U-Net, which may be exchanged in mid-run."""

    def __init__(self, sampler: Any, of_run: SamplerKind, settings: Settings, report: PassReport) -> None:
        self.denoiser = sampler.model_wrap_cfg
        self._p = sampler.p
        self._report = report
        self._loaded = host.loaded()
        if report.planned is None:
            settings = dataclasses.replace(settings, depth=max(1, settings.depth))
        self._reuse = reuse_cost(settings.depth_for(noisy=of_run.noisy), self._loaded.family)
        self._run = SamplingPass(
            self._loaded.unet,
            settings,
            report.planned,
            sampler=of_run,
            levels=host.noise_levels(),
            reuse=self._reuse,
            view="full-length" if host.counts_blocks else "auto",
            control_models=lambda: host.control_models(self._p),
            controls_ahead=host.controls_ahead,
            is_hosts=host.is_own,
        ).install()
        report.plan = _full_steps(self._run.schedule)
        self._timers: list[CallTimer] = []
        self._time_calls()
        self._evaluation: Evaluation | None = None
        self._heard_at: nn.Module | None = None
        self._hooks: OwnHooks | None = None

    def start_evaluation(self, params: Any) -> None:
        """Start the next evaluation, on the U-Net that is in force now."""
        loaded = host.loaded()
        if loaded != self._loaded:
            self._loaded = loaded
            self._timers[-1].remove()
            try:
                self._run.move(loaded.unet, host.noise_levels())
            except ValueError as error:
                self._report.reason = str(error)
                explain(self._p, f"since the checkpoint changed, {error}")
            else:
                self._time_calls()
        self._evaluation = begun = host.evaluation(params)
        self._listen(begun.heard_at)
        self._run.start_evaluation(
            keys=begun.keys, batch=begun.batch, exact=begun.exact, partial=begun.partial, noise=params.sigma
        )

    def end(self, seconds: float) -> None:
        """Leave the U-Net as it was found, and report; the sampler's run took `seconds`."""
        self.release()
        report, run = self._report, self._run
        report.statistics = run.statistics
        report.sampling_seconds = seconds
        report.cost = run.statistics.full + run.statistics.reused * self._reuse
        report.reason = report.reason or run.schedule.shortfall
        if run.statistics.reason:
            report.reason = run.statistics.reason
            explain(self._p, report.reason)
        made = run.statistics.full + run.statistics.reused
        report.reason = report.reason or ("" if made else NO_EVALUATION)
        report.unet_seconds, saved = _measured([timer.seconds() for timer in self._timers])
        if report.planned is not None and made <= report.planned and saved > 0 < seconds:
            report.speed_up = (seconds + saved) / seconds

    def release(self) -> None:
        """Leave the U-Net as it was found."""
        self._run.remove()
        self._timers[-1].remove()
        self._listen(None)
        self._evaluation = None

    def _listen(self, module: nn.Module | None) -> None:
        """Hear of what the host calls `module` with, before anybody else does; of nothing any more if None."""
        if module is self._heard_at:
            return
        if self._hooks is not None:
            self._hooks.remove()
        self._heard_at = module
        self._hooks = None if module is None else OwnHooks(module)
        if self._hooks is not None:
            self._hooks.add_before(self._say, first=True)

    def _say(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tell the pass for which of its rows a call is."""
        if self._evaluation is not None:
            self._run.say(self._evaluation.keys_of(args, kwargs))

    def _time_calls(self) -> None:
        statistics_ = self._run.statistics
        before = statistics_.calls_reused

        def label() -> str:
            nonlocal before
            reused = statistics_.calls_reused > before
            before = statistics_.calls_reused
            return "reused" if reused else "full"

        self._timers.append(CallTimer(self._run.unet, label))
        self._timers[-1].install()


def _full_steps(schedule: Schedule) -> str:
    """Return the full evaluations of a schedule with a total as text, such as "0-4, 6, 9"."""
    actions = enumerate(schedule.actions() if schedule.total is not None else ())
    runs = itertools.groupby(actions, lambda numbered: numbered[1] is not Action.REUSE)
    full = [[number for number, _ in run] for is_full, run in runs if is_full]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in full)


def _measured(timers: Sequence[Times]) -> tuple[float, float]:
    """Return the seconds of all calls, and how many more those that reused would have taken in full.

    Each is compared with the median of the full calls of its size on its U-Net, the lower one of two; where there are
    fewer than two, which may have been the first of all, nothing counts as saved.
    """
    spent = saved = 0.0
    for calls in timers:
        spent += sum(map(sum, calls.values()))
        for (label, size), reused in calls.items():
            full = calls.get(("full", size), ())
            if label == "reused" and len(full) > 1:
                saved += statistics.median_low(full) * len(reused) - sum(reused)
    return spent, saved
