"""Forge's family: which rows its U-Net calls are for, and what rules caching out; on the stand-in."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from modules import script_callbacks, sd_models, shared
from torch import nn

from deepcache_ext.features.rows import Batch
from deepcache_ext.statistics import OTHERS
from deepcache_ext.webui import passes, running_pass
from deepcache_ext.webui.hosts import forge
from tests.unit.unets import TaggedUNet
from tests.webui.support import Processing, evaluated
from tests.webui.test_rows import prompts, schedule


class ForgeUNet(TaggedUNet):
    def forward(self, x, timesteps=None, transformer_options=None):  # noqa: ARG002 - as the host calls it
        return super().forward(x, timesteps)


SIGMAS = torch.linspace(0.03, 14.6, 1000)


def timestep(sigma):
    return (SIGMAS - sigma).abs().argmin()


@pytest.fixture
def patcher():
    """Return the patcher of a checkpoint that is loaded as the family does."""
    model = nn.Module()
    model.diffusion_model = ForgeUNet()
    model.predictor = SimpleNamespace(sigmas=SIGMAS, prediction_type="epsilon", timestep=timestep)
    patcher = SimpleNamespace(model=model, model_options={}, list_controlnets=list)
    engine = SimpleNamespace(forge_objects=SimpleNamespace(unet=patcher), sd_checkpoint_info="one", is_sdxl=True)
    sd_models.model_data.sd_model = engine
    yield patcher
    sd_models.model_data.sd_model = None


@pytest.fixture
def host(patcher, monkeypatch):
    assert patcher
    host = forge.Forge()
    for module in (passes, running_pass):
        monkeypatch.setattr(module, "host", host)
    return host


def params_at(step, *, conds=None, unconds=1, pictures=2, scale=7.0, extra=None, sampler=None, p=None):
    sampler = sampler or SimpleNamespace()
    given = {"cond": conds or prompts(*[[(20,)]] * pictures), "uncond": [schedule(20)] * pictures * unconds}
    sampler.sampler_extra_args = given | {"cond_scale": scale, "s_min_uncond": 0} | (extra or {})
    p = p or SimpleNamespace(is_hr_pass=False, hr_cfg=1.0)
    denoiser = SimpleNamespace(sampler=sampler, step=step, total_steps=20, p=p)
    x = torch.full((pictures, 2, 8, 8), float(step))
    params = script_callbacks.CFGDenoiserParams(x, None, torch.ones(1), step, 20, torch.zeros(3), None, denoiser)
    params.text_uncond = torch.zeros(pictures) if unconds else None
    return params


def called_with(*kinds):
    return {"transformer_options": {"cond_or_uncond": list(kinds)}}


def kinds_of(keys):
    return None if keys is None else [(kind, number, picture) for kind, number, picture, _ in keys]


def test_what_is_loaded(host, patcher):
    loaded = host.loaded()
    assert (loaded.unet, loaded.family) == (patcher.model.diffusion_model, "SDXL")
    assert loaded == host.loaded()
    sd_models.model_data.sd_model.sd_checkpoint_info = "another"
    assert loaded != host.loaded()
    levels = host.noise_levels()
    assert levels.prediction == "eps"
    assert torch.allclose(levels.alphas_cumprod, 1 / (SIGMAS**2 + 1))
    patcher.model.predictor.prediction_type = "const"
    assert host.noise_levels() is None


class EPS:
    """Of reForge and Classic, whose classes' names tell what is predicted."""

    def __init__(self, timestep=timestep):
        self.sigmas, self.timestep = SIGMAS, timestep

    def calculate_denoised(self):
        """Compute."""


class V_PREDICTION(EPS):  # noqa: N801 - as the host has it
    def calculate_denoised(self):
        """Compute something else."""


class EDM(V_PREDICTION):
    def calculate_denoised(self):
        """Compute a third thing."""


class ModelSampling(V_PREDICTION):
    """What a checkpoint has."""


@pytest.mark.parametrize(
    ("sampling", "prediction"),
    [
        (EPS(), "eps"),
        (V_PREDICTION(), "v"),
        (ModelSampling(), "v"),
        (EDM(), None),
        (EPS(lambda sigma: 0.25 * sigma.log()), None),
    ],
    ids=["eps", "v", "v, made of two", "another formula", "timesteps that are no numbers of levels"],
)
def test_what_is_predicted_is_what_the_host_computes_with(host, patcher, sampling, prediction):
    """reForge leaves "eps" on an SDXL checkpoint that predicts v."""
    del patcher.model.predictor
    sd_models.model_data.sd_model.parameterization = "eps"
    patcher.model.model_sampling = sampling
    levels = host.noise_levels()
    assert (None if levels is None else levels.prediction) == prediction


