"""The host's jobs and their passes: which are cached, how, and what came of it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sampling import SamplingPass, Statistics
from deepcache_ext.timer import CallTimer, Times
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.host import Evaluation
from deepcache_ext.webui.options import INFOTEXT_KEYS, Options, given, overridden, resolved
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import CUSTOM, left_alone
from deepcache_ext.webui.tuning.tuned import TunedPlans
from deepcache_ext.webui.tuning.tuned_runs import applied

logger = logging.getLogger("deepcache")

_OVERRIDES = "deepcache_overrides"
"""The attribute of a processing object that holds the `_Cell` that it is, if it is one of an X/Y/Z plot."""
NOT_USED = "DeepCache not used"
"""The infotext key of the reason why a picture was made without caching."""
_OUR_KEYS = {NOT_USED, *INFOTEXT_KEYS}


LEAST_TOLD = 1.05
"""The least speed-up that is told: less is within what a clock is off."""
NO_EVALUATION = "the sampler made no evaluation"


@dataclass
class PassReport:
    """What one pass did."""

    name: str
    """"txt2img", "img2img" or "hires", with "inner " before it if another extension made it."""
    sampler: str
    planned: int | None = None
    """Evaluations that the sampler was expected to make; None if nobody knows."""
    plan: str = ""
    """Which of them were to be full, as the setting `steps` takes it."""
    statistics: Statistics = field(default_factory=Statistics)
    sampling_seconds: float = 0.0
    """Of the sampler's whole run."""
    unet_seconds: float = 0.0
    """Of the U-Net's calls; 0 on a device that does not tell when it has done them."""
    speed_up: float = 1.0
    """Of the sampler's whole run, over one in which each call that reused took as long as a full one of its size.

    1 where it is none or can't be told: on such a device, without two full calls to compare with, and where the sampler
    made more evaluations than planned or decides itself how many it makes, which without the cache may be fewer.
    """
    cost: float = 0.0
    """Of the evaluations made, reckoned in full ones; 0 where nothing was cached."""
    reason: str = ""
    """Why nothing was cached, or why caching ended early."""

    def __str__(self) -> str:
        s = self.statistics
        if not s.full + s.reused:
            return f"{self.name}: not cached ({self.reason})"
        counts = f"{self.name}: {s.full} full and {s.reused} reused evaluations"
        return counts + f" in {self.took}" + (f" ({self.reason})" if self.reason else "")

    @property
    def took(self) -> str:
        """How long sampling took, and how much faster it was where that can be told."""
        faster = f", {self.speed_up:.2f}x as fast" if self.speed_up >= LEAST_TOLD else ""
        return f"{self.sampling_seconds:.1f} s{faster}"


@dataclass
class JobReport:
    """What one job did, its inner jobs included."""

    passes: list[PassReport] = field(default_factory=list)
    reason: str = ""
    """Why nothing of the job was cached."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.passes)) or f"not used: {self.reason or 'nothing was sampled'}"


class _Cell:
    """What the axes of an X/Y/Z plot ask of one cell, by control. Copies of the cell have it too, but are no cell."""

    def __init__(self, p: Any, values: Mapping[str, Any]) -> None:
        self.p = weakref.ref(p)
        self.values = values


def override(p: Any, values: Mapping[str, Any]) -> None:
    """Exchange the values of some controls for the plot's cell `p`."""
    setattr(p, _OVERRIDES, _Cell(p, {**_overrides(p), **values}))


def _overrides(p: Any) -> Mapping[str, Any]:
    cell: _Cell | None = getattr(p, _OVERRIDES, None)
    return cell.values if cell is not None and cell.p() is p else {}


class _Job:
    """A running job: whose it is, what it was sent and asks for by that (None: nothing), and what it did.

    `options` are what it asks for with the plan that was found for its checkpoint, if there is one.
    """

    def __init__(self, p: Any, arguments: Sequence[Any], report: JobReport) -> None:
        self.p = weakref.ref(p)
        self.identity = host.job_id()
        self.arguments = list(arguments)
        self.asked: Options | None = None
        self.options: Options | None = None
        self.report = report


