"""Requests and infotext that were written with the first version of the panel mean today what they meant then."""

import dataclasses

import pytest

from deepcache_ext import Settings
from deepcache_ext.webui import infotext
from deepcache_ext.webui.options import CONTROLS, given, resolved

ORDER = (
    "enabled, preset, schedule, speed_up, interval, depth, center, power, steps, start, end, forecast, "
    "hires, hires_speed_up, hires_interval, hires_depth, inner, correction"
)
LABELS = (
    "Enable DeepCache, Preset, Schedule, Speed-up, Interval, Depth, Centre, Power, Full steps, Start, End, Forecast, "
    "Hires pass, Hires speed-up, Hires interval, Hires depth, Inner passes, Correction"
)
WHOLE = [True, "Custom", "uniform", 2, 5, 2, 15, 1.4, "", 0.1, 0.9, "off", "own", 2, 4, 1, False]


def test_arguments_stand_where_they_stood():
    assert ", ".join(CONTROLS) == ORDER
    assert ", ".join(control.label for control in CONTROLS.values()) == LABELS


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_a_whole_request_by_position(family):
    options = resolved(given(WHOLE), family)
    assert options.base == Settings(interval=5, depth=2, start=0.1, end=0.9, forecast="off")
    assert options.hires == Settings(interval=4, depth=1, start=0.1, end=0.9, forecast="off")
    assert options.inner is False


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("enabled: True, schedule: auto, depth: 0", Settings(schedule="auto", speed_up=2, depth=0)),
        ("enabled: True, preset: Fast, schedule: auto, speed up: 3.0, depth: 0", Settings("auto", 3, depth=0)),
        ("enabled: True, preset: Custom, interval: 4, depth: 2", Settings(interval=4, depth=2)),
        (
            "enabled: True, preset: Custom, schedule: list, steps: 0; 5, end: 0.8",
            Settings("list", steps=(0, 5), end=0.8),
        ),
    ],
)
def test_infotext(text, settings):
    entries = (entry.split(": ") for entry in text.split(", "))
    parameters = {f"DeepCache {name}": value.replace(";", ",") for name, value in entries}
    pasted = [read(parameters) for _, read in infotext.fields(list(CONTROLS))]
    assert resolved(given(pasted), "SD1").base == dataclasses.replace(settings, correction="off")
