"""Puts the stand-in in the place of the host's `modules` for the tests in this folder, and starts the script on it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "standin"))

from modules import script_callbacks, sd_models

from deepcache_ext import sampling
from tests.webui.support import load_checkpoint, load_script


@pytest.fixture
def controller():
    load_checkpoint()
    script = load_script()
    yield script.controller
    for callback in script_callbacks.callbacks["script_unloaded"]:
        callback()
    sd_models.model_data.sd_model = None


@pytest.fixture
def at_one_time(monkeypatch):
    """Have times taken from the U-Net's calls: the stand-in makes all of them at one, so that nothing is forecast."""
    monkeypatch.setattr(sampling, "times_of", lambda *_: ())
