"""What a host's samplers are by name, and what shows of a run that is launched."""

import functools
import sys
from types import SimpleNamespace

import pytest
import torch
from modules import sd_samplers, sd_samplers_common, shared

from deepcache_ext import SamplerKind
from deepcache_ext.planning.dry_run import UnansweredError
from deepcache_ext.planning.sampler_run import SamplerRun
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.dry_runs import Launched
from deepcache_ext.webui.hosts.samplers import Samplers, scheduler_of

samplers = host.samplers


def test_a_run_that_has_not_begun_is_judged_by_the_hosts_settings(monkeypatch):
    assert not samplers.kind("DDIM").noisy
    assert samplers.kind("Euler a").noisy
    assert samplers.kind("LCM").noisy
    monkeypatch.setattr(shared.opts, "eta_ddim", 0.4, raising=False)
    monkeypatch.setattr(shared.opts, "s_churn", 3.0, raising=False)
    monkeypatch.setattr(shared.opts, "eta_ancestral", 0.0, raising=False)
    assert samplers.kind("DDIM").noisy
    assert samplers.kind("Euler").noisy
    assert not samplers.kind("Euler a").noisy
    assert not samplers.kind("DPM++ 2M").noisy


def test_samplers_that_extrapolate():
    found = {name for name in sd_samplers.all_samplers_map if samplers.kind(name).extrapolates}
    assert found == {"DPM++ 2M", "LMS"}


CLASSIC = {
    "DPM++ 2M Karras": {"scheduler": "karras"},
    "DPM++ 2M SDE": {"brownian_noise": True},
    "DPM++ 2M SDE Karras": {"scheduler": "karras", "brownian_noise": True},
    "DPM++ 2M SDE Heun": {"brownian_noise": True, "solver_type": "heun"},
    "DPM++ 2M SDE Heun Exponential": {"scheduler": "exponential", "brownian_noise": True, "solver_type": "heun"},
    "LMS Karras": {"scheduler": "karras"},
    "DPM2 Karras": {"scheduler": "karras", "uses_ensd": True, "second_order": True},
}
"""Some of Forge Classic's samplers by the names they have there, with their options."""


@pytest.fixture
def classic(monkeypatch):
    for name, options in CLASSIC.items():
        config = sd_samplers_common.SamplerData(name, None, [], options)
        monkeypatch.setitem(sd_samplers.all_samplers_map, name, config)


@pytest.mark.usefixtures("classic")
@pytest.mark.parametrize("name", [name for name, options in CLASSIC.items() if "scheduler" in options])
def test_a_scheduler_in_a_samplers_name_makes_no_other_kind(name):
    assert samplers.kind(name) == samplers.kind(name.rpartition(" ")[0])


@pytest.mark.usefixtures("classic")
def test_only_a_scheduler_that_the_sampler_has_is_taken_off_its_name():
    for name in ("DPM++ 2M", "DPM++ 2M SDE Heun", "Euler a", "Euler", "Restart", "not known Karras"):
        assert samplers.without_scheduler(name) == name
    assert samplers.without_scheduler("DPM++ 2M SDE Heun Exponential") == "DPM++ 2M SDE Heun"


@pytest.mark.parametrize(("steps", "made"), [(30, 31), (60, 63), (150, 167)])
def test_the_evaluations_follow_the_scheduler(steps, made):
    assert samplers.evaluations("Euler", steps, img2img=False, scheduler="DDIM") == made
    assert samplers.evaluations("Euler", steps, img2img=False, scheduler="Karras") == steps


def test_a_sampler_without_noise_levels_follows_no_scheduler():
    assert samplers.evaluations("DPM fast", 30, img2img=False, scheduler="DDIM") == 30


def test_the_last_step_of_two_stages_has_two_evaluations_unless_it_goes_to_no_noise():
    assert samplers.evaluations("Heun", 20, img2img=False, scheduler="KL Optimal") == 40
    assert samplers.evaluations("Heun", 20, img2img=False) == 39


def test_a_sampler_that_walks_noise_levels_on_one_host_and_timesteps_on_another(monkeypatch):
    """Forge Neo's UniPC does the first."""
    assert samplers.evaluations("UniPC", 24, img2img=True) == 23
    config = sd_samplers_common.SamplerData("UniPC", None, [], {"discard_next_to_last_sigma": True})
    monkeypatch.setitem(sd_samplers.all_samplers_map, "UniPC", config)
    assert samplers.evaluations("UniPC", 24, img2img=True) == 24


def test_restart_makes_steps_of_its_own():
    assert samplers.evaluations("Restart", 20, img2img=False, scheduler="KL Optimal") == 39
    assert samplers.evaluations("Restart", 30, img2img=False, scheduler="DDIM") == 61


