"""What the host tells of its samplers and of one run of one."""

import functools

import pytest
import torch
from modules import sd_samplers, sd_samplers_common, shared

from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.samplers import Samplers

samplers = host.samplers
AS_MANY = {"img2img": False, "scheduler": "Karras"}


def launched(**extra_params_kwargs):
    """Return what the host launches: a function of no arguments around the sampler's."""
    return lambda: extra_params_kwargs


def test_a_run_shows_what_its_sampler_is_called_with():
    assert samplers.arguments_of(launched(s_churn=5.0)) == {"s_churn": 5.0}


@pytest.mark.parametrize(
    "run",
    [lambda: None, functools.partial(print), print, "no function"],
    ids=["a closure of nothing", "a partial", "a built-in", "no function"],
)
def test_a_run_that_shows_nothing_has_no_arguments(run):
    assert samplers.arguments_of(run) == {}


def sample_with_noise(model, x, sigmas, noise_sampler=None):
    """A sampler of another extension."""


@pytest.mark.parametrize(
    ("name", "arguments", "function", "noisy"),
    [
        ("Euler", {}, None, False),
        ("Euler", {"s_churn": 0.0}, None, False),
        ("Euler", {"s_churn": 5.0}, None, True),
        ("DDIM", {"eta": 0.0}, None, False),
        ("DDIM", {"eta": 0.5}, None, True),
        ("Euler a", {}, None, True),
        ("Euler a", {"eta": 0.0}, None, False),
        ("LCM", {"sigmas": torch.ones(3)}, None, True),
        ("DPM fast", {"eta": 1.0}, None, True),
        ("of another extension", {"sigmas": torch.ones(3)}, sample_with_noise, True),
        ("DPM++ 2M", {"sigmas": torch.ones(3)}, None, False),
    ],
)
def test_a_run_adds_noise_if_it_is_told_to(name, arguments, function, noisy):
    assert samplers.kind(name, arguments, function).noisy is noisy


def test_a_run_that_has_not_begun_is_judged_by_the_hosts_settings(monkeypatch):
    assert not samplers.kind("DDIM").noisy
    monkeypatch.setattr(shared.opts, "eta_ddim", 0.4, raising=False)
    monkeypatch.setattr(shared.opts, "s_churn", 3.0, raising=False)
    monkeypatch.setattr(shared.opts, "eta_ancestral", 0.0, raising=False)
    assert samplers.kind("DDIM").noisy
    assert samplers.kind("Euler").noisy
    assert not samplers.kind("Euler a").noisy
    assert not samplers.kind("DPM++ 2M").noisy


def test_only_functions_that_may_go_back_up_in_noise_are_watched():
    assert samplers.kind("Restart", {}, sample_with_noise).jumps
    monotone = type("Function", (), {"__module__": "k_diffusion.sampling", "__call__": lambda _self: None})()
    assert not samplers.kind("Euler", {}, monotone).jumps
    assert not samplers.kind("Euler").jumps


def test_samplers_that_extrapolate():
    found = {name for name in sd_samplers.all_samplers_map if samplers.kind(name).extrapolates}
    assert found == {"DPM++ 2M", "LMS"}


@pytest.mark.parametrize(("steps", "made"), [(30, 31), (60, 63), (150, 167)])
def test_the_evaluations_follow_the_scheduler(steps, made):
    assert samplers.evaluations("Euler", steps, img2img=False, scheduler="DDIM") == made
    assert samplers.evaluations("Euler", steps, img2img=False, scheduler="Karras") == steps
    sigmas = torch.linspace(10, 0, made + 1)
    assert samplers.evaluations("Euler", steps, img2img=False, arguments={"sigmas": sigmas}) == made


def test_a_sampler_without_noise_levels_follows_no_scheduler():
    assert samplers.evaluations("DPM fast", 30, img2img=False, scheduler="DDIM") == 30


def test_the_last_step_of_two_stages_has_two_evaluations_unless_it_goes_to_no_noise():
    to_none, above = torch.linspace(10, 0, 21), torch.linspace(10, 0.03, 21)
    assert samplers.evaluations("Heun", 20, img2img=False, arguments={"sigmas": to_none}) == 39
    assert samplers.evaluations("Heun", 20, img2img=False, arguments={"sigmas": above}) == 40
    assert samplers.evaluations("Heun", 20, img2img=False, scheduler="KL Optimal") == 40
    assert samplers.evaluations("Heun", 20, img2img=False) == 39


