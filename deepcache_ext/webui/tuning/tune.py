"""Finds out, by final pictures, which plans suit the loaded checkpoint, and keeps them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from modules import processing, shared
from PIL import Image

from deepcache_ext.planning.settings import Settings
from deepcache_ext.planning.tuning import Answer, answers, pictures
from deepcache_ext.sentence import of_error
from deepcache_ext.webui.comparing.closeness import psnr
from deepcache_ext.webui.comparing.comparison import listed
from deepcache_ext.webui.comparing.comparison_grid import array
from deepcache_ext.webui.host_jobs import copied, evaluations_by_steps, expect, pictures_of
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.plot_cells import override
from deepcache_ext.webui.presets import CUSTOM, left_alone
from deepcache_ext.webui.tuning.questions import questions
from deepcache_ext.webui.tuning.tuned import Key, Plan, TunedPlans
from deepcache_ext.webui.tuning.tuned_runs import changes_in_mid_run, key_of_job, named

logger = logging.getLogger("deepcache")

TITLE = "DeepCache tuning"


@dataclass
class Tuning:
    """What a tuning found."""

    key: Key
    seeds: list[int] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    """By preset."""
    pictures: int = 0
    """How many were made."""
    full_pictures: float = 0.0
    """As many full ones would have taken as long."""
    seconds: float = 0.0
    note: str = ""
    """Why it ended early, or what could not be kept."""

    def as_json(self) -> dict[str, Any]:
        """Return everything for the API."""
        presets = {name: asdict(plan) | {"worth_it": plan.is_worth_it} for name, plan in self.plans.items()}
        found = {name: getattr(self, name) for name in ("seeds", "pictures", "full_pictures", "seconds", "note")}
        return asdict(self.key) | {"presets": presets, "sentences": self.sentences(), **found}

    def sentences(self) -> list[str]:
        """Return what was found in words."""
        told = []
        for name, plan in self.plans.items():
            gain = plan.psnr - plan.usual
            closer = f"{gain:.1f} dB closer than before" if gain > 0 else "as before"
            told.append(f"{name}: {plan.psnr:.1f} dB, {closer}; {plan.fewer_steps} steps: {plan.fewer:.1f} dB.")
        worse = [name for name, plan in self.plans.items() if not plan.is_worth_it]
        if worse:
            told.append(f"With this sampler fewer steps may be as close as {listed(worse)} on this checkpoint.")
        return told + ([self.note] if self.note else [])


class _Stopped(Exception):  # noqa: N818 - no error
    """The tuning can't go on; what is found is kept."""


class Tuner:
    """Tunes in the host, and remembers the last tuning."""

    def __init__(self, controller: Controller) -> None:
        self.last: Tuning | None = None
        self.tuned_nothing = ""
        """Why the last request found nothing to tune; "" if it did."""
        if controller.plans is None:
            raise ValueError("tuning needs a controller with plans; got one without")
        self.plans: TunedPlans = controller.plans
        self._controller = controller

    def run(self, p: Any) -> Any:
        """Tune for the host's processing object `p`, and return the host's Processed.

        It has the full pictures of the first seed and those of the plans found. Where there is nothing to tune, the
        picture is made and a comment says why. Raises what the host does if the full pictures can't be made.
        """
        self.tuned_nothing = "there is no full picture"
        processing.fix_seed(p)
        search = _Search(p, self._controller)
        began = time.perf_counter()
        full = search.full(0)
        reason = "" if full else "interrupted before there was a full picture"
        key = key_of_job(p) if full else None
        reason = reason or _reason(p, key, search.first)
        self.tuned_nothing = reason
        if key is None or reason:
            search.first.comments = f"DeepCache tuned nothing: {reason}.\n"
            return search.first
        tuning = self.last = Tuning(key)
        try:
            self._search(p, search, key, tuning)
        except _Stopped as stopped:
            tuning.note = f"The tuning ended early: {stopped}. What was found until then is kept."
        tuning.seeds, tuning.pictures, tuning.full_pictures = search.seeds, search.count, round(search.spent, 1)
        tuning.seconds = time.perf_counter() - began
        for sentence in tuning.sentences():
            print(f"DeepCache tuning: {sentence}")
        return search.result(tuning)

    def _search(self, p: Any, search: _Search, key: Key, tuning: Tuning) -> None:
        kind, family = host.samplers.kind(key.sampler), host.loaded().family
        evaluations = evaluations_by_steps(p, key.sampler, key.scheduler, p.steps, kind=key.kind)
        asked = questions(kind, key.evaluations, family, evaluations)
        expect(pictures(asked))
        for name, answer in answers(asked, search.closeness):
            tuning.plans[name] = _plan(answer)
            try:
                self.plans.keep(key, {name: tuning.plans[name]})
            except OSError as error:
                raise _Stopped(f"the plans can't be written to {self.plans.file}: {error.strerror}") from None


