"""The host's jobs and passes, on the stand-in."""

import copy
import gc
from types import SimpleNamespace

import pytest
import torch
from modules import patches, processing, script_callbacks, sd_models, sd_samplers, sd_samplers_common, sd_unet, shared

from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.reports import NOT_USED
from tests.unit.unets import TaggedUNet, state_of
from tests.webui.support import (
    ON,
    NoUNet,
    Processing,
    full_and_reused,
    job,
    load_checkpoint,
    load_script,
    origins,
    sample,
)


class LatentUNet(TaggedUNet):
    """A TaggedUNet whose output has its input's channels."""

    def forward(self, x, timesteps=None):
        return super().forward(x, timesteps)[:, :2]


def test_a_job_is_cached_and_reported(controller, capsys):
    p = Processing()
    answers = job(controller, p, ON)
    assert origins(answers) == [0, 0, 0, 3, 3, 3]
    assert full_and_reused(controller) == [("txt2img", 2, 4)]
    assert p.extra_generation_params == {
        "DeepCache enabled": True,
        "DeepCache preset": "Custom",
        "DeepCache correction": "on",
    }
    assert p.comments == {}
    assert "DeepCache txt2img: 2 full and 4 reused evaluations in " in capsys.readouterr().out


def test_off_does_nothing(controller, capsys):
    before = state_of(sd_models.model_data.sd_model.model.diffusion_model)
    p = Processing()
    assert origins(job(controller, p, False)) == [0, 1, 2, 3, 4, 5]
    assert origins(job(controller, p, {"interval": 3})) == [0, 1, 2, 3, 4, 5]
    assert (p.extra_generation_params, p.comments, controller.last_report) == ({}, {}, None)
    assert capsys.readouterr().out == ""
    assert state_of(sd_models.model_data.sd_model.model.diffusion_model) == before


@pytest.mark.parametrize(
    ("sampler", "parameterization", "forecast", "drawn"),
    [
        ("Euler a", "eps", "on", True),
        ("Euler a", "v", "on", True),
        ("Euler a", "eps", "off", False),
        ("Euler a", "x0", "on", False),
        ("Euler", "eps", "on", False),
    ],
)
def test_with_added_noise_outputs_are_drawn_as_the_checkpoint_predicts(
    controller, sampler, parameterization, forecast, drawn
):
    load_checkpoint(unet=LatentUNet(), parameterization=parameterization)
    answers = job(controller, Processing(), ON | {"forecast": forecast}, name=sampler)
    if parameterization in {"eps", "v"}:
        assert host.noise_levels().prediction == parameterization
    assert (float(answers[1][0, 0, 0, 0]) % 1 > 0) == drawn


def test_a_checkpoint_that_changes_in_mid_run_brings_its_own_noise_levels(controller):
    def switch(step):
        if step == 3:
            load_checkpoint("another", LatentUNet(), parameterization="x0")

    load_checkpoint(unet=LatentUNet())
    answers = job(controller, Processing(), ON, name="Euler a", during=switch)
    assert [float(answer[0, 0, 0, 0]) % 1 > 0 for answer in answers] == [False, True, True, False, False, False]


def test_the_unet_is_as_before_after_a_pass(controller):
    unet = sd_models.model_data.sd_model.model.diffusion_model
    before = state_of(unet)
    job(controller, Processing(), ON)
    assert state_of(unet) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_pass_ends_with_the_exception_that_ends_the_sampling(controller, error):
    unet = sd_models.model_data.sd_model.model.diffusion_model
    before = state_of(unet)

    def fail(step):
        if step == 4:
            raise error

    with pytest.raises(error):
        job(controller, Processing(), ON, during=fail)
    assert state_of(unet) == before
    gc.collect()
    assert origins(job(controller, Processing(), ON)) == [0, 0, 0, 3, 3, 3]
    assert full_and_reused(controller) == [("txt2img", 2, 4)]


def test_a_result_that_the_device_failed_to_make_leaves_no_hooks(controller, monkeypatch, caplog):
    """A graphics card tells an error of its own where somebody waits for it."""

    def fail(_made):
        raise RuntimeError("CUDA error")

    unet = sd_models.model_data.sd_model.model.diffusion_model
    before = state_of(unet)
    monkeypatch.setattr("deepcache_ext.webui.passes._wait_for", fail)
    job(controller, Processing(), ON)
    assert state_of(unet) == before
    assert full_and_reused(controller) == [("txt2img", 2, 4)]
    assert "DeepCache could not report a pass" in caplog.text


def test_an_interrupted_pass_is_reported(controller):
    def interrupt(step):
        if step == 4:
            raise sd_samplers_common.InterruptedException

    job(controller, Processing(), ON, during=interrupt)
    assert full_and_reused(controller) == [("txt2img", 2, 2)]


