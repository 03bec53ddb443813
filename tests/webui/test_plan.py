"""The picture of the plan and the speed-up to expect."""

import itertools
import json
from pathlib import Path

import pytest
from modules import sd_samplers, sd_samplers_common

from bench import macs
from bench.parts import report
from bench.presets import Result
from deepcache_ext import SamplerKind, Schedule, Settings
from deepcache_ext.webui import panel, plan
from deepcache_ext.webui.options import resolved
from deepcache_ext.webui.presets import NO_CLOSER


def test_the_costs_are_those_of_the_bench():
    written = json.loads(Path(plan.__file__).with_name("costs.json").read_text(encoding="utf-8"))
    assert written == macs.panel_costs()


def test_the_speed_up_is_that_of_the_evaluations_costs():
    full, *reuses = [with_attention for _, with_attention in macs.costs("SD1.5")]
    actions = Schedule(Settings(interval=5), 20).actions()
    assert plan.speed_up(actions, 2, "SD1") == pytest.approx(20 * full / (4 * full + 16 * reuses[1]))
    assert plan.speed_up((), 1, "SD1") == 1


def test_every_evaluation_has_a_bar_and_those_of_a_step_touch():
    html = plan.picture("txt2img", Settings(interval=3), 10, 19, "SD1")
    assert html.count('<rect class="full"') == 7
    assert html.count('<rect class="reused"') == 12
    lefts = [float(part.split('"')[0]) for part in html.split(' x="')[1:]]
    gaps = [b - a for a, b in itertools.pairwise(lefts)]
    assert gaps[0] < gaps[1]
    assert max(lefts) < 600


def test_a_pass_without_caching_is_all_full():
    html = plan.picture("hires", None, 5, 5, "SDXL")
    assert html.count('<rect class="full"') == 5
    assert "5 of 5 evaluations in full, the U-Net about 1.0x as fast" in html


def test_an_unknown_number_of_evaluations_is_said():
    assert "does not tell" in plan.picture("txt2img", Settings(), 20, None, "SD1")


def test_without_any_block_a_reuse_costs_nothing_unless_noise_is_added():
    settings = Settings(schedule="auto", speed_up=2.0, depth=0)
    kinds = (SamplerKind(noisy=noisy) for noisy in (False, True))
    quiet, noisy = (plan.picture("txt2img", settings, 20, 20, "SD1", sampler=kind) for kind in kinds)
    assert "10 of 20 evaluations in full, the U-Net about 2.0x as fast" in quiet
    assert "9 of 20 evaluations in full, the U-Net about 2.0x as fast" in noisy


def test_where_fewer_steps_may_be_as_close_it_says_how_many():
    settings = Settings(schedule="auto", speed_up=2.0, depth=0)
    told = plan.picture("txt2img", settings, 20, 20, "SD1", no_closer="DPM++ 2M SDE")
    assert "with DPM++ 2M SDE, 10 steps may be as close for the same time" in told
    assert "as close" not in plan.picture("txt2img", settings, 20, 20, "SD1")


def test_where_a_samplers_name_has_its_scheduler_the_plan_is_the_same(monkeypatch):
    """As on Forge Classic."""
    name = "DPM++ 2M Karras"
    config = sd_samplers_common.SamplerData(name, None, [], {"scheduler": "karras"})
    monkeypatch.setitem(sd_samplers.all_samplers_map, name, config)
    options = resolved({"enabled": True, "preset": "Balanced"}, "SD1")
    shown = panel._picture("txt2img", options, name, "", 20, 1.0, "SD1")
    assert f"with {name}, 10 steps may be as close" in shown
    assert shown.replace(name, "DPM++ 2M") == panel._picture("txt2img", options, "DPM++ 2M", "Karras", 20, 1.0, "SD1")


def test_presets_that_are_no_closer_are_those_of_the_measurements():
    found = {}
    for result in report.read_csv(Result, Path("docs/presets.csv")):
        if result.mean - result.fewer_mean <= result.gain_error:
            found.setdefault(result.sampler, set()).add(result.preset)
    assert {name: set(presets) for name, presets in NO_CLOSER.items()} == found


def test_what_a_depth_rules_out_is_said():
    told = plan.picture("txt2img", Settings(schedule="auto", speed_up=3.0, depth=7), 20, 20, "SD1")
    assert "3x is out of reach at depth 7" in told
