"""One pass on the host's U-Net, from its first evaluation to its report."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sampling import SamplingPass
from deepcache_ext.settling import is_told
from deepcache_ext.timer import CallTimer, Times
from deepcache_ext.webui.expected_run import ExpectedRun
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.host import Evaluation
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.reports import NO_EVALUATION, PassReport, explain, left_uncorrected, more_in_full


class RunningPass:
    """One pass on the host's U-Net, which may be exchanged in mid-run."""

    def __init__(self, sampler: Any, expected: ExpectedRun, settings: Settings, report: PassReport) -> None:
        self.denoiser = sampler.model_wrap_cfg
        self._p = sampler.p
        self._report = report
        self._loaded = host.loaded()
        if report.planned is None:
            settings = dataclasses.replace(settings, depth=max(1, settings.depth))
        levels, kind = host.noise_levels(), kind_in_force(expected)
        self._reuse = reuse_cost(kind.depth(settings), self._loaded.family)
        self._run = SamplingPass(
            self._loaded.unet,
            settings,
            report.planned,
            sampler=kind,
            run=expected.asked,
            levels=levels,
            reuse=self._reuse,
            view="full-length" if host.counts_blocks else "auto",
            control_models=lambda: host.control_models(self._p),
            controls_ahead=host.controls_ahead,
            is_hosts=host.is_own,
        ).install()
        report.depth = self._run.depth
        report.plan = _as_steps(_planned_in_full(self._run.schedule))
        self._begun = self._full_before = 0
        self._in_full: list[int] = []
        self._timers: list[CallTimer] = []
        self._time_calls()
        self._evaluation: Evaluation | None = None
        self._heard_at: nn.Module | None = None
        self._hooks: OwnHooks | None = None
        self._sigma: Tensor | None = None
        self._denoiser_hooks = OwnHooks(self.denoiser) if isinstance(self.denoiser, nn.Module) else None
        if self._denoiser_hooks is not None:
            self._denoiser_hooks.add_before(self._hear, first=True)

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
        self._note_full()
        self._begun += 1
        self._evaluation = begun = host.evaluation(params, self._sigma)
        self._listen(begun.heard_at)
        self._run.start_evaluation(
            keys=begun.keys,
            batch=begun.batch,
            exact=begun.exact,
            partial=begun.partial,
            noise=params.sigma if self._sigma is None else self._sigma,
            in_force=lambda: host.in_force(self._p, params.sigma),
        )

    def end(self, seconds: float) -> None:
        """Leave the U-Net as it was found, and report; the sampler's run took `seconds`."""
        self.release()
        self._note_full()
        report, run = self._report, self._run
        report.in_full = _as_steps(self._in_full)
        report.plan = report.plan if run.statistics.reused else ""
        report.statistics = run.statistics
        report.sampling_seconds = seconds
        report.cost = run.statistics.full + run.statistics.reused * self._reuse
        report.reason = report.reason or run.schedule.shortfall
        if run.statistics.reason:
            report.reason = run.statistics.reason
            explain(self._p, report.reason)
        made = run.statistics.full + run.statistics.reused
        report.reason = report.reason or ("" if made else NO_EVALUATION)
        if made == report.planned:
            more = run.statistics.full - len(_planned_in_full(run.schedule))
            report.reason = report.reason or more_in_full(more, run.statistics)
        report.reason = report.reason or left_uncorrected(run.statistics)
        report.unet_seconds, saved = _measured([timer.seconds() for timer in self._timers])
        if report.planned is not None and made <= report.planned and saved > 0 < seconds:
            report.speed_up = (seconds + saved) / seconds

    def release(self) -> None:
        """Leave the U-Net as it was found."""
        self._run.remove()
        self._timers[-1].remove()
        self._listen(None)
        self._evaluation = self._sigma = None
        if self._denoiser_hooks is not None:
            self._denoiser_hooks.remove()

    def _note_full(self) -> None:
        """Note the evaluation that has just ended if it was made in full, as all are once the pass has stopped."""
        done = self._run.statistics
        done.full += bool(done.error) and self._begun > done.full + done.reused
        if self._run.statistics.full > self._full_before:
            self._in_full.append(self._begun - 1)
        self._full_before = self._run.statistics.full

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

    def _hear(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hear at what noise levels the denoiser is called, before anybody can change them."""
        self._sigma = args[1] if len(args) > 1 else kwargs.get("sigma")

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


def kind_in_force(expected: ExpectedRun) -> SamplerKind:
    """Return the kind of a run on the checkpoint that is loaded, whose outputs have to be known to be put right."""
    levels = host.noise_levels()
    told = expected.asked is not None and levels is not None and is_told(expected.asked, levels)
    return dataclasses.replace(expected.kind, pays_back=expected.kind.pays_back and told)


def _planned_in_full(schedule: Schedule) -> list[int]:
    """Return the full evaluations of a schedule; none of one without a total."""
    actions = enumerate(schedule.actions() if schedule.total is not None else ())
    return [number for number, action in actions if action is not Action.REUSE]


def _as_steps(numbers: Sequence[int]) -> str:
    """Return evaluations in ascending order as text, such as "0-4, 6, 9"."""
    runs = itertools.groupby(enumerate(numbers), lambda placed: placed[1] - placed[0])
    full = [[number for _, number in run] for _, run in runs]
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
