"""What a tuning asks: for each preset its own plan, and which others to try at its speed."""

from __future__ import annotations

from collections.abc import Mapping

from deepcache_ext.planning.alternatives import alternatives, cost, explicit
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.settings import Settings
from deepcache_ext.planning.tuning import TRIED, Question
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import PRESETS


def questions(
    kind: SamplerKind, total: int, family: Family, evaluations: Mapping[int, int | None]
) -> dict[str, Question]:
    """Return what is to be found out for each preset, in a run of `total` evaluations.

    `evaluations` tells how many a run has by its steps.
    """

    def reuse(depth: int) -> float:
        return reuse_cost(depth, family)

    known = {steps: count for steps, count in evaluations.items() if count is not None}

    def as_many(settings: Settings) -> int:
        spent = cost(settings, total, kind, reuse)
        return min(known, key=lambda steps: (abs(known[steps] - spent), -steps))

    found = {}
    for name, of_preset in PRESETS.items():
        settings = Settings(**of_preset[family])
        usual = explicit(settings, total, kind, reuse)
        others = alternatives(settings, total, kind, reuse)[:TRIED]
        found[name] = Question(usual, others, {way: as_many(way) for way in (usual, *others)})
    return found
