"""The comparison in the host's list of scripts: what to compare, the table of results, and taking a row over."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from deepcache_ext.webui.comparing.compare import CHOICES, Comparer
from deepcache_ext.webui.comparing.comparison import Comparison, Row, cells, headings
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.presets import PRESETS

_TAKEN = ("enabled", "preset", "schedule", "speed_up", "depth", "correction")
"""The controls of the panel that a row may set."""
_STEPS = ("steps", "hires_steps")
"""The host's components that fewer steps set."""
_MOST_ROWS = 2 * len(CHOICES) + 1


class ComparePanel:
    """The controls of one tab, and the table of the last comparison."""

    def __init__(self, comparer: Comparer, elem_id: Callable[[str], str]) -> None:
        self._comparer = comparer
        self._elem_id = elem_id
        gr.HTML(
            "<p>Makes the full picture and what DeepCache makes of it, and tells how close and how fast each is.</p>"
        )
        self.inputs = [
            gr.CheckboxGroup(list(CHOICES), value=list(PRESETS), label="Compare", elem_id=elem_id("choices")),
            gr.Checkbox(True, label="With fewer steps at the same cost", elem_id=elem_id("fewer_steps")),
            gr.Checkbox(False, label="Pictures of the differences", elem_id=elem_id("differences")),
        ]
        self._table = gr.HTML(elem_id=elem_id("table"))
        self._buttons = [gr.Button(visible=False, elem_id=elem_id(f"use_{row}")) for row in range(_MOST_ROWS)]

    def connect(self, panel: Mapping[str, Any], tab: Mapping[str, Any], finished: Any) -> None:
        """Show the table when `finished` changes, and have its buttons set controls of the `panel` and the `tab`."""
        quick: dict[str, Any] = {"show_progress": False, "queue": False}
        finished.change(self._show, None, self._table, **quick)
        steps = [name for name in _STEPS if name in tab]
        outputs = [*(panel[name] for name in _TAKEN), *(tab[name] for name in steps)]
        for number, button in enumerate(self._buttons):
            button.click(functools.partial(self._use, number, steps), None, outputs, **quick)

    def _show(self) -> str:
        comparison = self._comparer.last
        return "" if comparison is None else table(comparison, lambda row: self._elem_id(f"use_{row}"))

    def _use(self, number: int, steps: list[str]) -> list[Any]:
        comparison = self._comparer.last
        rows = [] if comparison is None else list(comparison.rows())
        row = rows[number] if number < len(rows) else None
        if row is None:
            return [gr.update() for _ in (*_TAKEN, *steps)]
        values = dict(row.settings)
        if "preset" in values:
            values |= PRESETS[values["preset"]][host.loaded().family]
        counts = {"steps": row.steps, "hires_steps": row.hires_steps or None}
        found = [values.get(name) for name in _TAKEN] + [counts[name] for name in steps]
        return [gr.update() if value is None else gr.update(value=value) for value in found]


def table(comparison: Comparison, button: Callable[[int], str]) -> str:
    """Return a comparison as HTML; `button` tells the id of the button that a row's own one presses."""
    head = "".join(f"<th>{heading}</th>" for heading in (*headings(), ""))
    lines = [_line(comparison.full, "")]
    numbers = {id(row): number for number, row in enumerate(comparison.rows())}
    for choice in comparison.choices:
        lines.append(_line(choice.row, button(numbers[id(choice.row)])))
        if choice.fewer is not None:
            lines.append(_line(choice.fewer, button(numbers[id(choice.fewer)]), kind="fewer"))
    told = "".join(f"<p>{html.escape(text)}</p>" for text in (comparison.advice, comparison.note) if text)
    pictures = f"{len(comparison.seeds)} pictures, mean and in brackets the worst" if len(comparison.seeds) > 1 else ""
    about = ", ".join(filter(None, (comparison.checkpoint, comparison.sampler, comparison.scheduler, pictures)))
    return (
        f'{told}<table class="deepcache-comparison"><caption>{html.escape(about)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _line(row: Row, button: str, kind: str = "") -> str:
    texts = [f"<td>{html.escape(text)}</td>" for text in cells(row)]
    press = f"gradioApp().querySelector('#{button}').click()"
    use = f'<button type="button" onclick="{press}">use this</button>' if button else ""
    return f'<tr class="{kind}">{"".join(texts)}<td>{use}</td></tr>'