class _Search:
    """The pictures of one tuning."""

    def __init__(self, p: Any, controller: Controller) -> None:
        self._controller = controller
        self.first: Any = None
        """The host's Processed with the first full pictures."""
        self.seeds: list[int] = []
        self.count = 0
        """How many pictures were made; a batch counts as one."""
        self.spent = 0.0
        """Time spent, as that of so many full pictures."""
        self._p = p
        self._full: dict[int, list[Image.Image]] = {}
        self._made: dict[Settings | int, tuple[list[Image.Image], list[str]]] = {}
        """The pictures of the first seed and their infotexts."""
        self._full_seconds = 0.0
        self._loaded: Any = None
        expect(1)

    def full(self, seed: int) -> list[Image.Image]:
        """Return the full pictures of a seed."""
        if seed not in self._full:
            pictures, processed, seconds = self._make(seed, self._p.steps, {"enabled": False})
            if seed == 0:
                self.first, self._loaded, self._full_seconds = processed, host.loaded().weights, seconds
            self.seeds += [int(one) for one in processed.all_seeds][: len(pictures)]
            self._full[seed] = pictures
        return self._full[seed]

    def closeness(self, way: Settings | int, seed: int) -> list[float]:
        """Return the PSNR of each picture to the full one; raises _Stopped."""
        full = self.full(seed)
        if isinstance(way, int):
            made = self._make(seed, way, {"enabled": False})
        else:
            of_preset = {"start": 0.0, "end": 1.0, "correction": "on", "hires": "same", "inner": False}
            made = self._make(seed, self._p.steps, {"enabled": True, "preset": CUSTOM} | of_preset | named(way))
        pictures, processed, _ = made
        if len(pictures) < len(full) or not full:
            raise _Stopped("it was interrupted")
        if isinstance(way, Settings) and (reason := self._why_uncached()):
            raise _Stopped(reason)
        if host.loaded().weights != self._loaded:
            raise _Stopped("the checkpoint was changed")
        if seed == 0:
            self._made[way] = pictures, list(processed.infotexts)
        return [psnr(array(one), array(other)) for one, other in zip(pictures, full, strict=True)]

    def _why_uncached(self) -> str:
        """Return why nothing was reused in the pictures made last, or ""."""
        report = self._controller.last_report
        if report is None or any(one.statistics.reused for one in report.passes):
            return ""
        reasons = [one.reason for one in report.passes] + [report.reason]
        return next(filter(None, reasons), "nothing was reused")

    def result(self, tuning: Tuning) -> Any:
        """Return the host's Processed: the full pictures of the first seed, and those of the plans found."""
        result = self.first
        for plan in tuning.plans.values():
            pictures, infotexts = self._made.get(plan.settings, ([], []))
            result.images += pictures
            result.infotexts += infotexts[: len(pictures)]
            for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
                values = getattr(result, name)
                setattr(result, name, [*values, *values[: len(pictures)]])
        result.comments = "".join(f"{sentence}\n" for sentence in tuning.sentences())
        return result

    def _make(self, seed: int, steps: int, overrides: Mapping[str, Any]) -> tuple[list[Image.Image], Any, float]:
        """Return the pictures, the host's Processed and the seconds; no pictures if it was interrupted."""
        p = self._p
        job = copied(p)
        job.do_not_save_samples = True
        job.steps, job.n_iter, job.seed = steps, 1, p.seed + seed * p.batch_size
        if hasattr(job, "enable_hr"):
            job.enable_hr = False
        override(job, overrides)
        shared.state.job = f"tuning, {shared.state.job_no + 1} out of {shared.state.job_count}"
        began = time.perf_counter()
        try:
            processed = processing.process_images(job)
        except Exception as error:
            if not self._full:
                raise
            logger.exception("%s could not make a picture", TITLE)
            raise _Stopped(of_error(error)) from None
        seconds = time.perf_counter() - began
        self.count += 1
        self.spent += seconds / self._full_seconds if self._full_seconds else 1.0
        return pictures_of(processed, job), processed, seconds


def _plan(answer: Answer) -> Plan:
    of = answer.settings
    return Plan(of.steps, of.depth, of.forecast, answer.psnr, answer.usual, answer.fewer_steps, answer.fewer)


def _reason(p: Any, key: Key | None, made: Any) -> str:
    """Return why there is nothing to tune, or ""; `made` is the host's Processed with the first full pictures."""
    if key is None:
        return "this sampler does not tell how many evaluations it will make"
    if obstacle := host.obstacle():
        return obstacle
    if getattr(made, "sd_model_hash", None) not in {None, key.checkpoint}:
        return "a refiner or the request switches to another checkpoint; load the one to tune and turn the refiner off"
    if changes_in_mid_run(made):
        return "the prompt changes in mid-run, where plans are made anew"
    if host.loaded().unet is None:
        return "the checkpoint has no U-Net"
    denoising = 1.0 if key.kind == "txt2img" else p.denoising_strength or 1.0
    steps = p.steps if key.kind == "txt2img" else host.samplers.img2img_steps(p.steps, denoising)
    itself = host.samplers.decides_itself(key.sampler)
    return left_alone(steps, denoising, key.evaluations, decides_itself=itself)
