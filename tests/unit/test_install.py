"""What install.py says at the WebUI's start."""

import subprocess
import sys
from pathlib import Path

import pytest

import install

SCRIPT = Path(install.__file__)


@pytest.fixture
def host(tmp_path):
    for name, wanted in install.NEEDED.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"...{wanted}...", encoding="utf-8")
    return tmp_path


def started_by(host):
    """Run the script as the WebUI does: a process of its own, the WebUI's folder on PYTHONPATH."""
    command = [sys.executable, str(SCRIPT)]
    result = subprocess.run(command, env={"PYTHONPATH": str(host)}, capture_output=True, text=True, check=True)
    return result.stdout


def test_a_new_enough_host_is_told_nothing(host):
    assert started_by(host) == ""


def test_outside_a_webui_nothing_is_said(tmp_path):
    assert started_by(tmp_path) == ""


def test_an_old_host_is_told_in_one_line(host):
    (host / "modules" / "scripts.py").write_text("class Script: ...", encoding="utf-8")
    (host / "modules" / "ui_components.py").unlink()
    (line,) = started_by(host).splitlines()
    assert line.startswith("DeepCache needs WebUI 1.10 or newer")
    assert "on_after_component, InputAccordion" in line