@pytest.mark.parametrize(
    ("hires", "expected"),
    [
        ({}, [0, 0, 0, 3, 3, 3]),
        ({"hires_interval": 2}, [0, 0, 2, 2, 4, 4]),
        ({"hires": "off"}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_hires_pass_starts_anew_with_its_own_settings(controller, hires, expected):
    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [ON | hires])
    assert origins(sample(p)) == [0, 0, 0, 3, 3, 3]
    p.is_hr_pass = True
    assert origins(sample(p)) == expected
    controller.end_job(p)
    assert [done.name for done in controller.last_report.passes] == ["txt2img", "hires"]
    assert controller.last_report.passes[1].reason == (
        "switched off for this pass" if hires == {"hires": "off"} else ""
    )


@pytest.mark.parametrize(("own", "planned"), [(None, 12), ("Karras", 11)])
def test_the_hires_pass_is_planned_by_the_first_ones_scheduler_if_it_has_none(controller, own, planned):
    p = Processing()
    p.scheduler, p.hr_scheduler, p.is_hr_pass = "KL Optimal", own, True
    job(controller, p, ON | {"interval": 1}, name="Heun")
    (done,) = controller.last_report.passes
    assert (done.kind, done.inner, done.planned) == ("hires", False, planned)


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("inner_wanted", [True, False])
def test_inner_jobs_are_cached_if_wanted_whether_or_not_they_run_our_script(controller, inner_wanted, filtered):
    p, inner = Processing(), Processing(img2img=True)
    shared.state.begin()
    controller.begin_job(p, [ON | {"inner": inner_wanted}])
    sample(p)
    if not filtered:
        controller.begin_job(inner, [ON | {"inner": inner_wanted}])
    answers = sample(inner)
    if not filtered:
        controller.end_job(inner)
    assert origins(answers) == ([0, 0, 0, 3, 3, 3] if inner_wanted else [0, 1, 2, 3, 4, 5])
    assert origins(sample(p)) == [0, 0, 0, 3, 3, 3]
    controller.end_job(p)
    assert [done.name for done in controller.last_report.passes] == ["txt2img", "inner img2img", "txt2img"]


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_another_run_of_a_sampler_in_the_same_batch_is_an_inner_pass_planned_by_itself(controller, inner, copied):
    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [{"enabled": True, "preset": "Balanced", "steps": "0, 4", "inner": inner, "hires": "off"}])
    for p.iteration in range(2):
        assert origins(sample(p, steps=6)) == [0, 0, 0, 0, 4, 4]
        p.is_hr_pass = True
        sample(p, steps=12)
        p.is_hr_pass = False
        sample(copy.copy(p) if copied else p, steps=12)
    controller.end_job(p)
    passes = [(done.name, done.statistics.reused) for done in controller.last_report.passes]
    assert passes == [("txt2img", 4), ("hires", 0), ("inner txt2img", 6 * inner)] * 2
    assert controller.last_report.passes[2].reason == ("" if inner else "switched off for this pass")


def test_an_inner_job_without_deepcache_in_a_job_with_it_is_left_alone(controller):
    p, inner = Processing(), Processing(img2img=True)
    shared.state.begin()
    controller.begin_job(p, [ON])
    controller.begin_job(inner, [False])
    assert origins(sample(inner)) == [0, 1, 2, 3, 4, 5]
    controller.end_job(inner)
    controller.end_job(p)


def test_a_job_that_never_ended_is_not_taken_for_the_outer_one(controller):
    lost = Processing()
    shared.state.begin()
    controller.begin_job(lost, [ON])
    answers = job(controller, Processing(), ON | {"inner": False})
    assert origins(answers) == [0, 0, 0, 3, 3, 3]
    assert full_and_reused(controller) == [("txt2img", 2, 4)]


def test_another_checkpoint_in_mid_run_starts_from_its_own_features(controller):
    first = sd_models.model_data.sd_model.model.diffusion_model
    second = TaggedUNet()
    before = state_of(first), state_of(second)
    p = Processing()
    answers = job(
        controller, p, {"enabled": True, "interval": 6}, during=lambda step: step == 2 and load_checkpoint("b", second)
    )
    assert origins(answers) == [0, 0, 2, 2, 2, 2]
    assert (state_of(first), state_of(second)) == before
    assert full_and_reused(controller) == [("txt2img", 2, 4)]


def test_new_weights_in_the_same_unet_empty_the_store(controller):
    unet = sd_models.model_data.sd_model.model.diffusion_model
    answers = job(
        controller,
        Processing(),
        {"enabled": True, "interval": 6},
        during=lambda step: step == 2 and load_checkpoint("b", unet),
    )
    assert origins(answers) == [0, 0, 2, 2, 2, 2]


def test_another_checkpoint_without_a_unet_in_mid_run_ends_the_caching(controller):
    p = Processing()
    job(controller, p, ON, during=lambda step: step == 2 and load_checkpoint("sd3", NoUNet()))
    (comment,) = p.comments
    assert comment.startswith("DeepCache not used: since the checkpoint changed, NoUNet has no U-Net")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"interval": 0}, "interval must be a whole number from 1 to 50; got 0"),
        ({"depth": 9}, "depth must be a whole number from 0 to 2 for this U-Net; got 9"),
        ({"colour": 1}, "'colour' is no setting of DeepCache; its schema names them all"),
    ],
)
def test_with_a_bad_setting_the_picture_is_made_and_the_reason_told(controller, arguments, sentence):
    p = Processing()
    assert origins(job(controller, p, ON | arguments)) == [0, 1, 2, 3, 4, 5]
    (comment,) = p.comments
    assert comment.startswith(f"{NOT_USED}: {sentence}")
    assert p.extra_generation_params[NOT_USED].startswith(sentence)
    report = controller.last_report
    assert sentence in (report.passes[0].reason if report.passes else report.reason)


