"""A pass under real samplers on a trained model."""

import logging
import weakref

import pytest
import torch

from bench.parts.runs import ALL_SAMPLERS
from deepcache_ext import Action, NoiseLevels, SamplerKind, SamplingPass, Settings
from deepcache_ext.features.forecast import ITERATIONS_WITH_NOISE, Held, Line, LineAndResponse, Response
from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.settling import times_of
from demo.k_diffusion_parts import sampling
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel
from tests.unit.unets import TaggedUNet, state_of

STEPS = 5


@pytest.fixture(scope="module")
def model():
    return TinyModel()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_makes_the_planned_evaluations_and_the_same_picture_twice(model, name):
    sampler = SAMPLERS[name]
    prompts = model.prompts(2)
    pictures = []
    for _ in range(2):
        with SamplingPass(model.unet, Settings(interval=2), sampler.evaluations(STEPS), sampler=sampler.kind) as run:
            pictures.append(sampler.sample(model, prompts, STEPS, wrap=run.wrap))
        planned = [action.value for action in run.schedule.actions()]
        assert run.statistics.reused == planned.count("reuse")
        assert run.statistics.full == len(planned) - planned.count("reuse")
        assert run.statistics.missed == 0
    assert torch.equal(*pictures)


def test_interval_one_gives_the_identical_picture(model):
    sampler, prompts = SAMPLERS["Euler a"], model.prompts(2)
    with SamplingPass(model.unet, Settings(interval=1)) as run:
        cached = sampler.sample(model, prompts, STEPS, wrap=run.wrap)
    assert torch.equal(cached, sampler.sample(model, prompts, STEPS))


def test_a_sampler_that_nobody_knows_the_evaluations_of(model):
    x = model.noise(1, 1) * model.sigma_range()[1]
    with SamplingPass(model.unet, Settings(interval=3)) as run, torch.no_grad():
        denoiser = run.wrap(model.denoiser(model.prompts(1), 2.0))
        sampling.sample_dpm_adaptive(denoiser, x, *model.sigma_range(), rtol=1.0, disable=True)
    total = run.statistics.full + run.statistics.reused
    assert total > 3
    assert run.statistics.full == -(-total // 3)


def test_nothing_is_left_on_the_model_or_kept_after_a_pass(model):
    before = state_of(model)
    with SamplingPass(model, Settings(interval=2, depth=3)) as run:
        SAMPLERS["Euler"].sample(model, model.prompts(1), 2, wrap=run.wrap)
        assert run.unet is model.unet
    assert state_of(model) == before
    assert run.kept_bytes == 0


def test_memory_is_released_where_the_window_ends():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=2, end=0.5), total=4) as run:
        held = []
        for _ in range(4):
            run.start_evaluation()
            unet(torch.zeros(1, 2, 4, 4))
            held.append(run.kept_bytes > 0)
    assert held == [True, True, False, False]


def test_calls_before_the_first_evaluation_are_untouched():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=2)) as run:
        unet(torch.zeros(1, 2, 4, 4))
        assert run.kept_bytes == run.statistics.calls_full == 0


def test_an_evaluation_with_one_call_in_full_counts_as_full():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=3)) as run:
        for sizes in ((4, 4), (4, 6), (4, 4)):
            run.start_evaluation()
            for size in sizes:
                unet(torch.zeros(1, 2, size, size))
    s = run.statistics
    assert (s.full, s.reused, s.calls_full, s.calls_reused, s.missed) == (3, 0, 4, 2, 2)


def test_an_error_of_ours_stops_caching_is_reported_once_and_spares_the_picture(monkeypatch, caplog):
    unet = TaggedUNet()
    before = state_of(unet)
    x = torch.ones(1, 2, 4, 4)
    untouched = unet(x)

    def out_of_memory(*_):
        raise MemoryError("no room for the feature")

    monkeypatch.setattr("deepcache_ext.features.store.RowStore.take", out_of_memory)
    run = SamplingPass(unet, Settings(interval=2)).install()
    with caplog.at_level(logging.WARNING, "deepcache"):
        for _ in range(4):
            run.start_evaluation()
            assert torch.equal(unet(x), untouched)
    assert run.statistics.error == "caching stopped at an error, MemoryError: no room for the feature"
    assert [record.name for record in caplog.records] == ["deepcache"]
    assert state_of(unet) == before


