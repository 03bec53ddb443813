"""Makes full pictures, those of the presets and those of as many steps as cost the same, and compares them."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from modules import images, processing, shared
from PIL import Image

from deepcache_ext import __version__
from deepcache_ext.planning.alternatives import nearest
from deepcache_ext.planning.settings import accepted
from deepcache_ext.sentence import brief, of_error
from deepcache_ext.webui.comparing.closeness import psnr, ssim
from deepcache_ext.webui.comparing.comparison import OFF, Choice, Comparison, Row
from deepcache_ext.webui.comparing.comparison_grid import array, difference_of, grid
from deepcache_ext.webui.comparing.stopwatch import Stopwatch
from deepcache_ext.webui.host_jobs import copied, evaluations_by_steps, expect, pictures_of
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.samplers import scheduler_of
from deepcache_ext.webui.options import Flag
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.plot_cells import override
from deepcache_ext.webui.presets import BALANCED, PRESETS
from deepcache_ext.webui.reports import PassReport

logger = logging.getLogger("deepcache")

TITLE = "DeepCache comparison"
OWN = "Panel's settings"
"""The choice of what the panel, or the request, sets."""
CHOICES: Mapping[str, str | None] = {**{name: name for name in PRESETS}, OWN: None}
"""What can be compared: its label, and the preset, or None for the panel's settings."""
UNCORRECTED = "correction off"
"""How the row of a choice is marked that is made without the correction of reuses."""

_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Wish:
    """What to compare. `read` it from what the page or the API sent."""

    choices: tuple[str, ...] = tuple(PRESETS)
    fewer_steps: bool = True
    differences: bool = False
    note: str = ""
    """What of it could not be used."""

    @property
    def with_and_without(self) -> str:
        """The choice that is made without the correction too, if its run has one: one is enough to see its worth."""
        return BALANCED if BALANCED in self.choices else self.choices[0]

    @classmethod
    def read(cls, arguments: Sequence[Any]) -> Wish:
        """Return the wish in positional values, or in one object with names first; what is unknown is left out."""
        names = ("choices", "fewer_steps", "differences")
        first = arguments[0] if arguments else None
        given = dict(first) if isinstance(first, Mapping) else dict(zip(names, arguments, strict=False))
        wanted = given.get("choices", cls.choices)
        wanted = [wanted] if isinstance(wanted, str) else list(wanted or ())
        unknown = [brief(str(name)) for name in (*given, *wanted) if name not in names and name not in CHOICES]
        notes = [f"{', '.join(unknown)}: unknown; choices are {', '.join(CHOICES)}"] if unknown else []
        choices = tuple(name for name in CHOICES if name in wanted) or cls.choices
        flags = {name: _flag(name, given.get(name, getattr(cls, name)), notes) for name in names[1:]}
        return cls(choices, **flags, note="; ".join(notes))


def _flag(name: str, value: Any, notes: list[str]) -> bool:
    """Return a value that is true or false; of another one add to `notes` what it may be."""
    try:
        return bool(accepted(name, Flag(), value))
    except ValueError as error:
        notes.append(str(error))
        return bool(getattr(Wish, name))


class _Ended(Exception):  # noqa: N818 - no error
    """The comparison can't go on; what is done is kept."""


