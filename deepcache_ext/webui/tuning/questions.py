"""What a tuning asks: for each preset its own plan, and which others to try at its speed."""

from __future__ import annotations

from collections.abc import Mapping

from deepcache_ext.planning.alternatives import alternatives, cost, explicit, nearest
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.settings import Settings
from deepcache_ext.planning.tuning import TRIED, Question
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import PRESETS, for_run


def questions(kind: SamplerKind, total: int, family: Family, evaluations: Mapping[int, int]) -> dict[str, Question]:
    """Return what is to be found out for each preset, in a run of `total` evaluations.

    `evaluations` tells how many a run has by its steps.
    """

    def reuse(depth: int) -> float:
        return reuse_cost(depth, family)

    found = {}
    for name, of_preset in PRESETS.items():
        settings = for_run(Settings(**of_preset[family]), name, kind)
        usual = explicit(settings, total, kind, reuse)
        others = alternatives(settings, total, kind, reuse)[:TRIED]
        spent = {way: cost(way, total, kind, reuse) for way in (usual, *others)}
        found[name] = Question(usual, others, {way: nearest(evaluations, spent[way]) for way in spent})
    return found
