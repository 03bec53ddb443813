"""A test-only extension: has the host launch its samplers, and compares what they answered with what they then do.

A run is launched as the host does it, but on a stand-in in the denoiser's place that returns random numbers, so that
hundreds of runs take no longer than a picture.
"""

import random
import sys
import time
from typing import Any

import numpy as np
import torch
from modules import processing, rng, script_callbacks, scripts, sd_samplers, sd_samplers_kdiffusion, shared
from pydantic import BaseModel

SIZE, MOST = 8, 2000
RENAMED = " of another extension"
renames: list[bool] = []
originals: dict[str, Any] = {}
dry_runs: list[str] = []
"""The samplers that were asked in jobs since the last look, one for each dry run."""


class Renaming(scripts.Script):
    """Gives the job's sampler another name in mid-job, as Dynamic Thresholding does."""

    def title(self):
        return "e2e renaming"

    def show(self, _is_img2img):
        return scripts.AlwaysVisible

    def process_batch(self, p, *_args, **_kwargs):
        if renames and not p.sampler_name.endswith(RENAMED):
            data = sd_samplers.all_samplers_map[p.sampler_name]
            p.sampler_name = data.name + RENAMED
            sd_samplers.all_samplers_map[p.sampler_name] = data._replace(name=p.sampler_name)


def sample_twice(model, x, sigmas, extra_args=None, **_callback_and_disable):
    """Make Heun's steps, two evaluations in each but the last."""
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, sigmas[i] * ones, **extra_args)) / sigmas[i]
        end = x + slope * (sigmas[i + 1] - sigmas[i])
        if sigmas[i + 1] > 0:
            second = (end - model(end, sigmas[i + 1] * ones, **extra_args)) / sigmas[i + 1]
            end = x + (slope + second) / 2 * (sigmas[i + 1] - sigmas[i])
        x = end
    return x


def sample_halves(model, x, sigmas, extra_args=None, **_callback_and_disable):
    """Make Euler's steps, and evaluate at half the size after the third and the fourth, for nothing."""
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, sigmas[i] * ones, **extra_args)) / sigmas[i]
        x = x + slope * (sigmas[i + 1] - sigmas[i])
        if i in {2, 3}:
            model(x[..., ::2, ::2], sigmas[i] * ones, **extra_args)
    return x


class StandIn:
    """The host's denoiser, but for its outputs, which are random numbers by seed and number of the evaluation."""

    def __init__(self, real, seed):
        self._real, self._seed, self.made, self.inputs, self.outputs = real, seed, 0, [], []

    def __call__(self, x, _level, *_args, **extra):
        if self.made == MOST:
            raise RuntimeError(f"more than {MOST} evaluations")
        self.made += 1
        self.inputs.append(x.clone())
        generator = torch.Generator().manual_seed(1000 * self._seed + self.made)
        self.outputs.append(torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x))
        for function in (extra.get("model_options") or {}).get("sampler_post_cfg_function", []):
            function({"denoised": self.outputs[-1], "uncond_denoised": self.outputs[-1], "cond_denoised": None})
        return self.outputs[-1]

    @property
    def last_noise_uncond(self):
        return self.outputs[-1]

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __delattr__(self, name):
        vars(self).pop(name, None)


