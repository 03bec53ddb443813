"""A test-only extension: does in mid-run what other extensions do, before or after DeepCache hears of an evaluation.

It is installed twice, under names that the host loads before and after DeepCache.
"""

import sys
from pathlib import Path

import torch
from modules import processing, script_callbacks, scripts, sd_samplers, shared

FIRST = Path(scripts.basedir()).name.startswith("a")
NOTHING = {"inner": 0, "second": 0, "prompt": "", "bend": 1.0, "what": "", "at": 0, "every": 0, "by": 0.0}
wanted = dict(NOTHING)
seen = {"evaluation": 0}


class MidRun(scripts.Script):
    """Changes the prompts that are used, and makes an inner job or runs a sampler once more."""

    def title(self):
        return f"e2e mid-run {FIRST}"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        if not FIRST and wanted["prompt"]:
            p.all_prompts = [wanted["prompt"]] * len(p.all_prompts)

    def postprocess_image(self, p, pp, *args):
        if FIRST or getattr(p, "e2e_inner", False):
            return
        if wanted["second"]:
            run_once_more(p)
        if wanted["inner"]:
            make_inner(p, pp)


def run_once_more(p):
    """Run a sampler from a picture on the tab's own job, as hires fixes of extensions do."""
    sampler = sd_samplers.create_sampler(p.sampler_name, p.sd_model)
    x = torch.zeros(1, 4, p.height // 8, p.width // 8)
    noise = torch.randn(x.shape, generator=torch.manual_seed(1))
    p.denoising_strength = 0.5
    sampler.sample_img2img(p, x, noise, p.c, p.uc, wanted["second"], torch.zeros(1, 5, 1, 1))


def make_inner(p, pp):
    """Make an inner picture from the picture with no scripts, as face fixers do."""
    inner = processing.StableDiffusionProcessingImg2Img(
        sd_model=shared.sd_model,
        prompt="inner",
        seed=1,
        steps=wanted["inner"],
        sampler_name=p.sampler_name,
        width=p.width,
        height=p.height,
        init_images=[pp.image],
        denoising_strength=1.0,
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    inner.e2e_inner = True
    pp.image = processing.process_images(inner).images[0]


def network():
    """Return the first LoRA in force."""
    return sys.modules["networks"].loaded_networks[0]


def at_an_evaluation(params):
    """Do what is wanted at this evaluation."""
    number = seen["evaluation"] = 0 if params.denoiser.step == 0 else seen["evaluation"] + 1
    params.sigma *= wanted["bend"]
    due = number == wanted["at"] or (wanted["every"] and number and number % wanted["every"] == 0)
    if due and wanted["what"]:
        CHANGES[wanted["what"]](wanted["by"])


def change_lora(by):
    network().unet_multiplier += by


def change_dimension(by):
    network().dyn_dim = int(by)


def drop_lora(_by):
    sys.modules["networks"].loaded_networks.clear()


def change_hypernetwork(by):
    shared.loaded_hypernetworks[0].set_multiplier(by)


def merge(by):
    """Add to the keys of all attentions, as merging a LoRA does, what can be taken away again."""
    with torch.no_grad():
        for name, weight in shared.sd_model.model.diffusion_model.named_parameters():
            if name.endswith("attn2.to_k.weight"):
                weight.add_(by)


CHANGES = {
    "LoRA": change_lora,
    "dimension": change_dimension,
    "no LoRA": drop_lora,
    "hypernetwork": change_hypernetwork,
    "merge": merge,
}


def want(wishes: dict):
    """Set what the next jobs do; nothing of what is not named."""
    wanted.update(NOTHING | wishes)


def add_routes(_demo, app):
    app.add_api_route(f"/e2e/midrun/{'first' if FIRST else 'last'}", want, methods=["POST"])


script_callbacks.on_cfg_denoiser(at_an_evaluation)
script_callbacks.on_app_started(add_routes)
