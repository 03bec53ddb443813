"""The REST routes: the settings' schema and what the last job did."""

from __future__ import annotations

import dataclasses
from typing import Any

from deepcache_ext.planning.settings import Choice, Number, Steps, WholeNumber
from deepcache_ext.webui.compare import Comparer
from deepcache_ext.webui.options import CONTROLS, Control, Flag, written
from deepcache_ext.webui.passes import Controller


def add_routes(app: Any, controller: Controller, comparer: Comparer) -> None:
    """Add the routes beside the host's own API, behind the same password; without --api there are none."""
    owners = (getattr(getattr(route, "endpoint", None), "__self__", None) for route in app.routes)
    host_api = next((owner for owner in owners if hasattr(owner, "add_api_route") and owner is not app), None)
    if host_api is None:
        return
    host_api.add_api_route("/deepcache/v1/schema", schema, methods=["GET"])
    host_api.add_api_route("/deepcache/v1/last-run", lambda: last_run(controller, comparer), methods=["GET"])


def schema() -> dict[str, Any]:
    """Return the JSON schema of the object that the API takes as its first argument."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DeepCache",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(control) for name, control in CONTROLS.items()},
    }


def last_run(controller: Controller, comparer: Comparer) -> dict[str, Any]:
    """Return what the last job did that had DeepCache enabled, no passes if there was none; and its comparison."""
    report, comparison = controller.last_report, comparer.of_last_run
    found = {"passes": [], "reason": "no job with DeepCache yet"} if report is None else dataclasses.asdict(report)
    return found if comparison is None else found | {"comparison": comparison.as_json()}


def _property(control: Control) -> dict[str, Any]:
    kind = control.kind
    found: dict[str, Any] = {"title": control.label, "description": control.help, "default": written(control.default)}
    if isinstance(kind, (WholeNumber, Number)):
        found |= {"type": "integer" if isinstance(kind, WholeNumber) else "number"}
        found |= {"minimum": kind.minimum, "maximum": kind.maximum}
    elif isinstance(kind, Choice):
        found |= {"type": "string", "enum": list(kind.options)}
    elif isinstance(kind, Flag):
        found["type"] = "boolean"
    elif isinstance(kind, Steps):
        found |= {"type": ["string", "array"], "items": {"type": "integer"}}
    return found
