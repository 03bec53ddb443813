"""The packages that have real U-Nets: ldm (SD1, SD2) and sgm (SDXL), which comes with imaginairy."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from types import ModuleType


def ldm() -> ModuleType:
    """Return ldm's module that has `UNetModel`."""
    return _module("ldm.modules.diffusionmodules.openaimodel")


def sgm() -> ModuleType:
    """Return sgm's module that has `UNetModel`; ImportError where imaginairy is not installed."""
    logging.getLogger("imaginairy").setLevel(logging.ERROR)
    found = _module("imaginairy.modules.sgm.diffusionmodules.openaimodel")
    attention = _module("imaginairy.modules.sgm.attention")
    found.SpatialTransformer = attention.SpatialTransformer  # type: ignore[attr-defined] # the package takes ldm's otherwise
    return found


def _module(name: str) -> ModuleType:
    with contextlib.redirect_stdout(io.StringIO()):  # both announce at import that xformers is missing
        return importlib.import_module(name)
