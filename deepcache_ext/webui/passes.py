"""The host's jobs and their passes: which are cached, how, and what came of it."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from deepcache_ext.sentence import of_error
from deepcache_ext.webui.expected_run import ExpectedRuns
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.samplers import scheduler_of
from deepcache_ext.webui.options import INFOTEXT_KEYS, Options, given, overridden, resolved
from deepcache_ext.webui.plot_cells import overrides_of
from deepcache_ext.webui.presets import for_run, left_alone
from deepcache_ext.webui.reports import NOT_USED, JobReport, PassKind, PassReport, explain
from deepcache_ext.webui.running_pass import RunningPass, kind_in_force
from deepcache_ext.webui.tuning.tuned import TunedPlans
from deepcache_ext.webui.tuning.tuned_runs import TunedRun, tuned_run

logger = logging.getLogger("deepcache")

_OUR_KEYS = {NOT_USED, *INFOTEXT_KEYS}


class _Job:
    """A running job: whose it is, what it was sent and asks for by that (None: nothing), and what it did.

    `tuned` is what was found for its first pass on its checkpoint, if anything was.
    """

    def __init__(self, p: Any, arguments: Sequence[Any], report: JobReport) -> None:
        self.p = weakref.ref(p)
        self.identity = host.job_id()
        self.arguments = list(arguments)
        self.asked: Options | None = None
        self.is_sent_the_same = False
        """Whether it is a job inside another one, and was sent what that one was: its passes are others of that one."""
        self.tuned: TunedRun | None = None
        self.report = report
        self.expected = ExpectedRuns()
        self._runs: set[tuple[Any, bool]] = set()

    def has_run(self, *, hires: bool) -> bool:
        """Note a run of a sampler, and tell whether there was one before it of the same batch and pass.

        Then it is a pass of somebody else's, who runs a sampler once more on the job's own processing object.
        """
        batch = getattr(self.p(), "iteration", None)
        run = batch, hires
        again = run in self._runs
        if batch is not None:
            self._runs.add(run)
        return again

    def options_of(self, sampler: Any, report: PassReport) -> Options | None:
        """Return the options of the job's first pass, which `report` is of: the tuned ones are for that very run.

        Where prompts change in mid-run the preset's own plan is in force, which is made anew at the change.
        """
        if self.tuned is None or self.asked is None:
            return self.asked
        is_it = (report.sampler, report.planned) == (self.tuned.key.sampler, self.tuned.key.evaluations)
        is_it = is_it and not host.prompts_change(sampler)
        options = self.tuned.options if is_it else self.asked
        _write(self.p(), options)
        return options


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
        self.was_interrupted = False
        """Whether the user has interrupted or skipped a run of a sampler since somebody has set it to false."""
        self._jobs: list[_Job] = []
        self._running: RunningPass | None = None

    def install(self) -> None:
        """Take hold of the host's samplers and jobs."""
        host.wrap_sampling(self._sample)
        host.tell_ends_of_jobs(self._abandon)

    def remove(self) -> None:
        """Let go of the host's samplers and jobs, and of a pass that should be running."""
        host.unwrap_sampling()
        host.tell_no_ends_of_jobs()
        self._jobs = []
        if self._running is not None:
            self._running.release()
        self._running = None

    def begin_job(self, p: Any, arguments: Sequence[Any]) -> None:
        """Begin the job of processing object `p` with what the panel or the API sent."""
        overrides = overrides_of(p)
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
                job.is_sent_the_same = True
            else:
                job.asked = _asked(arguments, overrides)
                enabled = job.asked is not None
            if job.asked is not None and self.plans is not None and not job.is_sent_the_same:
                job.tuned = tuned_run(job.asked, p, self.plans)
        except ValueError as error:
            job.report.reason = str(error)
            explain(p, str(error))
        if job.asked is not None:
            _write(p, job.asked if job.tuned is None else job.tuned.options)
        if enabled or overrides or self._jobs:
            self._jobs.append(job)  # of a cell that is off as well: then so are the jobs inside it

    def end_job(self, p: Any) -> None:
        """End the job of `p`, and report if it was the outermost."""
        job = self._job_of(p)
        if job is None:
            return
        del self._jobs[self._jobs.index(job) :]
        if not self._jobs and (job.asked is not None or job.report.reason):
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
                report, running = self._begin_pass(sampler, steps, func)
            except Exception as error:  # ours, whatever it is: the picture is made without
                logger.exception("DeepCache could not begin a pass")
                report = self._failed(sampler.p, error)
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
            self.was_interrupted |= host.interrupted()  # the host forgets a skip at the next batch
            try:
                if running is not None:
                    try:
                        _wait_for(made)
                    finally:
                        running.end(time.perf_counter() - start)
                if report is not None:
                    print(f"DeepCache {report}")
            except Exception:  # ours, whatever it is: the picture is made already
                logger.exception("DeepCache could not report a pass")

    def _begin_pass(
        self, sampler: Any, steps: int, func: Callable[[], Any]
    ) -> tuple[PassReport | None, RunningPass | None]:
        """Return the report of a pass, None if it is not in a job of ours, and the pass itself if it is cached."""
        self._drop_ended()
        if not self._jobs or sampler.p is None:
            return None, None
        outermost = self._jobs[0]
        own = self._job_of(sampler.p)
        hires = bool(getattr(sampler.p, "is_hr_pass", False))
        first = own is not None and not own.has_run(hires=hires)
        inner = own is not outermost or not first
        options = (own or outermost).asked
        if options is None:
            return None, None
        kind: PassKind = "hires" if hires else "txt2img" if hasattr(sampler.p, "enable_hr") else "img2img"
        report = PassReport(kind, sampler.config.name, inner=inner)
        outermost.report.passes.append(report)
        self.last_report = outermost.report  # what a pass did is known when it ends, whatever becomes of its job
        is_base = own is not None and first and not hires and not own.is_sent_the_same
        settings = options.hires if hires else options.base if is_base else options.others
        if settings is None or (inner and not (outermost.asked or options).inner):
            report.reason = "switched off for this pass"
            return report, None
        img2img, scheduler = kind != "txt2img", scheduler_of(sampler.p, hires=hires)
        expected = outermost.expected.of(
            sampler, steps, func, img2img=img2img, scheduler=scheduler, asks=settings.reuses
        )
        report.planned = expected.evaluations
        if own is not None and is_base:
            sampler.p.extra_generation_params.pop(NOT_USED, None)  # of the batch before
            options = own.options_of(sampler, report) or options
            settings = options.base
        presets = options.are_presets(settings)
        if presets:
            denoising = sampler.p.denoising_strength or 1.0 if img2img else 1.0
            report.reason = left_alone(steps, denoising, report.planned, decides_itself=expected.decides_itself)
            if report.reason:
                return report, None
        try:
            if obstacle := host.obstacle():
                raise ValueError(obstacle)
            if presets:
                settings = for_run(settings, options.values["preset"], kind_in_force(expected))
            return report, RunningPass(sampler, expected, settings, report)
        except ValueError as error:
            report.reason = str(error)
            explain(sampler.p, str(error))
            return report, None

    def _failed(self, p: Any, error: Exception) -> PassReport | None:
        """Tell of an error of ours in beginning a pass, and return the report of that if it has one already."""
        report = self._jobs[0].report.passes[-1] if self._jobs and self._jobs[0].report.passes else None
        if report is None or report.depth is not None or report.reason:
            return None
        report.reason = f"caching could not begin, {of_error(error)}"
        explain(p, report.reason)
        return report

    def _abandon(self, p: Any) -> None:
        """Drop the job of `p` if it has not ended: one that raised, after which the host calls no script."""
        job = self._job_of(p)
        if job is not None:
            del self._jobs[self._jobs.index(job) :]

    def _job_of(self, p: Any) -> _Job | None:
        return next((job for job in self._jobs if job.p() is p), None)

    def _drop_ended(self) -> None:
        """Drop the jobs that nobody told the end of, and that are gone or another one's of the user."""
        identity = host.job_id()
        self._jobs = [job for job in self._jobs if job.identity == identity and job.p() is not None]


def _asked(arguments: Sequence[Any], overrides: Mapping[str, Any]) -> Options | None:
    """Return what a job is to do, None for nothing. An axis of a plot switches its cell on."""
    values = given(arguments, overrides.get("enabled", True if overrides else None))
    values = overridden(values, overrides) if overrides else values
    return resolved(values, host.loaded().family) if values.get("enabled", False) else None


def _write(p: Any, options: Options) -> None:
    """Have the infotext of the pictures of `p` say `options`, and nothing else of them."""
    for key in INFOTEXT_KEYS:
        p.extra_generation_params.pop(key, None)
    p.extra_generation_params.update(options.infotext())


def _wait_for(made: Any) -> None:
    """Wait until the device has made a sampler's result: every device has to when it is asked for a number of it."""
    if isinstance(made, Tensor) and made.numel():
        made.flatten()[0].item()
