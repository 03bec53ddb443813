"""Tuning in a host in miniature: what is kept, and what of it when the host interrupts, fails or changes."""

import json

import pytest
from fastapi import HTTPException
from modules import processing, script_callbacks, sd_samplers, sd_samplers_common, shared

from deepcache_ext.webui import api
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.tuning.questions import PICTURES
from deepcache_ext.webui.tuning.tune import Tuner
from deepcache_ext.webui.tuning.tune_panel import ABOUT, TunePanel
from deepcache_ext.webui.tuning.tuned import Key, TunedPlans
from tests.webui import support
from tests.webui.support import PictureHost, load_checkpoint
from tests.webui.test_compare import Tab as OfComparison

KEY = Key("one", "Euler", "Automatic", "txt2img", 12)


OTHERS_OF_QUALITY = (2, 10)
"""The numbers of the pictures of another plan for Quality: after the full one and the usual one, and last but one."""


class Tab(OfComparison):
    seed = 5


@pytest.fixture
def host(controller, monkeypatch, tmp_path):
    """Have the host make grey pictures, of which those of Quality's other plan are closest to the full ones."""
    controller.remove()
    load_checkpoint("one", sd_model_hash="one")
    controller = Controller(TunedPlans(tmp_path / "plans.json"))
    controller.install()
    monkeypatch.setitem(script_callbacks.callbacks, "cfg_denoiser", [controller.start_evaluation])

    def grey(p):
        if "DeepCache enabled" not in p.extra_generation_params:
            return 100 + 20 * (p.steps < Tab.steps)
        return 102 if len(host.made) - 1 in OTHERS_OF_QUALITY else 110

    host = PictureHost(controller, monkeypatch, grey)
    host.controller, host.tuner = controller, Tuner(controller)
    yield host
    controller.remove()


def test_the_closest_plan_of_each_preset_is_kept(host):
    result = host.tuner.run(Tab())
    tuning = host.tuner.last
    assert (tuning.key, tuning.seeds, tuning.note) == (KEY, [5, 6], "")
    assert len(host.made) == tuning.pictures == PICTURES == shared.state.job_count
    assert f"Makes {PICTURES} pictures" in ABOUT
    assert api.tuned(host.tuner)["pictures"] == tuning.as_json()["pictures"] == PICTURES
    kept = host.tuner.plans.of(KEY)
    assert kept == tuning.plans
    assert set(kept) == {"Quality", "Balanced", "Fast"}
    assert [name for name, plan in kept.items() if plan.psnr > plan.usual] == ["Quality"]
    assert kept["Quality"].steps == host.made[OTHERS_OF_QUALITY[0]].deepcache_overrides.values["steps"]
    assert len(result.images) == 1 + 3
    assert all(sentence in result.comments for sentence in tuning.sentences())
    json.dumps(tuning.as_json())


def test_a_plan_that_nothing_beats_is_the_presets_own_where_a_samplers_name_has_its_scheduler(host, monkeypatch):
    """As on Forge Classic."""
    name = "DPM++ 2M Karras"
    config = sd_samplers_common.SamplerData(name, None, [], {"scheduler": "karras"})
    monkeypatch.setitem(sd_samplers.all_samplers_map, name, config)
    monkeypatch.setitem(support.FUNCTIONS, name, support.FUNCTIONS["DPM++ 2M"])

    def tab():
        made = Tab()
        made.sampler_name, made.steps, made.scheduler = name, 20, None
        return made

    def balanced():
        p = tab()
        support.job(host.controller, p, {"enabled": True, "preset": "Balanced"}, name=name, steps=20)
        return host.controller.last_report.passes[0].plan, "DeepCache steps" in p.extra_generation_params

    before, _ = balanced()
    host.tuner.run(tab())
    assert balanced() == (before, True)


def interrupt():
    shared.state.interrupted = True


def fail():
    raise RuntimeError("out of memory")


def exchange():
    load_checkpoint("two", sd_model_hash="two")


@pytest.mark.parametrize(
    ("what", "note"),
    [
        (interrupt, "it was interrupted"),
        (fail, "RuntimeError: out of memory"),
        (exchange, "the checkpoint was changed"),
    ],
)
def test_what_is_found_until_the_end_is_kept(host, what, note):
    host.during = lambda number: what() if number == 5 else None
    host.tuner.run(Tab())
    assert set(host.tuner.plans.of(KEY)) == {"Quality"}
    assert host.tuner.last.note == f"The tuning ended early: {note}. What was found until then is kept."


def test_the_same_checkpoint_loaded_anew_ends_no_tuning(host):
    host.during = lambda number: load_checkpoint() if number == 5 else None
    host.tuner.run(Tab())
    assert host.tuner.last.note == ""


def test_where_there_is_nothing_to_tune_the_picture_is_made(host):
    tab = Tab()
    tab.sampler_name = "DPM adaptive"
    result = host.tuner.run(tab)
    assert len(result.images) == 1
    assert result.comments == "DeepCache tuned nothing: this sampler does not tell how many evaluations it will make.\n"
    tab = Tab()
    tab.steps = 6
    host.tuner.run(tab)
    assert host.tuner.tuned_nothing.startswith("with 6 steps")
    tab = Tab()
    tab.prompt = "[a:b:4]"
    host.tuner.run(tab)
    assert host.tuner.tuned_nothing.startswith("the prompt changes in mid-run")
    assert host.tuner.plans.all() == {}


def test_the_error_of_the_full_picture_is_the_hosts(host):
    host.during = lambda _number: fail()
    with pytest.raises(RuntimeError, match="out of memory"):
        host.tuner.run(Tab())


def test_a_run_that_a_refiner_ends_is_not_tuned(host, monkeypatch):
    monkeypatch.setattr(processing.Processed, "sd_model_hash", "one", raising=False)
    host.during = lambda number: exchange() if number == 0 else None
    host.tuner.run(Tab())
    assert host.tuner.tuned_nothing.startswith("a refiner or the request switches to another checkpoint")
    assert not host.tuner.plans.of(Key("two", "Euler", "Automatic", "txt2img", 12))


def test_where_nothing_is_reused_nothing_is_kept(host):
    tab = Tab()
    tab.script_args = [{"enabled": True, "interval": 99}]
    host.tuner.run(tab)
    assert not host.tuner.plans.of(KEY)
    assert "interval must be a whole number from 1 to 50" in host.tuner.last.note


def test_a_file_that_cannot_be_written_is_told_where_plans_are_to_be_forgotten(host):
    host.tuner.run(Tab())
    host.tuner.plans.file.with_suffix(".new").mkdir()  # stands where the new file is written
    with pytest.raises(HTTPException) as raised:
        api.forget(host.tuner)
    told = f"the plans can't be written to {host.tuner.plans.file}: Is a directory"
    assert (raised.value.status_code, raised.value.detail) == (507, told)
    assert host.tuner.plans.of(KEY)


@pytest.mark.parametrize("tab", [{"steps": 6}, {}], ids=["nothing to tune", "tuned"])
def test_the_panel_takes_tuning_out_of_the_list_and_tells_what_came_of_it(host, tab):
    panel = TunePanel(host.tuner)
    assert [value for update in panel._finish() for value in update if value == "value"] == []
    host.tuner.run(Tab())
    panel._press()
    p = Tab()
    vars(p).update(tab)
    host.tuner.run(p)
    script, told = panel._finish()
    assert script["value"] == "None"
    assert ("Tuned nothing: with 6 steps" in told, "Quality" in told) == (bool(tab), not tab)