def test_nobody_knows_the_evaluations_of_a_sampler_that_decides_itself():
    assert samplers.decides_itself("DPM adaptive")
    assert samplers.evaluations("DPM adaptive", 20, img2img=False) is None


@pytest.fixture
def silent(monkeypatch):
    """Return the samplers of a host that tells of Euler only how often it evaluates."""
    config = sd_samplers_common.SamplerData("SEEDS 2", None, [], {})
    monkeypatch.setitem(sd_samplers.all_samplers_map, "SEEDS 2", config)
    return Samplers(frozenset({"Euler"}))


AS_MANY = {"img2img": False, "scheduler": "Karras"}
TWO_STAGES = SamplerRun((10.0, 5.0, 5.0, 2.0, 2.0), None)


def test_what_a_silent_sampler_answered_is_shown_before_the_next_run_like_it(silent):
    assert silent.evaluations("SEEDS 2", 3, **AS_MANY) is None
    assert silent.kind("SEEDS 2") == SamplerKind()
    silent.remember(TWO_STAGES, "SEEDS 2", 3, **AS_MANY)
    assert silent.evaluations("SEEDS 2", 3, **AS_MANY) == 5
    assert silent.kind("SEEDS 2") == SamplerKind(stages=2)
    assert silent.evaluations("SEEDS 2", 4, **AS_MANY) is None
    assert silent.evaluations("SEEDS 2", 3, img2img=True, scheduler="Karras") is None
    assert silent.evaluations("SEEDS 2", 3, img2img=False) is None
    assert not silent.tells("SEEDS 2")


def test_what_the_name_tells_is_not_taken_from_an_answer(silent):
    silent.remember(TWO_STAGES, "Euler", 3, **AS_MANY)
    assert silent.evaluations("Euler", 3, **AS_MANY) == 3
    assert silent.kind("Euler") == SamplerKind(pays_back=True)


def test_a_sampler_that_answered_that_it_decides_itself_is_known_to(silent):
    assert not silent.decides_itself("SEEDS 2")
    silent.remember(SamplerRun((10.0, 5.0), None, decides_itself=True), "SEEDS 2", 3, **AS_MANY)
    assert silent.decides_itself("SEEDS 2")
    assert silent.evaluations("SEEDS 2", 3, **AS_MANY) is None


def launched(run, function=print):
    sampler = sd_samplers_common.Sampler(function)
    return Launched(sampler, run)


def closure(**extra_params_kwargs):
    """Return what the host launches: a function of no arguments around the sampler's."""
    return lambda: extra_params_kwargs


def test_a_run_shows_what_its_sampler_is_called_with():
    one, other = launched(closure(sigmas=torch.ones(3), eta=1.0)), launched(closure(eta=1.0, sigmas=torch.ones(3)))
    assert one.can_be_asked
    assert one.key() == other.key()
    assert one.key() != launched(closure(sigmas=torch.ones(4), eta=1.0)).key()
    assert one.key() != launched(closure(sigmas=torch.ones(3), eta=0.5)).key()
    assert one.key() != launched(closure(sigmas=torch.ones(3), eta=1.0), max).key()


@pytest.mark.parametrize(
    "run",
    [lambda: None, functools.partial(print), print, "no function"],
    ids=["a closure of nothing", "a partial", "a built-in", "no function"],
)
def test_a_run_that_shows_nothing_is_not_asked(run):
    assert not launched(run).can_be_asked
    with pytest.raises(UnansweredError, match="the host does not show how it is called"):
        launched(run).ask(None)


@pytest.mark.parametrize(
    ("asked", "first", "second"),
    [
        ({}, "", ""),
        ({"scheduler": "Karras"}, "Karras", "Karras"),
        ({"scheduler": "Karras", "hr_scheduler": None}, "Karras", "Karras"),
        ({"scheduler": "Karras", "hr_scheduler": "DDIM"}, "Karras", "DDIM"),
        ({"scheduler": None, "hr_scheduler": "DDIM"}, "", "DDIM"),
    ],
)
def test_hires_fix_has_the_first_passs_scheduler_unless_it_has_one_of_its_own(asked, first, second):
    p = SimpleNamespace(**asked)
    assert (scheduler_of(p, hires=False), scheduler_of(p, hires=True)) == (first, second)


def test_a_scheduler_is_known_by_its_label_where_the_host_has_a_table(monkeypatch):
    p = SimpleNamespace(scheduler="kl_optimal", hr_scheduler="unknown")
    assert scheduler_of(p, hires=False) == "kl_optimal"
    table = {"kl_optimal": SimpleNamespace(name="kl_optimal", label="KL Optimal")}
    monkeypatch.setitem(sys.modules, "modules.sd_schedulers", SimpleNamespace(schedulers_map=table))
    assert (scheduler_of(p, hires=False), scheduler_of(p, hires=True)) == ("KL Optimal", "unknown")