def test_before_the_first_picture_nothing_is_loaded(host, monkeypatch):
    sd_models.model_data.sd_model = SimpleNamespace(cond_stage_model=None)
    assert (host.loaded().unet, host.loaded().family, host.noise_levels()) == (None, "SD1", None)
    monkeypatch.setattr(shared.opts, "forge_preset", "xl", raising=False)
    assert host.loaded().family == "SDXL"
    assert (host.obstacle(), host.controls_ahead()) == ("", [])


def test_unconds_come_first_and_split_calls_name_the_same_rows(host):
    conds = prompts([(20,), (20,)], [(20,), (20,)])
    x = torch.zeros(2, 4, 8, 8)
    whole, split = host.evaluation(params_at(0, conds=conds)), host.evaluation(params_at(1, conds=conds))
    assert kinds_of(whole.keys) == [(k, n, p) for k, n in (("uncond", 0), ("cond", 1), ("cond", 0)) for p in (0, 1)]
    together = whole.keys_of([x.repeat(3, 1, 1, 1)], called_with(1, 0, 0))
    apart = [key for kind in (1, 0, 0) for key in split.keys_of([x], called_with(kind))]
    assert together == apart
    assert {*together} == {*whole.keys}


def test_a_call_of_other_sizes_or_of_unknown_kinds_is_for_no_row(host):
    evaluation, x = host.evaluation(params_at(0)), torch.zeros(8, 4, 8, 8)
    assert evaluation.keys_of([x], called_with(1, 0)) is None
    assert evaluation.keys_of([x], {}) is None
    assert evaluation.batch == Batch(2, (8, 8))


def test_where_a_prompt_changes_all_of_its_pictures_conds_are_new(host):
    conds = prompts([(20,), (5, 20)], [(20,), (20,)])
    before, after = (host.evaluation(params_at(step, conds=conds)).keys for step in (5, 6))
    assert {key[:3] for key in {*after} - {*before}} == {("cond", 0, 0), ("cond", 1, 0)}


@pytest.mark.parametrize(
    ("rule", "options", "minimum", "out", "returns"),
    [
        (forge._forge_rule, {}, 0, [], []),
        (forge._forge_rule, {"skip_early_cond": 0.1}, 0, [0, 1, 2], []),
        (forge._forge_rule, {}, 2, [1, 3], [1, 3]),
        (forge._forge_rule, {"s_min_uncond_all": True}, 2, [0, 1, 2, 3], []),
        (forge._neo_rule, {"skip_early_cond": 0.1}, 0, [1, 2], []),
        (forge._neo_rule, {"s_min_uncond_all": True}, 2, [0, 1, 2, 3], []),
        (forge._neo_rule, {}, 2, [1, 3], [1, 3]),
        (forge._reforge_rule, {"s_min_uncond": 2}, 0, [0, 2], [0, 2]),
        (forge._reforge_rule, {"skip_early_cond": 0.1}, 0, [0, 1, 2], []),
        (forge._classic_rule, {}, 0, [0], []),
        (forge._classic_rule, {}, 2, [0, 1, 2, 3], []),
    ],
)
def test_each_member_leaves_out_unconds_in_its_own_way(host, monkeypatch, rule, options, minimum, out, returns):
    for name, value in ({"skip_early_cond": 0.0, "s_min_uncond_all": False} | options).items():
        monkeypatch.setattr(shared.opts, name, value, raising=False)
    host._leaves_out = rule
    evaluations = [host.evaluation(params_at(step, extra={"s_min_uncond": minimum})) for step in range(4)]
    assert [step for step, one in enumerate(evaluations) if len(one.keys) == 2] == out
    assert [step for step, one in enumerate(evaluations) if one.partial] == returns


def test_without_guidance_there_are_no_unconds(host, patcher):
    hires = SimpleNamespace(is_hr_pass=True, hr_cfg=1.0)
    for options in ({"scale": 1.0}, {"unconds": 0}, {"p": hires}):
        assert {key[0] for key in host.evaluation(params_at(0, **options)).keys} == {"cond"}
    patcher.model_options["disable_cfg1_optimization"] = True
    assert len(host.evaluation(params_at(0, scale=1.0)).keys) == 4


