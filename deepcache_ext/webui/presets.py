"""Settings for people who have not read the paper, by the family of the loaded checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sentence import counted
from deepcache_ext.webui.family import Family

FEW_STEPS = 10
"""With fewer steps from noise to picture neighbouring evaluations are too far apart for caching to pay."""
FEW_EVALUATIONS = 6
"""With fewer evaluations in a pass some samplers come closer by fewer steps; see docs/short-passes.csv."""

CUSTOM = "Custom"
"""The preset that leaves every setting as it is."""
BALANCED = "Balanced"

_DEPTHS: dict[Family, int] = {"SD1": 0, "SD2": 0, "SDXL": 1}
"""A full evaluation more is worth more than what the outermost blocks add, which cost SDXL next to nothing."""
_SPEED_UPS = {"Quality": 1.5, BALANCED: 2.0, "Fast": 3.0}

PRESETS: dict[str, Mapping[Family, Mapping[str, Any]]] = {
    name: {family: {"schedule": "auto", "speed_up": speed_up, "depth": depth} for family, depth in _DEPTHS.items()}
    for name, speed_up in _SPEED_UPS.items()
}
"""The settings that a preset gives, by its name and the family."""

NAMES = (*PRESETS, CUSTOM)

NO_CLOSER: Mapping[str, frozenset[str]] = {
    "DPM++ 2M": frozenset({BALANCED, "Fast"}),
    "DPM++ 2M SDE": frozenset({"Quality", BALANCED, "Fast"}),
    "DPM++ 3M SDE": frozenset({"Quality"}),
    "LMS": frozenset({"Quality", BALANCED}),
    "UniPC": frozenset({"Fast"}),
}
"""The presets, by sampler, that are not sure to be closer than as many steps as cost the same; see docs/presets.csv."""


def for_run(settings: Settings, preset: str, kind: SamplerKind) -> Settings:
    """Return a preset's settings for a run of this kind: at depth 0 if that has its reuses put right.

    What they are off by then is less than what the outermost blocks would mend.
    """
    at_once = replace(settings, depth=0)
    return at_once if preset in PRESETS and kind.corrects(at_once) else settings


def left_alone(steps: int, denoising: float, evaluations: int | None, *, decides_itself: bool) -> str:
    """Return why presets leave a pass alone, or "".

    `evaluations` are those that it makes, None if nobody knows; `steps` make up the last `denoising` of the way from
    noise; `decides_itself` tells that the sampler evaluates as often as what it gets makes it, which is more often
    where something is reused.
    """
    if decides_itself:
        return (
            f"this sampler decides itself how often it evaluates, and caching makes it more often; only {CUSTOM} caches"
        )
    whole = round(steps / max(denoising, 0.001))
    if whole < FEW_STEPS:
        made = counted(whole, "step")
        return f"with {made} from noise to picture there is little to gain, only {CUSTOM} caches below {FEW_STEPS}"
    if evaluations is not None and evaluations < FEW_EVALUATIONS:
        made = counted(evaluations, "evaluation")
        return f"with {made} in this pass there is little to gain, only {CUSTOM} caches below {FEW_EVALUATIONS}"
    return ""