class Controller:
    """Caches the passes of the jobs that ask for it.

    A job begins and ends with the host's `process` and `postprocess`. Its passes are the runs of the host's
    samplers, whoever starts them: also those of a job that another extension makes inside it with a selection of
    scripts that leaves this one out.
    """

    def __init__(self, plans: TunedPlans | None = None) -> None:
        self.last_report: JobReport | None = None
        self.plans = plans
        """Those found for checkpoints, which take the place of the presets' own."""
        self._jobs: list[_Job] = []
        self._running: _RunningPass | None = None

    def install(self) -> None:
        """Take hold of the host's samplers."""
        host.wrap_sampling(self._sample)

    def remove(self) -> None:
        """Let go of the host's samplers, and of a pass that should be running."""
        host.unwrap_sampling()
        self._jobs = []
        if self._running is not None:
            self._running.release()
        self._running = None

    def begin_job(self, p: Any, arguments: Sequence[Any]) -> None:
        """Begin the job of processing object `p` with what the panel or the API sent."""
        overrides = _overrides(p)
        if overrides:
            self._jobs = []  # a cell of a plot, which is in no job; one that failed may have left its own
        self._drop_ended()
        # the cells of a plot share one dictionary
        p.extra_generation_params = {k: v for k, v in p.extra_generation_params.items() if k not in _OUR_KEYS}
        outermost = self._jobs[0] if self._jobs else None
        job = _Job(p, arguments, outermost.report if outermost else JobReport())
        enabled = True
        try:
            if outermost is not None and job.arguments == outermost.arguments:
                job.asked = outermost.asked  # an inner job is sent what the panel has, whatever a cell made of it
            else:
                job.asked = _asked(arguments, overrides)
                enabled = job.asked is not None
            if job.asked is not None:
                job.options = job.asked if self.plans is None else applied(job.asked, p, self.plans)
        except ValueError as error:
            job.report.reason = str(error)
            _explain(p, str(error))
        if job.options is not None:
            p.extra_generation_params.update(job.options.infotext())
        if enabled or self._jobs:
            self._jobs.append(job)

    def end_job(self, p: Any) -> None:
        """End the job of `p`, and report if it was the outermost."""
        job = self._job_of(p)
        if job is None:
            return
        del self._jobs[self._jobs.index(job) :]
        if not self._jobs:
            self.last_report = job.report
            if not job.report.passes:
                print(f"DeepCache {job.report}")

    def start_evaluation(self, params: Any) -> None:
        """Tell the running pass that the host's denoiser begins its next evaluation, with its callback's `params`."""
        if self._running is not None and params.denoiser is self._running.denoiser:
            self._running.start_evaluation(params)

    def _sample(self, original: Callable[..., Any], sampler: Any, steps: int, func: Callable[[], Any]) -> Any:
        running = report = None
        if self._jobs:
            try:
                report, running = self._begin_pass(sampler, steps, host.samplers.arguments_of(func))
            except Exception:  # ours, whatever it is: the picture is made without
                logger.exception("DeepCache could not begin a pass")
        outer, self._running = self._running, running
        start, made = time.perf_counter(), None
        try:
            made = original(sampler, steps, func)
        except BaseException:
            self._abandon(sampler.p)
            raise
        else:
            return made
        finally:
            self._running = outer
            try:
                if running is not None:
                    _wait_for(made)
                    running.end(time.perf_counter() - start)
                if report is not None:
                    print(f"DeepCache {report}")
            except Exception:  # ours, whatever it is: the picture is made already
                logger.exception("DeepCache could not report a pass")

    def _begin_pass(
        self, sampler: Any, steps: int, arguments: Mapping[str, Any]
    ) -> tuple[PassReport | None, _RunningPass | None]:
        """Return the report of a pass, None if it is not in a job of ours, and the pass itself if it is cached."""
        self._drop_ended()
        if not self._jobs or sampler.p is None:
            return None, None
        outermost = self._jobs[0]
        own = self._job_of(sampler.p)
        inner = own is not outermost
        options = (own or outermost).options
        if options is None:
            return None, None
        hires = bool(getattr(sampler.p, "is_hr_pass", False))
        kind = "hires" if hires else "txt2img" if hasattr(sampler.p, "enable_hr") else "img2img"
        settings = options.hires if hires else options.base
        report = PassReport(f"inner {kind}" if inner else kind, sampler.config.name)
        outermost.report.passes.append(report)
        self.last_report = outermost.report  # what a pass did is known when it ends, whatever becomes of its job
        if settings is None or (inner and not (outermost.options or options).inner):
            report.reason = "switched off for this pass"
            return report, None
        img2img = kind != "txt2img"
        report.planned = host.samplers.evaluations(report.sampler, steps, img2img=img2img, arguments=arguments)
        if options.values["preset"] != CUSTOM:
            denoising = 1.0 if kind == "txt2img" else sampler.p.denoising_strength or 1.0
            itself = report.sampler in host.samplers.decide_themselves
            report.reason = left_alone(steps, denoising, report.planned, decides_itself=itself)
            if report.reason:
                return report, None
        try:
            if obstacle := host.obstacle():
                raise ValueError(obstacle)
            of_run = host.samplers.kind(report.sampler, arguments, getattr(sampler, "func", None))
            return report, _RunningPass(sampler, of_run, settings, report)
        except ValueError as error:
            report.reason = str(error)
            _explain(sampler.p, str(error))
            return report, None

    def _abandon(self, p: Any) -> None:
        """Drop the job of `p`, whose sampling raised: the host will not tell its end."""
        job = self._job_of(p)
        if job is not None:
            del self._jobs[self._jobs.index(job) :]

    def _job_of(self, p: Any) -> _Job | None:
        return next((job for job in self._jobs if job.p() is p), None)

    def _drop_ended(self) -> None:
        """Drop the jobs that ended in an exception, after which the host calls no script."""
        identity = host.job_id()
        self._jobs = [job for job in self._jobs if job.identity == identity and job.p() is not None]


class _RunningPass:
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
                _explain(self._p, f"since the checkpoint changed, {error}")
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
            _explain(self._p, report.reason)
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


def _asked(arguments: Sequence[Any], overrides: Mapping[str, Any]) -> Options | None:
    """Return what a job is to do, None for nothing. An axis of a plot switches its cell on."""
    values = given(arguments, overrides.get("enabled", True if overrides else None))
    values = overridden(values, overrides) if overrides else values
    return resolved(values, host.loaded().family) if values.get("enabled", False) else None


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


def _wait_for(made: Any) -> None:
    """Wait until the device has made a sampler's result: every device has to when it is asked for a number of it."""
    if isinstance(made, Tensor) and made.numel():
        made.flatten()[0].item()


def _explain(p: Any, sentence: str) -> None:
    p.comment(f"{NOT_USED}: {sentence}.")
    p.extra_generation_params[NOT_USED] = sentence
