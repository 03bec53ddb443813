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

from torch import nn

from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sampling import SamplingPass, Statistics
from deepcache_ext.timer import CallTimer
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.host import Evaluation
from deepcache_ext.webui.options import INFOTEXT_KEYS, Options, given, overridden, resolved
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import CUSTOM, left_alone
from deepcache_ext.webui.tuned import TunedPlans
from deepcache_ext.webui.tuned_runs import applied

logger = logging.getLogger("deepcache")

OVERRIDES = "deepcache_overrides"
"""The attribute of a processing object that holds values of an X/Y/Z plot, by control."""
NOT_USED = "DeepCache not used"
"""The infotext key of the reason why a picture was made without caching."""
_OUR_KEYS = {NOT_USED, *INFOTEXT_KEYS}


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
    speed_up: float = 1.0
    """Of the U-Net calls, over the same number of full ones as this pass made them; 1 where it can't be told.

    That is where the sampler decides itself how often it evaluates: without the cache it may have been less often.
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
        took = f", U-Net {self.unet_seconds:.1f} s" if s.reused else ""
        took += f", {self.speed_up:.2f}x" if s.reused and self.speed_up > 1 else ""
        return counts + took + (f" ({self.reason})" if self.reason else "")


@dataclass
class JobReport:
    """What one job did, its inner jobs included."""

    passes: list[PassReport] = field(default_factory=list)
    reason: str = ""
    """Why nothing of the job was cached."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.passes)) or f"not used: {self.reason or 'nothing was sampled'}"


class _Job:
    """A running job: whose it is, what it wants (None: nothing) and what it did."""

    def __init__(self, p: Any, report: JobReport) -> None:
        self.p = weakref.ref(p)
        self.identity = host.job_id()
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
        overrides: Mapping[str, Any] = getattr(p, OVERRIDES, {})
        if overrides:
            self._jobs = []  # a cell of a plot, which is in no job; one that failed may have left its own
        self._drop_ended()
        # the cells of a plot share one dictionary
        p.extra_generation_params = {k: v for k, v in p.extra_generation_params.items() if k not in _OUR_KEYS}
        job = _Job(p, self._jobs[0].report if self._jobs else JobReport())
        try:
            values = given(arguments, overrides.get("enabled"))
            values = overridden(values, overrides) if overrides else values
            enabled = values.get("enabled", False)
            if enabled:
                options = resolved(values, host.loaded().family)
                job.options = options if self.plans is None else applied(options, p, self.plans)
        except ValueError as error:
            enabled = True
            job.options = None
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
            print(f"DeepCache {job.report}")

    def start_evaluation(self, params: Any) -> None:
        """Tell the running pass that the host's denoiser begins its next evaluation, with its callback's `params`."""
        if self._running is not None and params.denoiser is self._running.denoiser:
            self._running.start_evaluation(params)

    def _sample(self, original: Callable[..., Any], sampler: Any, steps: int, func: Callable[[], Any]) -> Any:
        running = None
        if self._jobs:
            try:
                running = self._begin_pass(sampler, steps, host.samplers.arguments_of(func))
            except Exception:  # ours, whatever it is: the picture is made without
                logger.exception("DeepCache could not begin a pass")
        outer, self._running = self._running, running
        start = time.perf_counter()
        try:
            return original(sampler, steps, func)
        except BaseException:
            self._abandon(sampler.p)
            raise
        finally:
            self._running = outer
            if running is not None:
                try:
                    running.end(time.perf_counter() - start)
                except Exception:  # ours, whatever it is: the picture is made already
                    logger.exception("DeepCache could not report a pass")

    def _begin_pass(self, sampler: Any, steps: int, arguments: Mapping[str, Any]) -> _RunningPass | None:
        self._drop_ended()
        if not self._jobs or sampler.p is None:
            return None
        outermost = self._jobs[0]
        own = self._job_of(sampler.p)
        inner = own is not outermost
        options = (own or outermost).options
        if options is None:
            return None
        hires = bool(getattr(sampler.p, "is_hr_pass", False))
        kind = "hires" if hires else "txt2img" if hasattr(sampler.p, "enable_hr") else "img2img"
        settings = options.hires if hires else options.base
        report = PassReport(f"inner {kind}" if inner else kind, sampler.config.name)
        outermost.report.passes.append(report)
        if settings is None or (inner and not (outermost.options or options).inner):
            report.reason = "switched off for this pass"
            return None
        if options.values["preset"] != CUSTOM:
            denoising = 1.0 if kind == "txt2img" else sampler.p.denoising_strength or 1.0
            itself = report.sampler in host.samplers.decide_themselves
            report.reason = left_alone(steps, denoising, decides_itself=itself)
            if report.reason:
                return None
        try:
            if obstacle := host.obstacle():
                raise ValueError(obstacle)
            img2img = kind != "txt2img"
            report.planned = host.samplers.evaluations(report.sampler, steps, img2img=img2img, arguments=arguments)
            of_run = host.samplers.kind(report.sampler, arguments, getattr(sampler, "func", None))
            return _RunningPass(sampler, of_run, settings, report)
        except ValueError as error:
            report.reason = str(error)
            _explain(sampler.p, str(error))
            return None

    def _abandon(self, p: Any) -> None:
        """Drop the job of `p`, whose sampling raised: the host will not tell its end."""
        job = self._job_of(p)
        if job is not None:
            del self._jobs[self._jobs.index(job) :]
            if not self._jobs:
                self.last_report = job.report

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
                _explain(self._p, f"from the change of the checkpoint on, {error}")
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
        report.unet_seconds, speed_up = _measured([timer.seconds() for timer in self._timers])
        report.speed_up = 1.0 if report.planned is None else speed_up

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


def _measured(timers: Sequence[Mapping[str, Sequence[float]]]) -> tuple[float, float]:
    """Return the seconds of all calls, and the speed-up over the same number of median full ones."""
    spent = without = 0.0
    for calls in timers:
        full, reused = calls.get("full", ()), calls.get("reused", ())
        spent += sum(full) + sum(reused)
        without += sum(full) + (statistics.median(full) * len(reused) if full else sum(reused))
    return spent, without / spent if spent else 1.0


def _explain(p: Any, sentence: str) -> None:
    p.comment(f"{NOT_USED}: {sentence}.")
    p.extra_generation_params[NOT_USED] = sentence
