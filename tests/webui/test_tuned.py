"""The file of plans, and the jobs that use them."""

import dataclasses
import json
import sys
import threading
from types import SimpleNamespace

import pytest
from modules import script_callbacks, shared

from deepcache_ext.webui import infotext
from deepcache_ext.webui.options import CONTROLS
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.tuning import tuned as tuned_module
from deepcache_ext.webui.tuning.tuned import Key, Plan, TunedPlans
from deepcache_ext.webui.tuning.tuned_runs import changes_in_mid_run, key_of_job
from tests.webui.support import Processing, load_checkpoint, sample

KEY = Key("one", "Euler", "Automatic", "txt2img", 12)
PLAN = Plan((0, 1, 4, 8), 1, "on", 30.0, 29.0, 6, 25.0)


@pytest.fixture
def plans(tmp_path):
    return TunedPlans(tmp_path / "data" / "deepcache-plans.json")


def test_plans_are_kept_by_key_and_preset_and_read_again(plans):
    assert plans.of(KEY) == {}
    plans.keep(KEY, {"Fast": PLAN})
    plans.keep(KEY, {"Quality": PLAN})
    other = Key("two", "Euler", "Automatic", "txt2img", 12)
    plans.keep(other, {"Fast": PLAN})
    again = TunedPlans(plans.file)
    assert again.of(KEY) == {"Fast": PLAN, "Quality": PLAN}
    assert again.forget("one") == 1
    assert (again.of(KEY), plans.of(other), again.forget("one")) == ({}, {"Fast": PLAN}, 0)
    assert [file.name for file in plans.file.parent.iterdir()] == ["deepcache-plans.json"]


def test_while_one_thread_reads_the_file_another_loses_no_plans(plans, monkeypatch):
    plans.keep(KEY, {"Fast": PLAN})
    parse, begun, goes_on = tuned_module._plans, threading.Event(), threading.Event()

    def slow(file):
        begun.set()
        assert goes_on.wait(20)
        return parse(file)

    found = []

    def use():
        found.append(plans.of(KEY))
        plans.keep(dataclasses.replace(KEY, checkpoint="two"), {"Fast": PLAN})

    monkeypatch.setattr(tuned_module, "_plans", slow)
    reader, other = threading.Thread(target=plans.all), threading.Thread(target=use)
    reader.start()
    assert begun.wait(20)
    other.start()
    other.join(0.5)  # it waits for the reader, or goes on with nothing
    goes_on.set()
    for thread in (reader, other):
        thread.join(20)
    monkeypatch.undo()
    assert found == [{"Fast": PLAN}]
    assert {key.checkpoint for key in TunedPlans(plans.file).all()} == {"one", "two"}


ENTRY = {"checkpoint": "one", "sampler": "Euler", "scheduler": "Automatic", "kind": "txt2img", "evaluations": 12}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": "something else"}',
        json.dumps({"format": "DeepCache plans, 1", "plans": [ENTRY | {"presets": {"Fast": {"steps": ["x"]}}}]}),
        json.dumps({"format": "DeepCache plans, 1", "plans": [{"presets": {}}]}),
        "\udc80",
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_kept_beside(plans, text):
    plans.file.parent.mkdir()
    damaged = text.encode(errors="surrogateescape")
    plans.file.write_bytes(damaged)
    assert plans.all() == {}
    assert plans.problem.startswith("deepcache-plans.json holds no plans that can be read")
    assert len(plans.problem) <= 200
    plans.keep(KEY, {"Fast": PLAN})
    assert (plans.of(KEY), plans.problem) == ({"Fast": PLAN}, "")
    assert plans.file.with_name("deepcache-plans.not-read-1.json").read_bytes() == damaged


class Tab(Processing):
    sampler_name, scheduler, steps = "Euler", None, 12


@pytest.fixture
def tuned(controller, plans):
    """Return a controller with a plan for the loaded checkpoint."""
    controller.remove()
    load_checkpoint("one", sd_model_hash="one")
    plans.keep(key_of_job(Tab()), {"Fast": PLAN})
    controller = Controller(plans)
    controller.install()
    script_callbacks.on_cfg_denoiser(controller.start_evaluation)
    yield controller
    controller.remove()


def test_the_key_is_of_the_checkpoint_and_the_run(tuned):
    assert key_of_job(Tab()) == KEY
    assert tuned.plans.of(KEY) == {"Fast": PLAN}
    tab = Tab()
    tab.sampler_name = "DPM adaptive"
    assert key_of_job(tab) is None


@pytest.mark.parametrize("asked", ["karras", "Karras"])
def test_a_scheduler_has_one_key_by_its_label_or_its_internal_name(tuned, monkeypatch, asked):
    karras = SimpleNamespace(name="karras", label="Karras")
    table = SimpleNamespace(schedulers_map={"karras": karras, "Karras": karras})
    monkeypatch.setitem(sys.modules, "modules.sd_schedulers", table)
    tuned.plans.keep(dataclasses.replace(KEY, scheduler="Karras"), {"Quality": PLAN})
    tab = Tab()
    tab.scheduler = asked
    assert key_of_job(tab) == dataclasses.replace(KEY, scheduler="Karras")
    tuned.begin_job(tab, [{"enabled": True, "preset": "Quality"}])
    sample(tab, steps=12)
    tuned.end_job(tab)
    assert tuned.last_report.passes[0].plan == "0-1, 4, 8"


def begun(controller, *arguments, hires=False):
    tab = Tab()
    tab.enable_hr = hires
    controller.begin_job(tab, arguments)
    return tab


