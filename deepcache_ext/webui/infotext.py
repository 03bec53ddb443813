"""Reading the settings back from a picture's infotext."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepcache_ext.webui.options import CONTROLS, Control, written

_ENABLED = CONTROLS["enabled"].infotext_key


def fields(components: Sequence[Any]) -> list[tuple[Any, Callable[[Mapping[str, Any]], Any]]]:
    """Return the pairs of component and function that the host reads infotext with, for components in panel order."""
    return [(component, _reader(control)) for component, control in zip(components, CONTROLS.values(), strict=True)]


def _reader(control: Control) -> Callable[[Mapping[str, Any]], Any]:
    def read(parameters: Mapping[str, Any]) -> Any:
        if control.name == "enabled":
            return parameters.get(_ENABLED) == "True"
        if _ENABLED not in parameters:
            return None
        try:
            return written(control.read(parameters.get(control.infotext_key, control.unwritten)))
        except ValueError:
            return written(control.default)

    return read