class Runs:
    """Asks one sampler of the host about one of its runs, and makes the run."""

    def __init__(self, path, sampler, scheduler, steps, eta):
        kind = "Txt2Img" if path != "img2img" else "Img2Img"
        self.p = getattr(processing, f"StableDiffusionProcessing{kind}")(
            sd_model=shared.sd_model, prompt="a", steps=steps, width=8 * SIZE, height=8 * SIZE, sampler_name=sampler
        )
        self.p.scheduler = self.p.hr_scheduler = scheduler or None
        self.p.is_hr_pass = path == "hires"
        self.p.denoising_strength = 0.5
        for option in ("s_churn", "s_tmin", "s_tmax", "s_noise"):  # as the host does before it makes pictures
            setattr(self.p, option, getattr(shared.opts, option))
        self.p.s_tmax = self.p.s_tmax or float("inf")
        self.p.all_seeds = self.p.seeds = [1]
        self.p.iteration = 0
        self.p.eta = eta
        self.path, self.steps, self.name = path, steps, sampler
        self.found: dict[str, Any] = {}

    def make(self):
        self.sampler = sd_samplers.create_sampler(self.name, shared.sd_model)
        self.sampler.launch_sampling = self._launched
        # the host's own takes long, and what is drawn does not matter
        self.sampler.create_noise_sampler = lambda x, *_: lambda *_: torch.randn_like(x)
        self._begin()
        noise = self.p.rng.next()
        image = torch.zeros(1, 5, 1, 1)
        if self.path == "txt2img":
            self.sampler.sample(self.p, noise, None, None, image_conditioning=image)
        else:
            self.sampler.sample_img2img(self.p, 0.5 * noise, noise, None, None, image_conditioning=image)
        return self.found

    def _begin(self):
        """Have all that draws random numbers begin anew."""
        self.p.rng = rng.ImageRNG((4, SIZE, SIZE), [1])
        torch.manual_seed(1)
        for name, module in list(sys.modules.items()):  # reForge has two of them
            hijacked = vars(module).get("torch") if name.endswith("k_diffusion.sampling") else None
            if hasattr(hijacked, "rng"):
                hijacked.rng = self.p.rng

    def _launched(self, _steps, func):
        ours = sys.modules["deepcache_ext.webui.hosts.dry_runs"]
        launched = ours.Launched(self.sampler, func)
        before, start = self._state(), time.thread_time()
        run = None
        try:
            run = launched.ask(sys.modules["deepcache_ext.webui.hosts"].host.loaded().unet)
        except ours.UnansweredError as error:
            self.found["reason"] = str(error)
        self.found["seconds"] = time.thread_time() - start
        self.found["traces"] = [name for name, value in self._state().items() if value != before[name]]
        if run is not None:
            kind = run.kind
            self.found |= {
                "asked": run.evaluations,
                "linear": run.weights is not None,
                "kind": [kind.stages, kind.noisy, kind.extrapolates],
                "rises": len(run.rises),
                "others": len(run.others),
                "anew": run.starts_anew,
                "guided": run.guided,
            }
        if run is not None and run.decides_itself:  # on random outputs it would never end
            return self.sampler.last_latent
        try:
            one, end = self._run(func, 1)
            self.found["made"] = one.made
            if run is not None and run.weights is not None and not self.p.scheduler:
                self.found["error"] = self._error(run, one, end, *self._run(func, 2))
        except Exception as error:  # noqa: BLE001 - some samplers end so on such outputs; the test shows it
            self.found["made"] = f"{type(error).__name__}: {error}"[:100]
        return self.sampler.last_latent

    def _error(self, run, one, end, other, other_end):
        """Return how far from the weights two runs with the same noise are, at most, as a part of what they make."""
        outputs = torch.stack(other.outputs).double() - torch.stack(one.outputs).double()
        found = torch.stack([*other.inputs, other_end]).double() - torch.stack([*one.inputs, end]).double()
        expected = torch.einsum("ik,k...->i...", torch.as_tensor(run.weights), outputs)
        return float((found - expected).abs().max() / expected.abs().max())

    def _run(self, func, seed):
        real = self.sampler.model_wrap_cfg
        self._begin()
        stand_in = self.sampler.model_wrap_cfg = StandIn(real, seed)
        try:
            return stand_in, func()
        finally:
            self.sampler.model_wrap_cfg = real

    def _state(self):
        """Return what a dry run must leave as it was."""
        state = shared.state
        return {
            "torch": torch.get_rng_state().numpy().tobytes(),
            "numpy": repr(np.random.get_state()),
            "python": random.getstate(),
            "the job's generator": [repr(vars(self.p.rng)), *(g.get_state().tolist() for g in _generators(self.p.rng))],
            "progress": [state.sampling_step, state.sampling_steps, state.job_no, state.job_count],
            "parameters": dict(self.p.extra_generation_params),
            "the sampler": {name: _shown(value) for name, value in vars(self.sampler).items()},
            "its denoiser": {name: _shown(value) for name, value in vars(self.sampler.model_wrap_cfg).items()},
            "its arguments": {name: _shown(value) for name, value in self.sampler.sampler_extra_args.items()},
        }


def _generators(source):
    return [g for g in getattr(source, "generators", None) or () if isinstance(g, torch.Generator)]


def _shown(value):
    return value.tolist() if isinstance(value, torch.Tensor) else repr(value)


class Asked(BaseModel):
    """Which runs of a sampler to make: with each of the schedulers, bars between them, in each number of steps."""

    path: str
    sampler: str
    schedulers: str = ""
    steps: list[int]
    eta: float | None = None


def runs(asked: Asked):
    """Return what a sampler answered and did, run by run."""
    found = []
    with torch.no_grad():
        for scheduler in asked.schedulers.split("|"):
            for number in asked.steps:
                made = {"scheduler": scheduler, "steps": number}
                try:
                    made |= Runs(asked.path, asked.sampler, scheduler, number, asked.eta).make()
                except Exception as error:  # noqa: BLE001 - what the host can't launch has no run
                    made["host"] = f"{type(error).__name__}: {error}"[:200]
                found.append(made)
    return found


def count_dry_runs():
    launched = sys.modules["deepcache_ext.webui.hosts.dry_runs"].Launched
    ask = launched.ask

    def counted(self, unet):
        dry_runs.append(self._sampler.config.name)
        return ask(self, unet)

    launched.ask = counted


def asked_since():
    """Return which samplers were asked since the last look."""
    found = [*dry_runs]
    dry_runs.clear()
    return found


def rename(on: bool):
    renames[:] = [True] if on else []


def register(name: str, function: str = ""):
    """Have another extension's function stand behind a name of the host's; without one the host's own again."""
    if function:
        found = originals.setdefault(name, sd_samplers.all_samplers_map[name])

        def constructor(model):
            return sd_samplers_kdiffusion.KDiffusionSampler(globals()[function], model)

        sd_samplers.all_samplers_map[name] = found._replace(constructor=constructor, options={})
    else:
        sd_samplers.all_samplers_map[name] = originals.pop(name)


def add_routes(_demo, app):
    count_dry_runs()
    app.add_api_route("/e2e/rename", rename, methods=["POST"])
    app.add_api_route("/e2e/register", register, methods=["POST"])
    app.add_api_route("/e2e/runs", runs, methods=["POST"])
    app.add_api_route("/e2e/dry-runs", asked_since, methods=["GET"])


script_callbacks.on_app_started(add_routes)