def test_a_preset_makes_the_plan_and_infotext_names_its_evaluations(tuned):
    tab = begun(tuned, {"enabled": True, "preset": "Fast"})
    sample(tab, steps=12)
    tuned.end_job(tab)
    (done,) = tuned.last_report.passes
    assert done.plan == "0-1, 4, 8"
    assert tab.extra_generation_params == {
        "DeepCache enabled": True,
        "DeepCache preset": "Fast",
        "DeepCache schedule": "list",
        "DeepCache steps": "0, 1, 4, 8",
        "DeepCache correction": "on",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "Quality"},
        {"preset": "Fast", "start": 0.5},
        {"preset": "Fast", "forecast": "off"},
        {"preset": "Fast", "correction": "off"},
    ],
    ids=str,
)
def test_other_presets_and_windows_are_left_as_they_are(tuned, values):
    tab = begun(tuned, {"enabled": True} | values)
    assert "DeepCache steps" not in tab.extra_generation_params


def pasted(tab):
    """Return the request that reading the infotext of a tab's pictures makes, by position."""
    text = {key: str(value) for key, value in tab.extra_generation_params.items()}
    return [read(text) for _, read in infotext.fields(list(CONTROLS))]


def hires_pass(tab, **options):
    tab.is_hr_pass = True
    sample(tab, **options)
    tab.is_hr_pass = False


def inner_pass(_tab, **options):
    sample(Processing(img2img=True), **options)


OTHERS = {
    "hires, few": (hires_pass, {"steps": 8}),
    "hires": (hires_pass, {"steps": 12}),
    "hires, DPM adaptive": (hires_pass, {"steps": 12, "name": "DPM adaptive"}),
    "inner, few": (inner_pass, {"steps": 9}),
    "inner, as many": (inner_pass, {"steps": 12}),
    "inner": (inner_pass, {"steps": 17}),
    "another sampler": (sample, {"steps": 12, "name": "Heun"}),
    "other steps": (sample, {"steps": 15}),
}


@pytest.mark.parametrize("forecast", ["on", "off"])
@pytest.mark.parametrize("case", OTHERS)
def test_every_other_pass_is_the_presets_and_infotext_repeats_all(tuned, case, forecast):
    """A job whose first pass has a plan, one without plans, and one that the infotext asks for without plans."""
    run, options = OTHERS[case]
    plan = dataclasses.replace(PLAN, forecast=forecast, depth=0)

    def passes(*arguments):
        tab = Tab()
        tab.enable_hr = True
        shared.state.begin()
        tuned.begin_job(tab, arguments)
        if run in {hires_pass, inner_pass}:
            sample(tab, steps=12)
        run(tab, **options)
        tuned.end_job(tab)
        return tab, [(done.plan, done.reason, done.statistics) for done in tuned.last_report.passes]

    tuned.plans.forget("one")
    _, presets = passes({"enabled": True, "preset": "Fast"})
    tuned.plans.keep(KEY, {"Fast": plan})
    tab, found = passes({"enabled": True, "preset": "Fast"})
    assert found[-1] == presets[-1]
    if len(found) == 2:
        assert found[0][0] == "0-1, 4, 8" != presets[0][0]
    tuned.plans.forget("one")
    assert passes(*pasted(tab))[1] == found


def test_forgotten_plans_are_not_used(tuned):
    tuned.plans.forget("one")
    assert "DeepCache steps" not in begun(tuned, {"enabled": True, "preset": "Fast"}).extra_generation_params


def test_a_job_tells_that_the_plans_cannot_be_read(tuned):
    tuned.plans.file.write_text("{", encoding="utf-8")
    tab = begun(tuned, {"enabled": True, "preset": "Fast"})
    (comment,) = tab.comments
    assert comment.startswith("DeepCache: deepcache-plans.json holds no plans that can be read")
    assert "DeepCache steps" not in tab.extra_generation_params


def conditioned(conds, unconds):
    """Return what a sampler is given for a prompt and a negative one with so many entries in their schedules."""

    def schedule(entries):
        return [SimpleNamespace(end_at_step=5 + entry) for entry in range(entries)]

    return {
        "cond": SimpleNamespace(batch=[[SimpleNamespace(schedules=schedule(conds))]]),
        "uncond": [schedule(unconds)],
    }


def test_plans_are_not_for_pictures_whose_prompt_changes_in_mid_run_whoever_wrote_it(tuned):
    """Two batches, the second of another prompt, as a wildcard makes it: each picture's infotext says what it had."""
    tab = Tab()
    tuned.begin_job(tab, [{"enabled": True, "preset": "Fast"}])
    written = []
    for tab.iteration, entries in enumerate([(1, 1), (2, 1), (1, 2), (1, 1)]):
        sample(tab, steps=12, **conditioned(*entries))
        written.append("DeepCache steps" in tab.extra_generation_params)
    tuned.end_job(tab)
    assert written == [True, False, False, True]
    assert [done.plan == "0-1, 4, 8" for done in tuned.last_report.passes] == written


@pytest.mark.parametrize(
    ("prompt", "changes"),
    [("a [b] (c:1.2)", False), ("a [b:c:9]", True), ("[a|b]", True), ("[:b:0.5]", True), ("<lora:a:1>", False)],
)
def test_nothing_is_tuned_for_prompts_that_change_in_mid_run(prompt, changes):
    for prompts in (["plain", prompt], ["plain"]), (["plain"], [prompt]):
        made = SimpleNamespace(all_prompts=prompts[0], all_negative_prompts=prompts[1])
        assert changes_in_mid_run(made) is changes
