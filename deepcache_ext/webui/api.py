"""The REST routes: the settings' schema and what the last job did."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from fastapi import Body, HTTPException

from deepcache_ext.planning.settings import Choice, Number, Steps, WholeNumber
from deepcache_ext.webui.comparing.compare import Comparer
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.options import CONTROLS, Control, Flag, written
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.tuning.questions import PICTURES
from deepcache_ext.webui.tuning.tune import TITLE, Tuner


def add_routes(app: Any, controller: Controller, comparer: Comparer, tuner: Tuner) -> None:
    """Add the routes beside the host's own API, behind the same password; without --api there are none."""
    owners = (getattr(getattr(route, "endpoint", None), "__self__", None) for route in app.routes)
    host_api = next((owner for owner in owners if hasattr(owner, "add_api_route") and owner is not app), None)
    if host_api is None:
        return
    host_api.add_api_route("/deepcache/v1/schema", schema, methods=["GET"])
    host_api.add_api_route("/deepcache/v1/last-run", lambda: last_run(controller, comparer), methods=["GET"])
    host_api.add_api_route("/deepcache/v1/tune", lambda: tuned(tuner), methods=["GET"])
    host_api.add_api_route("/deepcache/v1/tune", lambda: forget(tuner), methods=["DELETE"])

    def tune(request: dict[str, Any] = Body(...)) -> dict[str, Any]:  # noqa: B008 - FastAPI's own way
        return tune_by(host_api, tuner, request)

    host_api.add_api_route("/deepcache/v1/tune", tune, methods=["POST"])


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


def tune_by(host_api: Any, tuner: Tuner, request: Mapping[str, Any]) -> dict[str, Any]:
    """Tune for the run that a request of the host's txt2img describes, of img2img if it has `init_images`.

    Returns what was found; raises HTTPException for a request that the host would not take.
    """
    call = host_api.img2imgapi if "init_images" in request else host_api.text2imgapi
    of_run = {"script_name": TITLE, "script_args": [], "send_images": False, "save_images": False}
    (parameter,) = inspect.signature(call, eval_str=True).parameters.values()
    try:
        asked = parameter.annotation(**{**request, **of_run})
    except ValueError as error:  # pydantic's, of either version
        raise HTTPException(status_code=422, detail=str(error)) from None
    call(asked)
    if tuner.tuned_nothing or tuner.last is None:
        raise HTTPException(status_code=422, detail=f"tuned nothing: {tuner.tuned_nothing}")
    return tuner.last.as_json()


def tuned(tuner: Tuner) -> dict[str, Any]:
    """Return how many pictures a tuning makes, all plans that are kept, and what may be wrong with their file."""
    found = tuner.plans.all()
    plans = [dataclasses.asdict(key) | {"presets": dict(of_key)} for key, of_key in found.items()]
    return {"pictures": PICTURES, "file": str(tuner.plans.file), "problem": tuner.plans.problem, "plans": plans}


def forget(tuner: Tuner) -> dict[str, int]:
    """Forget the plans of the checkpoint in force, and return for how many kinds of runs.

    Raises HTTPException where their file can't be written.
    """
    try:
        return {"forgotten": tuner.plans.forget(host.checkpoint())}
    except OSError as error:
        told = f"the plans can't be written to {tuner.plans.file}: {error.strerror}"
        raise HTTPException(status_code=507, detail=told) from None  # the server can't store it


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
