"""Which runs have a plan that was found for their checkpoint, and the options that follow from it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from deepcache_ext.planning.settings import Settings
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.samplers import AUTOMATIC, scheduler_of
from deepcache_ext.webui.options import Options
from deepcache_ext.webui.presets import PRESETS
from deepcache_ext.webui.tuning.tuned import Key, Plan, TunedPlans

_SCHEDULED = re.compile(r"\[[^\[\]]*[:|]")
_MATTER = ("schedule", "speed_up", "depth", "start", "end", "forecast", "correction")
"""The settings that a preset's plan depends on."""


def key_of(sampler: str, scheduler: str | None, steps: int, *, img2img: bool) -> Key | None:
    """Return what plans for a run on the loaded checkpoint are kept under; None if its evaluations aren't told.

    `steps` are those that the sampler is launched with.
    """
    checkpoint = host.checkpoint()
    if not checkpoint or not host.samplers.tells(sampler):
        return None
    scheduler = scheduler or AUTOMATIC
    evaluations = host.samplers.evaluations(sampler, steps, img2img=img2img, scheduler=scheduler)
    if evaluations is None:
        return None
    return Key(checkpoint, sampler, scheduler, "img2img" if img2img else "txt2img", evaluations)


def changes_in_mid_run(processed: Any) -> bool:
    """Tell whether a prompt of pictures that were made has a schedule, such as `[a:b:9]` or `[a|b]`."""
    return any(_SCHEDULED.search(one) for one in (*processed.all_prompts, *processed.all_negative_prompts))


@dataclass(frozen=True)
class TunedRun:
    """The run of a job's first pass that a plan was found for, and the job's options with that plan."""

    key: Key
    options: Options


def tuned_run(options: Options, p: Any, plans: TunedPlans) -> TunedRun | None:
    """Return what was found for the first pass of a job of the host's `p`; None if nothing was.

    A file of plans that can't be read is told in a comment on the job.
    """
    if not plans.all():
        if plans.problem:
            p.comment(f"DeepCache: {plans.problem}.")
        return None
    key = key_of_job(p)
    plan = plan_for(options, key, plans, host.loaded().family)
    return None if plan is None or key is None else TunedRun(key, with_plan(options, plan))


def key_of_job(p: Any) -> Key | None:
    """Return what plans for the first pass of the host's processing object `p` are kept under."""
    img2img = not hasattr(p, "enable_hr")
    steps = host.samplers.img2img_steps(p.steps, p.denoising_strength) if img2img else p.steps
    return key_of(str(p.sampler_name), scheduler_of(p, hires=False), steps, img2img=img2img)


def plan_for(options: Options, key: Key | None, plans: TunedPlans, family: Family) -> Plan | None:
    """Return the plan for a job, if one was found for its preset and no other setting changes what it is about."""
    preset = options.values["preset"]
    if key is None or preset not in PRESETS:
        return None
    usual_settings = Settings(**PRESETS[preset][family])
    if any(getattr(options.base, name) != getattr(usual_settings, name) for name in _MATTER):
        return None
    return plans.of(key).get(preset)


def with_plan(options: Options, plan: Plan) -> Options:
    """Return the options that name the plan's evaluations, so that a picture's infotext repeats it anywhere.

    All other passes go on as the preset has them.
    """
    values = {**options.values, **named(plan.settings)}
    base = dataclasses.replace(options.base, **named(plan.settings))
    return dataclasses.replace(options, base=base, values=values)


def named(settings: Settings) -> dict[str, Any]:
    """Return what of settings that name their full evaluations makes their plan, by control."""
    return {name: getattr(settings, name) for name in ("schedule", "steps", "depth", "forecast")}