class Comparer:
    """Makes comparisons in the host and remembers the last one."""

    def __init__(self, controller: Controller) -> None:
        self.last: Comparison | None = None
        self.stopwatch = Stopwatch()
        self._controller = controller
        self._last_report: Any = None

    @property
    def of_last_run(self) -> Comparison | None:
        """The last comparison, unless another job with DeepCache came after it."""
        return self.last if self._controller.last_report is self._last_report else None

    def run(self, p: Any, arguments: Sequence[Any]) -> Any:
        """Make a comparison with the settings of the host's processing object `p`, and return the host's Processed.

        Where reuses of a run are corrected, one choice is made without that too.
        Raises what the host does if the full picture can't be made. An error or an interruption after that ends the
        comparison, and what is done is kept.
        """
        wish = Wish.read(arguments)
        processing.fix_seed(p)
        each = _runs(p)  # and those of one picture more, to warm up
        expect((1 + len(wish.choices) * (1 + wish.fewer_steps)) * each + each // int(p.n_iter))
        self._warm_up(p)
        full = Row("full", p.steps, (p.hr_second_pass_steps or p.steps) if getattr(p, "enable_hr", False) else 0, OFF)
        job, _ = self._make(p, full)
        comparison = Comparison(
            checkpoint=str(job.sd_model_name),
            sampler=str(p.sampler_name),
            scheduler=scheduler_of(p, hires=False),
            width=int(p.width),
            height=int(p.height),
            seeds=[int(seed) for seed in job.all_seeds],
            full=full,
            made_with=_made_with(),
            note=wish.note,
        )
        try:
            if not full.pictures:
                raise _Ended(full.reason or "interrupted before the full picture was finished")
            _compare(full, full)
            self._make_choices(p, wish, comparison, _checkpoints(job))
        except _Ended as ended:
            comparison.tell(str(ended))
        result = _result(job, comparison, wish)
        for row in (full, *comparison.rows()):
            row.pictures, row.infotexts = [], []
        self.last, self._last_report = comparison, self._controller.last_report
        for sentence in filter(None, (comparison.advice, comparison.note)):
            print(f"DeepCache comparison: {sentence}")
        return result

    def _make_choices(self, p: Any, wish: Wish, comparison: Comparison, checkpoints: Any) -> None:
        full = comparison.full
        with_steps = {(full.steps, full.hires_steps): full}
        for label in wish.choices:
            preset = CHOICES[label]
            settings = {"enabled": True} | ({} if preset is None else {"preset": preset})
            row = Row(label, full.steps, full.hires_steps, dict(settings))
            passes = self._make_compared(p, row, full, checkpoints)
            choice = Choice(row)
            comparison.choices.append(choice)
            if wish.fewer_steps:
                steps = _as_many_steps(p, full, passes)
                if steps is None or steps in with_steps:
                    shared.state.job_count -= _runs(p)
                if steps is not None:
                    fewer = replace(
                        with_steps.get(steps, full), label=_steps(*steps), steps=steps[0], hires_steps=steps[1]
                    )
                    if steps not in with_steps:
                        self._make_compared(p, fewer, full, checkpoints)
                        with_steps[steps] = fewer
                    choice.fewer = fewer
            if not any(done.statistics.corrected for done in passes):
                continue
            row.settings["correction"] = "on"
            if label == wish.with_and_without:
                shared.state.job_count += _runs(p)
                without = Row(f"{label}, {UNCORRECTED}", row.steps, row.hires_steps, settings | {"correction": "off"})
                self._make_compared(p, without, full, checkpoints)
                comparison.choices.append(Choice(without))

    def _make_compared(self, p: Any, row: Row, full: Row, checkpoints: Any) -> list[PassReport]:
        """Make a row's pictures and compare them with the full ones, which `checkpoints` made; return the reports.

        Raises _Ended if there are none, or none to be compared.
        """
        job, passes = self._make(p, row)
        if not row.pictures:
            raise _Ended(f"ended before {row.label} was finished" + (f": {row.reason}" if row.reason else ""))
        if _checkpoints(job) != checkpoints:
            raise _Ended("the checkpoint was changed in mid-run; what was made after that is left out")
        _compare(row, full)
        return passes

    def _make(self, p: Any, row: Row) -> tuple[Any, list[PassReport]]:
        """Have the host make a row's pictures; none if it was interrupted or failed.

        Returns the host's processing object, and what DeepCache's passes did. Raises the error of the full pictures.
        """
        job = copied(p)
        job.steps = row.steps
        if row.hires_steps:
            job.hr_second_pass_steps = row.hires_steps
        override(job, row.settings)
        each = _runs(p)
        shared.state.job = f"{row.label}, {shared.state.job_no // each + 1} out of {shared.state.job_count // each}"
        before, began = self._controller.last_report, time.perf_counter()
        row.pictures, row.infotexts = [], []
        self._controller.was_interrupted = False
        self.stopwatch.start()
        try:
            processed = processing.process_images(job)
        except Exception as error:
            if row.label == "full":
                raise
            logger.exception("%s could not make %s", TITLE, row.label)
            row.reason = of_error(error)
            return job, []
        finally:
            row.unet_seconds = self.stopwatch.stop()
        row.seconds = time.perf_counter() - began
        row.pictures = [] if self._controller.was_interrupted else pictures_of(processed, job)
        row.infotexts = list(processed.infotexts)[: len(row.pictures)]
        report = self._controller.last_report
        if report is None or report is before or not row.settings["enabled"]:
            return job, []
        if not any(done.statistics.reused for done in report.passes):
            row.reason = report.reason or next((done.reason for done in report.passes if done.reason), "")
        return job, report.passes

    def _warm_up(self, p: Any) -> None:
        """Make a picture in very few steps, so that the first one compared does not pay for what is made once."""
        job = copied(p)
        job.n_iter, job.steps, job.do_not_save_samples = 1, min(p.steps, _WARM_UP_STEPS), True
        if getattr(p, "enable_hr", False):
            job.hr_second_pass_steps, job.hr_sampler_name = job.steps, None  # which may need more steps
        job.sampler_name = "Euler"
        override(job, {"enabled": False})
        shared.state.job = "warming up"
        processing.process_images(job)


def _made_with() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    host_version = str(processing.program_version())
    return {"host": host_version, "device": device, "torch": torch.__version__, "version": __version__}


def _checkpoints(job: Any) -> tuple[str, Any]:
    """Return what tells the checkpoints that a job has begun and ended with, which a refiner makes two.

    Their modules don't: a host that changes checkpoints within a job loads each of them anew.
    """
    return str(job.sd_model_name), host.loaded().weights


def _runs(p: Any) -> int:
    """Return how many sampler runs a job has."""
    return int(p.n_iter) * (2 if getattr(p, "enable_hr", False) else 1)


def _compare(row: Row, full: Row) -> None:
    """Write into a row how close its pictures are to the full ones, and how much faster they came."""
    pairs = [(array(one), array(other)) for one, other in zip(row.pictures, full.pictures, strict=True)]
    row.psnr = [psnr(*pair) for pair in pairs]
    row.ssim = [ssim(*pair) for pair in pairs]
    row.speed_up = full.unet_seconds / row.unet_seconds if row.unet_seconds else 1.0


def _as_many_steps(p: Any, full: Row, passes: Sequence[PassReport]) -> tuple[int, int] | None:
    """Return the steps of each pass that cost as much as the cached passes did; None where nobody knows.

    A pass that was not cached keeps its steps.
    """
    base = [done for done in passes if done.kind != "hires" and not done.inner and done.cost]
    hires = [done for done in passes if done.kind == "hires" and not done.inner and done.cost]
    if not base and not hires:
        return None
    found = (_cheapest(p, full.steps, base), _cheapest(p, full.hires_steps, hires))
    return None if None in found else (int(found[0] or 0), int(found[1] or 0))


def _cheapest(p: Any, steps: int, passes: Sequence[PassReport]) -> int | None:
    """Return how many of `steps` come nearest to the mean cost of passes; None if it can't be told."""
    if not passes:
        return steps
    kind, sampler = passes[0].kind, passes[0].sampler
    scheduler = scheduler_of(p, hires=kind == "hires")
    evaluations = evaluations_by_steps(p, sampler, scheduler, steps, kind=kind)
    return nearest(evaluations, sum(done.cost for done in passes) / len(passes)) if evaluations else None


def _steps(steps: int, hires_steps: int) -> str:
    return f"{steps} steps" if not hires_steps else f"{steps} + {hires_steps} steps"


def _result(job: Any, comparison: Comparison, wish: Wish) -> Any:
    """Return the host's Processed: the grid, the pictures of every row, and the differences if they are wished."""
    job.extra_generation_params = {**job.extra_generation_params, "Script": TITLE, TITLE: str(comparison)}
    info = processing.create_infotext(job, job.all_prompts, job.all_seeds, job.all_subseeds)
    full, rows = comparison.full, {id(row.pictures): row for row in (comparison.full, *comparison.rows())}.values()
    shown = [(picture, *more) for row in rows for picture, *more in _numbered(row)]
    if wish.differences:
        shown += [
            (difference_of(picture, full.pictures[number]), text, number)
            for row in rows
            if row is not full
            for picture, text, number in _numbered(row)
        ]
    pictures, texts, numbers = [list(column) for column in zip(*shown, strict=True)] if shown else ([], [], [])
    whole = grid(comparison, differences=wish.differences)
    result = processing.Processed(
        job,
        pictures if whole is None else [whole, *pictures],
        seed=job.all_seeds[0],
        info=info,
        subseed=job.all_subseeds[0],
        all_prompts=[job.all_prompts[number] for number in numbers],
        all_negative_prompts=[job.all_negative_prompts[number] for number in numbers],
        all_seeds=[job.all_seeds[number] for number in numbers],
        all_subseeds=[job.all_subseeds[number] for number in numbers],
        index_of_first_image=0 if whole is None else 1,
        infotexts=texts if whole is None else [info, *texts],
    )
    result.comments += "".join(f"{line}\n" for line in (comparison.advice, comparison.note) if line)
    if whole is not None:
        whole.info["parameters"] = info
        if shared.opts.grid_save and not job.do_not_save_samples:
            images.save_image(
                whole, job.outpath_grids, "deepcache_comparison", extension=shared.opts.grid_format, info=info,
                prompt=job.all_prompts[0], seed=job.all_seeds[0], grid=True, p=result,
            )  # fmt: skip
    return result


def _numbered(row: Row) -> Iterator[tuple[Image.Image, str, int]]:
    """Yield each picture of a row with its infotext and its number in the job."""
    return zip(row.pictures, row.infotexts, range(len(row.pictures)), strict=True)
