"""Runs of the host's samplers are asked what they will do, on the stand-in."""

import dataclasses

import pytest
import torch
from modules import sd_models, sd_samplers_common, shared

from deepcache_ext import Action, Schedule
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.hosts.dry_runs import Launched
from deepcache_ext.webui.hosts.samplers import Samplers
from deepcache_ext.webui.options import given, resolved
from deepcache_ext.webui.plan import reuse_cost
from demo.k_diffusion_parts import sampling
from demo.samplers import SAMPLERS
from tests.webui.support import FUNCTIONS, ON, Denoiser, Processing, job, origins, sample


@pytest.fixture
def asked(monkeypatch):
    """Return the list of dry runs, to which each one is added."""
    made, ask = [], Launched.ask

    def noted(launched, unet):
        made.append(launched)
        return ask(launched, unet)

    monkeypatch.setattr(Launched, "ask", noted)
    return made


@pytest.mark.parametrize(
    "arguments",
    [False, ON | {"interval": 1}, ON | {"schedule": "auto", "speed_up": 1.0}, ON | {"enabled": False}],
)
def test_nothing_is_asked_where_nothing_is_reused(controller, asked, arguments):
    job(controller, Processing(), arguments)
    assert asked == []


def test_a_job_asks_once_for_all_of_its_pictures(controller, asked):
    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [ON])
    for _ in range(3):
        sample(p)
    sample(p, steps=7)
    controller.end_job(p)
    assert len(asked) == 2
    assert [done.planned for done in controller.last_report.passes] == [6, 6, 6, 7]
    job(controller, Processing(), ON)
    assert len(asked) == 3


def test_a_sampler_of_which_the_host_tells_nothing_has_a_plan_in_its_first_run(controller, monkeypatch):
    monkeypatch.setattr(host, "samplers", Samplers(frozenset()))
    found = []
    for _ in range(2):
        answers = job(controller, Processing(), {"enabled": True, "schedule": "auto", "speed_up": 2.0, "depth": 1})
        (done,) = controller.last_report.passes
        found.append((done.planned, done.plan, origins(answers)))
    assert found[0] == found[1]
    assert found[0][0] == 6
    assert found[0][1]


@pytest.mark.parametrize(
    ("registered", "what_it_is", "function", "planned"),
    [
        ("Euler", "Heun", sampling.sample_heun, 23),
        ("Heun", "Euler", sampling.sample_euler, 12),
        ("Euler", "DPM++ 2M", sampling.sample_dpmpp_2m, 12),
    ],
)
def test_a_run_is_planned_as_what_it_is_whatever_its_name(controller, registered, what_it_is, function, planned):
    """Another extension has registered a sampler under the name."""
    found = []
    for name in (registered, what_it_is):
        job(controller, Processing(), {"enabled": True, "preset": "Balanced"}, steps=12, name=name, function=function)
        (done,) = controller.last_report.passes
        found.append((done.planned, done.plan, done.statistics.full))
    kind = dataclasses.replace(SAMPLERS[what_it_is].kind, pays_back=what_it_is != "Heun")
    settings = resolved(given([True, "Balanced"]), "SD1").base
    schedule = Schedule(settings, planned, kind, reuse_cost(settings.depth, "SD1"))
    full = sum(action is not Action.REUSE for action in schedule.actions())
    assert found == [(planned, found[0][1], full)] * 2


def test_a_run_that_decides_itself_is_left_alone_by_presets_whatever_its_name(controller):
    job(controller, Processing(), {"enabled": True, "preset": "Fast"}, steps=20, function=FUNCTIONS["DPM adaptive"])
    (done,) = controller.last_report.passes
    assert done.reason.startswith("this sampler decides itself how often it evaluates")
    assert done.planned is None


def test_a_sampler_that_calls_the_network_itself_is_planned_as_one_that_nobody_knows(controller, caplog):
    def sample_past_the_denoiser(model, x, sigmas, **_more):
        for sigma in sigmas[:-1]:
            sd_models.model_data.sd_model.model.diffusion_model(torch.zeros(2, 2, 8, 8), torch.ones(2))
            x = model(x, sigma * x.new_ones(len(x)))
        return x

    caplog.set_level("INFO", "deepcache")
    job(controller, Processing(), {"enabled": True, "preset": "Balanced"}, function=sample_past_the_denoiser, steps=12)
    (done,) = controller.last_report.passes
    assert done.planned is None
    assert "what Euler will do is not known beforehand: it calls the network by itself" in caplog.text


def test_a_dry_run_leaves_the_sampler_as_it_was(controller):
    """What a sampler sets on its denoiser, takes from it, or puts into its arguments stays in the dry run."""
    seen = []

    def sample_with_a_mask(model, x, sigmas, extra_args=None, **more):
        seen.append((dict(extra_args), vars(model).get("mask"), hasattr(model, "init_latent")))
        extra_args["mine"] = 1
        model.mask = "half"
        if isinstance(model, Denoiser):
            del model.mask
        else:
            del model.init_latent
        return sampling.sample_euler(lambda *args, **_: model(*args), x, sigmas, **more)

    states = []
    for on in (False, ON):
        torch.manual_seed(1)
        job(controller, Processing(), on, function=sample_with_a_mask)
        states.append(torch.get_rng_state())
    assert seen == [({"s_min_uncond": 0}, None, True)] * 4  # two of them in the dry run
    assert torch.equal(*states)


def test_a_sampler_that_looks_at_the_unconds_by_a_function_of_its_own_is_asked_too():
    """As reForge's CFG++ samplers do; the functions of others are not called."""
    called = []

    def sample_with_unconds(model, x, sigmas, extra_args=None, **_more):
        unconds = []

        def note(outputs):
            unconds.append(outputs["uncond_denoised"])
            return outputs["denoised"]

        functions = extra_args.get("model_options", {}).get("sampler_post_cfg_function", [])
        extra_args["model_options"] = {"sampler_post_cfg_function": [*functions, note]}
        for sigma in sigmas[:-1]:
            made = model(x, sigma * x.new_ones(len(x)), **extra_args)
            x = made - 0.1 * (unconds[-1])
        return x

    sampler = sd_samplers_common.Sampler(sample_with_unconds)
    sampler.sampler_extra_args = {"model_options": {"sampler_post_cfg_function": [called.append]}}
    extra_params_kwargs = {"sigmas": torch.linspace(10, 0, 7)}
    run = Launched(sampler, lambda: extra_params_kwargs).ask(None)
    assert run.evaluations == 6
    assert not run.guided
    assert called == []
    assert sampler.sampler_extra_args == {"model_options": {"sampler_post_cfg_function": [called.append]}}
