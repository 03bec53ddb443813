"""What a run will do, before it does: the picture of the plan and the speed-up to expect."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings
from deepcache_ext.webui.family import Family

_WIDTH, _HEIGHT, _GAP = 600, 24, 0.2

_COSTS = json.loads(Path(__file__).with_name("costs.json").read_text(encoding="utf-8"))
"""Multiply-accumulates of a full evaluation and of a reuse at depth 1, 2, ..., by family, from bench/macs.py."""


def depths(family: Family) -> int:
    """Return the largest depth of a family."""
    return len(_COSTS[family]["reuse"])


def reuse_cost(depth: int, family: Family) -> float:
    """Return what a reuse costs as a part of a full evaluation; nothing at depth 0, where the output layer is left."""
    if depth == 0:
        return 0.0
    reuses = _COSTS[family]["reuse"]
    return float(reuses[min(depth, len(reuses)) - 1] / _COSTS[family]["full"])


def speed_up(actions: Sequence[Action], depth: int, family: Family) -> float:
    """Return how much less the U-Net computes than if every evaluation were full."""
    reuse = reuse_cost(depth, family)
    return len(actions) / sum(reuse if action is Action.REUSE else 1.0 for action in actions) if actions else 1.0


def picture(
    name: str,
    settings: Settings | None,
    steps: int,
    evaluations: int | None,
    family: Family,
    *,
    sampler: SamplerKind = SamplerKind(),
    note: str = "",
    no_closer: str = "",
) -> str:
    """Return one pass as HTML: a bar for each step, its evaluations side by side, full ones tall and reused ones low.

    `settings` is None for a pass that is not cached, `evaluations` None where nobody knows them;
    `note` is told beside the bars. `no_closer` names a sampler with which fewer steps may be as close; it is told too.
    """
    title = html.escape(name)
    if evaluations is None:
        why = (
            html.escape(note)
            or "this sampler does not tell how many evaluations it makes; its plan is shown after the first picture"
        )
        return f"<p><b>{title}</b>: {why}.</p>"
    if settings is None:
        depth, actions = 0, (Action.FULL,) * evaluations
    else:
        depth = sampler.depth(settings)
        schedule = Schedule(settings, evaluations or None, sampler, reuse_cost(depth, family))
        actions = schedule.actions() if evaluations else ()
        note = "; ".join(filter(None, (schedule.shortfall, note)))
    full = sum(action is not Action.REUSE for action in actions)
    gain = speed_up(actions, depth, family)
    text = f"{full} of {evaluations} evaluations in full, the U-Net about {gain:.1f}x as fast"
    if no_closer and gain > 1:
        fewer = f"with {no_closer}, {round(steps / gain)} steps may be as close for the same time"
        note = "; ".join(filter(None, (note, fewer)))
    text += f"; {html.escape(note)}" if note else ""
    return (
        f'<div class="deepcache-plan"><p><b>{title}</b>: {text}.</p>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{title}: {text}">'
        f"{_bars(actions, max(1, steps))}</svg></div>"
    )


def _bars(actions: Sequence[Action], steps: int) -> str:
    """Return a rectangle for each evaluation; a gap of one fifth of a step's width sets the steps apart."""
    per_step = max(1, round(len(actions) / steps))
    step = _WIDTH / max(1, -(-len(actions) // per_step))
    width = step * (1 - _GAP) / per_step
    bars = []
    for index, action in enumerate(actions):
        reused = action is Action.REUSE
        height = _HEIGHT / 3 if reused else _HEIGHT
        x = index // per_step * step + index % per_step * width
        kind = "reused" if reused else "full"
        bars.append(
            f'<rect class="{kind}" x="{x:.2f}" y="{_HEIGHT - height:.2f}" width="{width:.2f}" height="{height:.2f}">'
            f"<title>evaluation {index}: {kind}</title></rect>"
        )
    return "".join(bars)
