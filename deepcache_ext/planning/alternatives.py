"""Other plans at a speed than the one that "auto" makes, for a search by final pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from deepcache_ext.planning.placement import SPARSE, Rule, full_evaluations, longest_gap, rule_for, spread
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings

_EVEN, _TO_THE_END, _GROWING, _HALFWAY = Rule(1.0), Rule(1.0, spare_last=False), Rule(6.0), Rule(3.0)
_EVEN_AFTER_A_LINE = Rule(1.0, begins_with_line=True)


def alternatives(
    settings: Settings, total: int, sampler: SamplerKind, reuse: Callable[[int], float]
) -> tuple[Settings, ...]:
    """Return other settings of about the speed of `settings`, whose schedule is "auto", the likeliest first.

    Each names its full evaluations of `total` itself. They differ in how these are spread, in depth, and in whether
    features are forecast. `reuse` tells what a reuse costs at a depth, as a part of a full evaluation. None makes the
    plan that `settings` make, and none costs more than that plan or the speed asked for, whichever is more.
    """
    usual = explicit(settings, total, sampler, reuse)
    limit = max(cost(usual, total, sampler, reuse), total / settings.speed_up + 0.5)
    found = [usual]
    for rule, depth, forecast in _ways(settings, sampler):
        count = full_evaluations(total, settings.speed_up, reuse(depth))
        steps = spread(range(total), count, rule.at_most(longest_gap(total // sampler.stages)), sampler.stages)
        way = Settings(schedule="list", steps=steps, depth=depth, forecast=forecast)
        if way not in found and cost(way, total, sampler, reuse) <= limit:
            found.append(way)
    return tuple(found[1:])


def explicit(settings: Settings, total: int, sampler: SamplerKind, reuse: Callable[[int], float]) -> Settings:
    """Return settings that name the full evaluations which `settings` lead to, and that make the same plan."""
    depth = sampler.depth(settings)
    plan = Schedule(settings, total, sampler, reuse(depth)).actions()
    steps = tuple(number for number, action in enumerate(plan) if action is not Action.REUSE)
    return Settings(schedule="list", steps=steps, depth=depth, forecast=settings.forecast)


def cost(settings: Settings, total: int, sampler: SamplerKind, reuse: Callable[[int], float]) -> float:
    """Return what a plan costs, in full evaluations."""
    depth = sampler.depth(settings)
    plan = Schedule(settings, total, sampler, reuse(depth)).actions()
    return sum(reuse(depth) if action is Action.REUSE else 1.0 for action in plan)


def nearest(evaluations: Mapping[int, int], spent: float) -> int:
    """Return the steps whose evaluations come nearest to a cost in full ones, the more of two."""
    return min(evaluations, key=lambda steps: (abs(evaluations[steps] - spent), -steps))


def _ways(settings: Settings, sampler: SamplerKind) -> Iterator[tuple[Rule, int, str]]:
    """Yield how else full evaluations can be spread, at which depth, and whether features are forecast.

    At a high speed without noise a full evaluation more is worth most; next come spreads that are like the usual one.
    Where reuses are corrected, no other depth and nothing that is not forecast comes near: neither is corrected. A last
    evaluation in full is worth least there.
    """
    own, depth = rule_for(sampler, settings), sampler.depth(settings)
    if sampler.corrects(settings):
        if own.growth == 1:
            spreads = (_HALFWAY, _GROWING, _TO_THE_END)
        elif sampler.extrapolates:
            spreads = (_EVEN_AFTER_A_LINE, _HALFWAY, _TO_THE_END)
        else:
            spreads = (_HALFWAY, _EVEN_AFTER_A_LINE, _TO_THE_END)
        yield from ((rule, depth, "on") for rule in spreads)
        return
    if depth and not sampler.noisy and settings.speed_up > SPARSE:
        yield own, 0, "on"
    nearest_first = (_HALFWAY, _TO_THE_END) if own.growth > 1 else (_TO_THE_END, _HALFWAY)
    yield from ((rule, depth, "on") for rule in nearest_first)
    depths = [other for other in (0, 1, 2) if other != depth and (other or not sampler.noisy)]
    yield own, depths[0], "on"
    yield _GROWING if own.growth == 1 else _EVEN, depth, "on"
    yield from ((own, other, "on") for other in depths[1:])
    yield own, max(1, depth), "off"
