"""The settings as axes of the host's X/Y/Z plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepcache_ext.planning.settings import Choice, Number, WholeNumber
from deepcache_ext.webui.options import CONTROLS, Control, Flag
from deepcache_ext.webui.plot_cells import override

PREFIX = "[DeepCache] "


def add_axes(scripts_data: Any) -> None:
    """Add an axis for every control to the host's X/Y/Z script, unless it has them."""
    for data in scripts_data:
        if data.script_class.__module__ != "xyz_grid.py":
            continue
        options = data.module.axis_options
        have = {option.label for option in options}
        options.extend(
            _axis(data.module, control) for control in CONTROLS.values() if PREFIX + control.label not in have
        )


def _axis(xyz: Any, control: Control) -> Any:
    kind = control.kind
    type_ = int if isinstance(kind, WholeNumber) else float if isinstance(kind, Number) else str
    choices = kind.options if isinstance(kind, Choice) else ("True", "False") if isinstance(kind, Flag) else ()
    extra = {"choices": lambda: list(choices)} if choices else {}
    return xyz.AxisOption(PREFIX + control.label, type_, _override(control.name), **extra)


def _override(name: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _values: Any) -> None:
        override(p, {name: value})

    return apply
