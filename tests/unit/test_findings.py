"""Findings have the form that docs/contributing.md describes. They are not run here: they install packages."""

import re
from pathlib import Path

import pytest

FINDINGS = sorted((Path(__file__).parents[2] / "findings").glob("*"))


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_a_finding_says_what_it_found_and_runs_on_its_own(path):
    assert path.suffix == ".sh"
    assert path.stat().st_mode & 0o100
    text = path.read_text(encoding="utf-8")
    header = text.split("set -euo pipefail\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for heading in ("Version: ", "Guess: ", "Behaviour: ", "Output seen"):
        assert f"# {heading}" in header
    assert 'folder=$(mktemp -d)\ntrap \'rm -rf "$folder"\' EXIT\ncd "$folder"\n' in text
    packages = [word for line in re.findall(r"pip install (.*)", text) for word in line.split() if word[0] != "-"]
    assert packages
    assert all("==" in package for package in packages)
    assert "sys.exit(0 if " in text
    assert not re.search(r"deepcache_ext|import bench|from bench|demo\.", text)