def test_a_sampler_may_ask_for_unconds_that_count_for_nothing(host, monkeypatch):
    monkeypatch.setattr(shared.opts, "skip_early_cond", 0.5, raising=False)
    asked = {"model_options": {"disable_cfg1_optimization": True}}
    host._leaves_out = forge._forge_rule
    assert len(host.evaluation(params_at(0, scale=1.0, extra=asked)).keys) == 4
    assert len(host.evaluation(params_at(0, extra=asked)).keys) == 4
    assert len(host.evaluation(params_at(0)).keys) == 2
    host._leaves_out = forge._reforge_rule
    assert len(host.evaluation(params_at(0, extra=asked)).keys) == 2


def test_the_refiner_may_have_a_guidance_of_its_own(host):
    params = params_at(0, p=SimpleNamespace(is_hr_pass=False, refiner_cfg=1.0))
    assert len(host.evaluation(params).keys) == 4
    params.denoiser._refiner_pass = True
    assert len(host.evaluation(params).keys) == 2
    params.denoiser.p.refiner_cfg = None
    assert len(host.evaluation(params).keys) == 4


class Spectrum:
    pass


def test_what_rules_caching_out_is_said(host, patcher, monkeypatch):
    assert host.obstacle() == ""
    patcher.model_options["model_function_wrapper"] = Spectrum()
    assert "Spectrum is on" in host.obstacle()
    patcher.model_options["model_function_wrapper"] = print
    assert host.obstacle() == ""
    patcher.model.apply_model = SimpleNamespace(_torch_compile_wrapper=True)
    assert host.obstacle() == 'the U-Net is compiled by "Torch Compile Integrated"; choose "Disable" there'
    del patcher.model.apply_model
    monkeypatch.setattr(ForgeUNet, "forward", Processing.comment)
    assert host.obstacle() == "tests.webui.support has replaced the forward of ForgeUNet; switch one of the two off"


def test_control_models_are_left_whole_where_a_wrapper_makes_the_calls(host, patcher):
    patcher.list_controlnets = lambda: [SimpleNamespace(control_model="model"), SimpleNamespace()]
    assert host.controls_ahead() == ["model", None]
    patcher.model_options["model_function_wrapper"] = print
    assert host.controls_ahead() == []


def run(host, calls, steps=6, tile=8, **options):
    """Run a job whose evaluations call the U-Net with rows of kinds by `calls(step)`; return answers and report."""
    assert host
    controller, p = passes.Controller(), Processing()
    p.hr_cfg = 1.0
    unet = host.loaded().unet

    def evaluate(params, step):
        outs = [
            unet(params.x[..., :tile].repeat(len(kinds), 1, 1, 1), None, **called_with(*kinds)) for kinds in calls(step)
        ]
        return [int(value) for out in outs for value in out[:, 0, 0, 0]]

    controller.install()
    try:
        answers = evaluated(controller, p, partial(params_at, p=p, **options), evaluate, steps)
    finally:
        controller.remove()
    assert not unet._forward_pre_hooks
    return answers, controller.last_report.passes[0]


@pytest.mark.parametrize(
    "calls",
    [
        lambda _step: [[1, 0]],
        lambda _step: [[1], [0]],
        lambda step: [[1, 0]] if step % 2 else [[0], [1]],
        lambda _step: [[1, 0], [0]],
    ],
    ids=["one call", "a call for each kind", "cut anew", "a guidance of its own after"],
)
def test_the_hosts_own_cuts_are_cached(host, calls):
    answers, done = run(host, calls)
    assert [{*answer} for answer in answers] == [{0}, {0}, {0}, {3}, {3}, {3}]
    assert (done.statistics.reused, done.statistics.missed, done.reason) == (4, 0, "")


def test_unconds_that_nobody_expected_to_be_left_out_or_back_cost_a_refresh_and_no_picture(host):
    answers, done = run(host, lambda step: [[0]] if step in {0, 4} else [[1, 0]])
    assert answers == [[0] * 2, [1] * 4, [1] * 4, [3] * 4, [3] * 2, [3] * 4]
    assert done.statistics.error == ""
    assert (
        done.reason == "1 evaluation more than planned made in full, as prompts, unconds or the network changed there"
    )
    assert (done.plan, done.in_full) == ("0, 3", "0-1, 3")


def test_tiles_are_computed_in_full_and_said(host):
    answers, done = run(host, lambda _step: [[1, 0]] * 2, tile=4)
    assert [{*answer} for answer in answers] == [{step} for step in range(6)]
    assert (done.statistics.reused, done.reason) == (0, OTHERS)
