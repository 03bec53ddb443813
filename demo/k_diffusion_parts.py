"""k-diffusion's samplers and denoisers, without the training code that its package pulls in.

Importing `k_diffusion` runs its training, augmentation and evaluation modules, which want torchvision, CLIP and more.
The two modules that sampling needs are loaded alone; the one torchvision name that they import is stood in for while
they load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_STAND_INS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


def _load() -> tuple[ModuleType, ModuleType]:
    if "k_diffusion" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("k-diffusion is not installed; start through dev.py, which installs it")
        package = ModuleType("k_diffusion")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["k_diffusion"] = package
    with _torchvision_stood_in_for():
        return importlib.import_module("k_diffusion.sampling"), importlib.import_module("k_diffusion.external")


@contextmanager
def _torchvision_stood_in_for() -> Iterator[None]:
    missing = [name for name in _STAND_INS if name not in sys.modules]
    for name in missing:
        module = ModuleType(name)
        parent, _, child = name.rpartition(".")
        sys.modules[name] = module
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


sampling, external = _load()