def test_a_feature_that_can_not_be_kept_spares_the_picture(monkeypatch):
    unet = TaggedUNet()
    x = torch.ones(1, 2, 4, 4)
    untouched = unet(x)

    def out_of_memory(*_):
        raise torch.cuda.OutOfMemoryError("no room for the feature")

    with SamplingPass(unet, Settings(interval=2)) as run:
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "clone", out_of_memory)
            run.start_evaluation()
            assert torch.equal(unet(x), untouched)
        run.start_evaluation()
        assert torch.equal(unet(x), untouched)
    assert "no room for the feature" in run.statistics.error


def test_the_hosts_exceptions_pass_through():
    unet = TaggedUNet()
    unet.output_blocks[0].register_forward_hook(lambda *_: torch.zeros(1, 2, 3, 3))
    with SamplingPass(unet, Settings(interval=2)) as run:
        run.start_evaluation()
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            unet(torch.zeros(1, 2, 4, 4))
    assert run.statistics.error == ""


def test_a_pass_can_be_used_again_from_the_start():
    unet = TaggedUNet()
    run = SamplingPass(unet, Settings(interval=2, end=0.5), total=4)
    for _ in range(2):
        with run:
            for _ in range(4):
                run.start_evaluation()
                unet(torch.zeros(1, 2, 4, 4))
        assert (run.statistics.full, run.statistics.reused, run.statistics.missed) == (3, 1, 0)


@pytest.mark.parametrize("total", [0, -1, float("nan"), "twenty", [20]])
def test_a_bad_total_is_answered_with_one_sentence(total):
    with pytest.raises(ValueError, match=r"^total must be a whole number from 1 to 10000, or None if unknown; got "):
        SamplingPass(TaggedUNet(), Settings(), total)


@pytest.mark.parametrize("stages", [0, 3, 1.5, None])
def test_bad_stages_are_answered_with_one_sentence(stages):
    with pytest.raises(ValueError, match=r"^stages must be a whole number from 1 to 2; got "):
        SamplerKind(stages=stages)


def test_a_bad_view_is_answered_with_one_sentence():
    with pytest.raises(ValueError, match=r"^view must be one of auto, compact, full-length; got 'fulllength'"):
        SamplingPass(TaggedUNet(), Settings(), view="fulllength")


def test_it_shows_what_it_does(model):
    run = SamplingPass(model.unet, Settings(interval=2))
    assert "interval=2" in repr(run)
    assert "full=0" in repr(run)


def test_a_refresh_that_is_due_in_a_partial_evaluation_is_made_by_the_next_one():
    unet = TaggedUNet()
    origins = []
    with SamplingPass(unet, Settings(interval=3), 9) as run:
        for step in range(9):
            partial = step in {3, 4, 6}
            run.start_evaluation(partial=partial)
            x = torch.full((1 if partial else 2, 2, 4, 4), float(step))
            origins.append(int(unet(x)[0, 0, 0, 0]))
    assert origins == [0, 0, 0, 0, 0, 5, 5, 7, 7]
    assert run.statistics.missed == 0


def test_a_partial_evaluation_with_nothing_kept_refreshes():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=3), 9) as run:
        run.start_evaluation(partial=True)
        assert int(unet(torch.zeros(1, 2, 4, 4))[0, 0, 0, 0]) == 0
    assert run.statistics.full == 1


def test_the_evaluation_after_one_that_began_a_second_call_refreshes():
    unet = TaggedUNet()
    origins = []
    with SamplingPass(unet, Settings(interval=6), 12) as run:
        for step in range(12):
            run.start_evaluation()
            x = torch.full((1, 2, 4, 4), float(step))
            calls = 2 if step in {2, 3, 8, 10} else 1
            origins.append([int(unet(x)[0, 0, 0, 0]) for _ in range(calls)])
    assert origins == [[0], [0], [0, 2], [3, 3], [3], [3], [6], [6], [6, 8], [6], [6, 8], [6]]


