"""Runs that are noisier than their sampler's name, runs that jump, and speeds that cannot be had."""

import functools
from dataclasses import replace
from unittest import mock

import pytest
import torch

from bench.parts import runs
from bench.parts.host_samplers import HOST_SAMPLERS
from bench.parts.runs import Task
from deepcache_ext import Action, SamplerKind, SamplingPass, Schedule, Settings
from demo.pictures import psnr
from demo.samplers import Sampler
from demo.tiny_model import TinyModel

PICTURES = 6


@pytest.fixture(scope="module")
def model():
    return TinyModel()


@functools.cache
def closeness(model, name, settings, kind=None, *, asks=True):
    """Return the mean PSNR in dB to the uncached pictures, the run cached as `kind` if not as the sampler's own."""
    sampler = HOST_SAMPLERS.get(name) or runs.ALL_SAMPLERS[name]
    task = Task(model, "tested", PICTURES, PICTURES, 3.0)
    with mock.patch.dict(runs.ALL_SAMPLERS, {"tested": replace(sampler, kind=kind or sampler.kind)}):
        return float(psnr(task.run(20, settings, asks=asks).pictures, uncached(model, name)).mean())


@functools.cache
def uncached(model, name):
    sampler = HOST_SAMPLERS.get(name) or runs.ALL_SAMPLERS[name]
    return sampler.sample(model, model.prompts(PICTURES), 20, guidance=3.0, seed=Task.seed)


def auto(speed_up=2.0, **changes):
    return Settings(schedule="auto", speed_up=speed_up, depth=changes.pop("depth", 0), **changes)


@pytest.mark.parametrize("name", ["LCM", "Euler, churn 5", "Heun, churn 20", "DDIM, eta 1"])
def test_a_run_that_adds_noise_is_closer_as_what_it_is(model, name):
    quiet = replace(HOST_SAMPLERS[name].kind, noisy=False)
    alone = auto(correction="off")  # which would put right much of what the wrong kind costs
    gain = closeness(model, name, alone) - closeness(model, name, alone, quiet)
    assert gain > 2.0


def test_a_rise_of_the_noise_is_made_in_full(model):
    blind = replace(HOST_SAMPLERS["Restart"].kind, jumps=False)
    unasked = closeness(model, "Restart", auto(1.5), asks=False)
    assert unasked - closeness(model, "Restart", auto(1.5), blind, asks=False) > 8.0
    assert closeness(model, "Restart", auto(1.5)) > unasked - 1.0  # by its answer, without a look at the levels


def test_only_a_rise_of_the_noise_is_made_in_full(model):
    levels = [9.0, 5.0, 5.0, 6.0, 4.0, 3.0, 3.0]
    jumping = SamplerKind(jumps=True)
    with SamplingPass(model.unet, Settings(interval=4), len(levels), sampler=jumping) as run:
        found = []
        for level in levels:
            found.append(run.start_evaluation(noise=torch.full((2,), level)))
            model.unet(torch.randn(2, 3, 32, 32), torch.full((2,), 100.0), context=torch.zeros(2, 4, 64))
    planned = [Action.REFRESH, Action.REUSE, Action.REUSE, Action.REFRESH, Action.REFRESH, Action.REUSE, Action.REUSE]
    assert found == planned
    assert run.statistics.full == 3


def test_nothing_is_read_where_the_noise_never_rises(model):
    class Unreadable:
        def max(self):
            raise AssertionError("the noise level was read")

    with SamplingPass(model.unet, Settings(), 3) as run:
        run.start_evaluation(noise=Unreadable())


@pytest.mark.parametrize("change", [{"start": 0.3}, {"start": 0.5}, {"end": 0.8}, {"end": 0.5}], ids=str)
def test_a_window_makes_it_slower_and_closer(model, change):
    settings = auto(2.0, **change)
    assert full(Schedule(settings, 20)) > full(Schedule(auto(2.0), 20))
    assert closeness(model, "Euler", settings) > closeness(model, "Euler", auto(2.0)) - 1.0


def full(schedule):
    return sum(action is not Action.REUSE for action in schedule.actions())


@pytest.mark.parametrize(("depth", "cost"), [(4, 0.47), (7, 0.82)])
def test_a_speed_that_a_depth_rules_out_is_not_aimed_at(depth, cost):
    schedule = Schedule(auto(2.0, depth=depth), 20, reuse=cost)
    reused = [action is Action.REUSE for action in schedule.actions()]
    longest = max(len(part) for part in "".join("r" if r else " " for r in reused).split())
    assert longest <= 4
    assert schedule.shortfall.startswith(f"2x is out of reach at depth {depth}, about ")
    assert not Schedule(auto(2.0), 20, reuse=0.0).shortfall
    assert not Schedule(auto(2.0, end=0.5), 20, reuse=0.0).shortfall


def test_the_depth_that_is_in_force_is_named_where_a_speed_is_out_of_reach():
    schedule = Schedule(auto(4.0, depth=0), 20, SamplerKind(noisy=True), reuse=0.14)
    assert "out of reach at depth 1" in schedule.shortfall


def test_a_depth_that_rules_a_speed_out_keeps_the_picture(model):
    found = [closeness(model, "Euler", auto(2.0, depth=depth)) for depth in (4, 7)]
    assert min(found) > 20


@pytest.mark.parametrize("reuse", [1, 1.5, float("nan"), float("inf"), -0.1])
def test_a_cost_that_is_none_is_refused(reuse):
    with pytest.raises(
        ValueError, match=r"^reuse must be a number from 0 to below 1, a part of a full evaluation; got "
    ):
        Schedule(auto(), 20, reuse=reuse)


def test_the_host_s_samplers_make_their_evaluations(model):
    for name, sampler in HOST_SAMPLERS.items():
        calls = []

        def count(denoiser, calls=calls):
            return lambda *args, **kwargs: calls.append(1) or denoiser(*args, **kwargs)

        sampler.sample(model, model.prompts(1), 20, wrap=count)
        assert len(calls) == sampler.evaluations(20), name
        assert isinstance(sampler, Sampler) or name.startswith("DDIM")
