"""The hosts that the end-to-end tests can run on, found by environment variables."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCH = ("--skip-prepare-environment", "--skip-torch-cuda-test", "--no-download-sd-model", "--api")
LAUNCH = (*LAUNCH, "--disable-console-progressbars")


@dataclass(frozen=True)
class Kind:
    """A kind of host: the names of its folder and Python in the environment, and how it is started on a CPU."""

    name: str
    variable: str
    flags: tuple[str, ...]
    models: str = "--models-dir"
    has_hypernetworks: bool = True
    forge: bool = True
    """Whether it is of Forge's family, which has a ControlNet and more built in."""

    settings: tuple[tuple[str, object], ...] = ()
    """Settings of its own for the tests."""

    @property
    def is_named(self):
        """Tell whether the environment names its folder."""
        return bool(os.environ.get(f"{self.variable}_DIR"))

    @property
    def folder(self):
        """Return its folder; skips where the environment names none."""
        return folder_named_by(f"{self.variable}_DIR", f"{self.name}; set it, and {self.variable}_PYTHON to its Python")

    @property
    def python(self):
        return os.environ.get(f"{self.variable}_PYTHON", "python")

    def command(self, port, data):
        """Return the command that starts it on a port, with its settings and what it writes in the folder `data`."""
        found = [self.python, "launch.py", *LAUNCH, *self.flags, "--port", str(port), "--data-dir", data]
        found += [self.models, self.folder / "models"]
        if self.has_hypernetworks:
            found += ["--hypernetwork-dir", data / "hypernetworks"]
        # with a folder of data elsewhere Forge's gradio keeps back the page's own scripts and styles
        return found + (["--gradio-allowed-path", self.folder] if self.forge else [])


_FORGE = ("--skip-python-version-check", "--skip-version-check", "--always-cpu", "--all-in-fp32")
_CPU = ("--use-cpu", "all", "--no-half", "--precision", "full", "--do-not-download-clip")
A1111 = Kind("A1111", "WEBUI", _CPU, forge=False)
FORGE = Kind("Forge", "FORGE", (*_FORGE, "--do-not-download-clip"))
REFORGE = Kind("reForge", "REFORGE", (*_FORGE, "--do-not-download-clip"))
_NEVER = (("skip_early_cond", -1.0),)
"""With its own 0.0 Classic leaves the unconds out of each first evaluation, which takes one more in full."""
CLASSIC = Kind("Forge Classic", "CLASSIC", _FORGE, models="--model-ref", has_hypernetworks=False, settings=_NEVER)
KINDS = (A1111, FORGE, REFORGE, CLASSIC)


def named():
    """Return the kinds of which the environment names one, or AUTOMATIC1111's WebUI, whose tests are then skipped."""
    return [kind for kind in KINDS if kind.is_named] or [A1111]


def folder_named_by(variable, what):
    """Return the folder that an environment variable names; skips where it names none."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no {what}")
    return Path(folder)