@pytest.mark.parametrize(
    ("noisy", "stages", "usual"),
    [(False, 1, "line"), (False, 2, "response"), (True, 1, "quick response"), (True, 2, "held")],
    ids=["one stage", "two stages", "noise", "noise and two stages"],
)
def test_what_a_feature_has_become_depends_on_what_moves_the_input(model, noisy, stages, usual):
    def outputs(predictor):
        found = []
        settings = Settings(schedule="list", steps=(0, 1, 2))
        with SamplingPass(model.unet, settings, 5, sampler=SamplerKind(stages, noisy), predictor=predictor) as run:
            for step in range(5):
                run.start_evaluation()
                with torch.no_grad():
                    x, times = model.noise(1, seed=step), torch.full((1,), 900 - 100 * step)
                    found.append(model.unet(x, times, context=model.context(model.prompts(1))))
        return torch.cat(found)

    found, kinds = outputs(None), {"held": Held(), "line": Line(), "response": LineAndResponse()}
    kinds["quick response"] = LineAndResponse(ITERATIONS_WITH_NOISE)
    assert [name for name, kind in kinds.items() if torch.equal(outputs(kind), found)] == [usual]


@pytest.mark.parametrize(("prediction", "usual"), [("eps", Response), ("v", LineAndResponse)])
def test_where_noise_is_added_a_network_that_predicts_it_has_no_line(model, prediction, usual):
    levels = NoiseLevels(model.alphas_cumprod, prediction)
    run = SamplingPass(model.unet, Settings(), 5, sampler=SamplerKind(noisy=True), levels=levels)
    assert type(run._predictor) is usual


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DDIM", "Heun", "UniPC"])
def test_a_run_that_was_asked_knows_the_timesteps_before_they_come(model, sampler):
    found = []
    hook = model.unet.register_forward_pre_hook(lambda _unet, args: found.append(float(args[1][0])))
    try:
        ALL_SAMPLERS[sampler].sample(model, model.prompts(1), 8)
    finally:
        hook.remove()
    known = times_of(ALL_SAMPLERS[sampler].ask(model, 8), model.levels)
    assert known == pytest.approx(found, abs=0.01)


def test_a_removed_pass_holds_no_tensor():
    unet = TaggedUNet()
    inputs = []
    with SamplingPass(unet, Settings(interval=2)) as run:
        for _ in range(3):
            run.start_evaluation()
            x = torch.zeros(1, 2, 4, 4)
            inputs.append(weakref.ref(x))
            unet(x)
    del x
    assert [tensor() for tensor in inputs] == [None] * 3
    assert run.statistics.reused == 1


@pytest.mark.parametrize("settings", [Settings(interval=3), Settings(schedule="auto", speed_up=2.5, depth=0)], ids=str)
def test_a_picture_is_the_same_alone_and_among_others(model, settings):
    prompts = model.prompts(3)

    def made(of):
        with SamplingPass(model.unet, settings, 12) as run:
            return SAMPLERS["DPM++ 2M"].sample(model, of, 12, wrap=run.wrap)

    assert torch.allclose(made(prompts)[:1], made(prompts[:1]), atol=1e-3)


def test_where_only_blocks_can_follow_depth_0_counts_as_1():
    deepest = []
    for depth, noisy, forecast in ((0, False, "on"), (0, True, "on"), (0, False, "off"), (1, True, "on")):
        unet = TaggedUNet()
        ran = []
        # a hook of others would be a memory
        OwnHooks(unet.output_blocks[-1]).add_after(lambda *_args, ran=ran: ran.append(1))
        chosen = Settings(interval=2, depth=depth, forecast=forecast)
        with SamplingPass(unet, chosen, 4, sampler=SamplerKind(noisy=noisy)) as run:
            for _ in range(4):
                run.start_evaluation()
                unet(torch.zeros(1, 2, 4, 4))
        deepest.append((run.depth, len(ran)))
        assert (run.statistics.full, run.statistics.reused) == (2, 2)
    assert deepest == [(0, 2), (1, 4), (1, 4), (1, 4)]


def test_at_depth_0_auto_spends_what_a_reuse_would_cost_on_full_evaluations(model):
    counts = {}
    for depth in (0, 1):
        with SamplingPass(model.unet, Settings(schedule="auto", speed_up=2.0, depth=depth), 20) as run:
            counts[depth] = sum(action is not Action.REUSE for action in run.schedule.actions())
    assert counts == {0: 10, 1: 9}
