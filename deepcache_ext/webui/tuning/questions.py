"""What a tuning asks: for each preset its own plan, and which others to try at its speed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from deepcache_ext.planning.alternatives import alternatives, cost, explicit, nearest
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.settings import Settings
from deepcache_ext.planning.tuning import TRIED, Question
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import BALANCED, PRESETS, for_run

PICTURES = 12
"""How many pictures a tuning makes, whatever the sampler."""


def questions(kind: SamplerKind, total: int, family: Family, evaluations: Mapping[int, int]) -> dict[str, Question]:
    """Return what is to be found out for each preset, in a run of `total` evaluations.

    `evaluations` tells how many a run has by its steps.
    """

    def reuse(depth: int) -> float:
        return reuse_cost(depth, family)

    usual, others, fewer = {}, {}, {}
    for name, of_preset in PRESETS.items():
        settings = for_run(Settings(**of_preset[family]), name, kind)
        usual[name] = explicit(settings, total, kind, reuse)
        others[name] = alternatives(settings, total, kind, reuse)
        fewer[name] = nearest(evaluations, cost(usual[name], total, kind, reuse))
    tried = _likeliest(others)
    return {name: Question(usual[name], tried[name], fewer[name]) for name in PRESETS}


def _likeliest(others: Mapping[str, tuple[Settings, ...]]) -> dict[str, tuple[Settings, ...]]:
    """Return which other plans to try, by preset: one of each in turn.

    Those of Fast come first, which won most, and those of Balanced last, which lost by what they took over; see
    docs/research.md.
    """
    names = sorted(others, key=lambda name: (name == BALANCED, -list(PRESETS).index(name)))
    turns = itertools.zip_longest(*([(name, way) for way in others[name]] for name in names))
    chosen = [one for turn in turns for one in turn if one is not None][:TRIED]
    return {name: tuple(way for of, way in chosen if of == name) for name in others}
