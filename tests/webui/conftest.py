"""Puts the stand-in in the place of the host's `modules` for the tests in this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "standin"))