def test_a_run_with_timesteps_is_as_long_as_its_list():
    timesteps = torch.arange(25)
    found = {name: samplers.evaluations(name, 20, img2img=True, arguments={"timesteps": timesteps}) for name in _LISTS}
    assert found == {"DDIM": 24, "PLMS": 25, "UniPC": 25}


_LISTS = ("DDIM", "PLMS", "UniPC")


def test_a_sampler_that_walks_noise_levels_on_one_host_and_timesteps_on_another(monkeypatch):
    """Forge Neo's UniPC does the first."""
    config = sd_samplers_common.SamplerData("UniPC", None, [], {"discard_next_to_last_sigma": True})
    monkeypatch.setitem(sd_samplers.all_samplers_map, "UniPC", config)
    sigmas = torch.linspace(10, 0, 25)
    assert samplers.evaluations("UniPC", 24, img2img=True, arguments={"sigmas": sigmas}) == 24
    assert samplers.evaluations("UniPC", 24, img2img=False) == 24


def test_restart_makes_steps_of_its_own():
    arguments = {"sigmas": torch.linspace(10, 0, 21)}
    assert samplers.evaluations("Restart", 20, img2img=False, arguments=arguments) == 39
    of_ddim = {"sigmas": torch.linspace(10, 0, 32)}
    for img2img in (False, True):
        assert samplers.evaluations("Restart", 30, img2img=img2img, arguments=of_ddim, scheduler="DDIM") == 61


def test_nobody_knows_the_evaluations_of_a_sampler_that_decides_itself():
    assert samplers.evaluations("DPM adaptive", 20, img2img=False) is None


@pytest.fixture
def silent(monkeypatch):
    """Return the samplers of a host that tells of Euler only how often it evaluates."""
    config = sd_samplers_common.SamplerData("SEEDS 2", None, [], {})
    monkeypatch.setitem(sd_samplers.all_samplers_map, "SEEDS 2", config)
    return Samplers(frozenset({"Euler"}))


def test_what_a_silent_sampler_makes_is_known_from_its_last_run_like_it(silent):
    assert silent.evaluations("SEEDS 2", 20, **AS_MANY) is None
    silent.count("SEEDS 2", 20, **AS_MANY, made=39)
    assert silent.evaluations("SEEDS 2", 20, **AS_MANY) == 39
    assert silent.evaluations("SEEDS 2", 21, **AS_MANY) is None
    assert silent.evaluations("SEEDS 2", 20, img2img=True, scheduler="Karras") is None
    assert silent.evaluations("SEEDS 2", 20, img2img=False) is None
    assert not silent.tells("SEEDS 2")


@pytest.mark.parametrize(("made", "stages"), [(19, 1), (20, 1), (39, 2), (40, 2), (57, 1), (22, 1)])
def test_two_evaluations_a_step_are_two_stages(silent, made, stages):
    silent.count("SEEDS 2", 20, **AS_MANY, made=made)
    assert silent.kind("SEEDS 2").stages == stages


def test_where_a_silent_sampler_makes_another_number_the_next_run_has_no_plan(silent):
    found = []
    for made in (39, 39, 41, 41):
        silent.count("SEEDS 2", 20, **AS_MANY, made=made)
        found.append(silent.evaluations("SEEDS 2", 20, **AS_MANY))
    assert found == [39, 39, None, 41]


def test_runs_of_few_steps_say_less_of_the_stages(silent):
    silent.count("SEEDS 2", 1, **AS_MANY, made=1)
    assert silent.kind("SEEDS 2").stages == 1
    silent.count("SEEDS 2", 20, **AS_MANY, made=39)
    silent.count("SEEDS 2", 2, **AS_MANY, made=5)
    assert silent.kind("SEEDS 2").stages == 2


def test_what_the_host_tells_is_not_counted(silent):
    silent.count("Euler", 20, **AS_MANY, made=7)
    silent.count("DPM adaptive", 20, **AS_MANY, made=7)
    assert silent.evaluations("Euler", 20, **AS_MANY) == 20
    assert silent.evaluations("DPM adaptive", 20, **AS_MANY) is None