def test_a_model_without_a_unet_is_left_alone_with_a_reason(controller):
    load_checkpoint(unet=NoUNet())
    p = Processing()
    job(controller, p, ON)
    (comment,) = p.comments
    assert comment == (
        "DeepCache not used: NoUNet has no U-Net with input_blocks, middle_block and as many output_blocks; "
        "use a checkpoint of the SD1, SD2 or SDXL family."
    )


def test_a_unet_replaced_by_an_engine_is_left_alone_with_a_reason(controller, monkeypatch):
    monkeypatch.setattr(sd_unet, "current_unet", NoUNet())
    p = Processing()
    assert origins(job(controller, p, ON)) == [0, 1, 2, 3, 4, 5]
    (comment,) = p.comments
    assert 'the U-Net is replaced by the engine "NoUNet"' in comment


def test_the_hosts_sampler_and_jobs_are_wrapped_once_and_given_back():
    original, original_job = sd_samplers_common.Sampler.launch_sampling, processing.process_images_inner
    load_checkpoint()
    for _ in range(3):
        script = load_script()
    (unload,) = script_callbacks.callbacks["script_unloaded"]
    assert len(patches.originals) == 2
    unload()
    assert sd_samplers_common.Sampler.launch_sampling is original
    assert processing.process_images_inner is original_job
    host.unwrap_sampling()
    host.tell_no_ends_of_jobs()
    assert script.controller is not None


def test_the_family_decides_the_presets_depth(controller):
    load_checkpoint(is_sdxl=True)
    p = Processing()
    job(controller, p, True, "Fast", steps=20)
    assert p.extra_generation_params == {
        "DeepCache enabled": True,
        "DeepCache preset": "Fast",
        "DeepCache schedule": "auto",
        "DeepCache speed up": 3.0,
        "DeepCache correction": "on",
    }


def test_rows_of_another_layout_are_not_mixed(controller):
    """An AND prompt that begins in mid-run adds a cond before the unconds."""
    unet = sd_models.model_data.sd_model.model.diffusion_model
    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [{"enabled": True, "interval": 6}])
    sampler = sd_samplers_common.Sampler("Euler")
    sampler.config = sd_samplers.all_samplers_map["Euler"]
    sampler.p = p
    sampler.sampler_extra_args = {}
    sampler.model_wrap_cfg = denoiser = SimpleNamespace(sampler=sampler, step=0)

    def run():
        answers = []
        for step, conds in enumerate((1, 1, 2, 2, 2)):
            x = torch.full((conds + 1, 2, 8, 8), float(step))
            texts = torch.zeros(conds, 77, 8)
            controller.start_evaluation(
                script_callbacks.CFGDenoiserParams(x, None, torch.ones(1), step, 5, texts, None, denoiser)
            )
            answers.append(unet(x))
        return answers

    assert origins(sampler.launch_sampling(5, run)) == [0, 0, 2, 3, 3]
    controller.end_job(p)


@pytest.mark.usefixtures("at_one_time")
@pytest.mark.parametrize(
    ("all_steps", "expected"),
    [(False, [0, 0, 0, 0, 4, 4, 6, 6, 6, 6, 10, 10]), (True, [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9])],
)
def test_a_refresh_waits_for_the_unconds_that_every_other_evaluation_leaves_out(
    controller, monkeypatch, all_steps, expected
):
    monkeypatch.setattr(shared.opts, "s_min_uncond_all", all_steps)
    answers = job(controller, Processing(), ON, steps=12, s_min_uncond=2)
    assert origins(answers) == expected
    assert controller.last_report.passes[0].statistics.missed == 0


@pytest.mark.parametrize(("module", "method"), [(host.samplers, "remember"), (host.samplers, "kind"), (host, "loaded")])
def test_an_error_of_our_own_leaves_the_picture_alone(controller, monkeypatch, caplog, module, method):
    def fail(*_, **__):
        raise RuntimeError("ours")

    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [ON])
    monkeypatch.setattr(module, method, fail)
    assert origins(sample(p)) == [0, 1, 2, 3, 4, 5]
    assert "DeepCache could not begin a pass" in caplog.text


def test_an_engine_that_the_host_applies_after_the_job_has_begun_is_noticed(controller, monkeypatch):
    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [ON])
    monkeypatch.setattr(sd_unet, "current_unet", NoUNet())
    assert origins(sample(p)) == [0, 1, 2, 3, 4, 5]
    assert "replaced by the engine" in next(iter(p.comments))
