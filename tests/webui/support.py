"""A host in miniature around the stand-in: processing objects, and a sampler's run with its callbacks."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import torch
from modules import processing, script_callbacks, sd_models, sd_samplers, sd_samplers_common, shared
from PIL import Image
from torch import nn

from demo.k_diffusion_parts import sampling
from tests.unit.unets import TaggedUNet

SCRIPT = "scripts/deepcache.py"
ON = {"enabled": True, "interval": 3, "depth": 1}


class Processing:
    """A txt2img job, or an img2img one without `enable_hr`."""

    def __init__(self, *, img2img=False):
        self.extra_generation_params = {}
        self.comments = {}
        self.is_hr_pass = False
        self.denoising_strength = 0.5
        if not img2img:
            self.enable_hr = False

    def comment(self, text):
        self.comments[text] = 1


class NoUNet(nn.Module):
    """What an SD3 checkpoint has in the place of a U-Net."""

    def forward(self, x, timesteps=None):  # noqa: ARG002 - as a U-Net is called
        return x


def load_script():
    """Import the script file the way the host does: under its file name, and not into sys.modules."""
    script_callbacks.callbacks.clear()
    spec = importlib.util.spec_from_file_location("deepcache.py", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_checkpoint(name="one", unet=None, **family):
    unet = unet or TaggedUNet()
    levels = {"alphas_cumprod": torch.linspace(0.9991, 0.0047, 1000), "parameterization": "eps"}
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), sd_checkpoint_info=name, **(levels | family))
    sd_models.model_data.sd_model = model
    return model


class Denoiser(nn.Module):
    """The host's denoiser: calls back, and notes how the U-Net answers an input that is as large as its number."""

    def __init__(self, sampler, steps, rows, during, s_min_uncond):
        super().__init__()
        self.sampler, self.step, self.answers, self.init_latent = sampler, 0, [], None
        self._steps, self._rows, self._during, self._s_min_uncond = steps, rows, during, s_min_uncond

    def forward(self, x, sigma, **_extra_args):
        step, rows = self.step, self._rows
        if self._during is not None:
            self._during(step)
        given = torch.full((rows, 2, 8, 8), float(step))
        sigma = sigma[:1].expand(rows)
        conds = torch.zeros(rows // 2, 77, 8)
        params = script_callbacks.CFGDenoiserParams(given, None, sigma.clone(), step, self._steps, conds, None, self)
        for callback in script_callbacks.callbacks["cfg_denoiser"]:
            callback(params)
        skips = (step % 2 or shared.opts.s_min_uncond_all) and sigma[0] < self._s_min_uncond
        given = given[: len(conds)] if skips else given
        unet = sd_models.model_data.sd_model.model.diffusion_model
        self.answers.append(unet(given, torch.full((len(given),), 500.0)))
        self.step += 1
        return torch.zeros_like(x)


def sample_adaptively(model, x, sigmas, **more):
    return sampling.sample_dpm_adaptive(model, x, float(sigmas[-2]), float(sigmas[0]), **more)


FUNCTIONS = {
    "Euler a": sampling.sample_euler_ancestral,
    "DPM++ 2M": sampling.sample_dpmpp_2m,
    "DPM adaptive": sample_adaptively,
}
"""The functions of the samplers by name; any other is Euler's."""


FOR_THE_DENOISER = {"cond", "uncond"}


def sample(p, steps=6, name="Euler", rows=2, during=None, s_min_uncond=0, function=None, **options):
    """Run a sampler on the loaded checkpoint as the host does, and return how the U-Net answered each evaluation.

    The sampler's function is `function` or the one of its name, and `options` what it is called with beside; what is
    named as in `FOR_THE_DENOISER` it hands on.
    """
    handed_on = {name: options.pop(name) for name in FOR_THE_DENOISER & options.keys()}
    sampler = sd_samplers_common.Sampler(function or FUNCTIONS.get(name, sampling.sample_euler))
    sampler.config = sd_samplers.all_samplers_map[name]
    sampler.p = p
    sampler.sampler_extra_args = {"s_min_uncond": s_min_uncond} | handed_on
    sampler.model_wrap_cfg = denoiser = Denoiser(sampler, steps, rows, during, s_min_uncond)
    sampler.last_latent = x = torch.zeros(1, 4, 8, 8)
    extra_params_kwargs = {"sigmas": torch.linspace(1, 0, steps + 1)} | options

    def run():
        return sampler.func(
            sampler.model_wrap_cfg,
            x,
            extra_args=sampler.sampler_extra_args,
            disable=True,
            callback=None,
            **extra_params_kwargs,
        )

    sampler.launch_sampling(steps, run)
    return denoiser.answers


def job(controller, p, *arguments, **options):
    """Run a whole job of one pass and return the answers."""
    shared.state.begin()
    controller.begin_job(p, arguments)
    answers = sample(p, **options)
    controller.end_job(p)
    shared.state.end()
    return answers


def full_and_reused(controller):
    return [(done.name, done.statistics.full, done.statistics.reused) for done in controller.last_report.passes]


def origins(answers):
    """Return from which evaluation each answer's deep feature came."""
    return [int(answer[0, 0, 0, 0]) for answer in answers]


def evaluated(controller, p, params_at, evaluate, steps=6):
    """Run a job of one pass whose evaluations are `evaluate(params, step)`, and return what these answered.

    `params_at(step, sampler=...)` are the parameters of the denoiser's callback.
    """
    shared.state.begin()
    controller.begin_job(p, [ON | {"forecast": "off"}])
    sampler = sd_samplers_common.Sampler("Euler")
    sampler.config, sampler.p = sd_samplers.all_samplers_map["Euler"], p
    sampler.model_wrap_cfg = params_at(0, sampler=sampler).denoiser

    def run():
        answers = []
        for step in range(steps):
            params = params_at(step, sampler=sampler)
            params.denoiser = sampler.model_wrap_cfg
            params.denoiser.step = step
            controller.start_evaluation(params)
            answers.append(evaluate(params, step))
        return answers

    answers = sampler.launch_sampling(steps, run)
    controller.end_job(p)
    return answers


class PictureHost:
    """Has the host make one picture in each job, as bright as `grey(p)` says, and notes the jobs."""

    def __init__(self, controller, monkeypatch, grey):
        self.made = []
        self.during = lambda _number: None
        """Called with the number of each job while it is made."""
        self._controller = controller
        self._grey = grey
        for name, value in {"interrupted": False, "skipped": False, "job_no": 0, "job_count": 0}.items():
            monkeypatch.setattr(shared.state, name, value, raising=False)
        monkeypatch.setattr(processing, "process_images", self._process)
        shared.state.begin()

    def _process(self, p):
        self._controller.begin_job(p, p.script_args)
        self.during(len(self.made))
        sample(p, name=p.sampler_name, steps=p.steps)
        self._controller.end_job(p)
        self.made.append(p)
        picture = Image.fromarray(np.full((16, 16, 3), self._grey(p), np.uint8))
        rest = {
            "all_prompts": [getattr(p, "prompt", "a")],
            "all_negative_prompts": [""],
            "all_seeds": [p.seed],
            "all_subseeds": [1],
        }
        return processing.Processed(p, [picture], infotexts=["made"], index_of_first_image=0, **rest)
