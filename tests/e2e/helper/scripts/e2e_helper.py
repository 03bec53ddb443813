"""A test-only extension: counts what the samplers really do, makes jobs within jobs, and answers questions."""

import copy
import gc
import sys

import deepcache_contract
import torch
from modules import processing, script_callbacks, scripts, sd_unet, shared

counts = {"evaluations": [], "moves": 0, "blocks": 0, "layers": 0}
wanted = {"inner": "", "raise_at": None, "nan_at": None}


class Helper(scripts.Script):
    """Makes an inner job from postprocess_image, with all scripts or with none."""

    def title(self):
        return "e2e helper"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess_image(self, p, pp, *args):
        if not wanted["inner"] or getattr(p, "e2e_inner", False):
            return
        inner = processing.StableDiffusionProcessingImg2Img(
            sd_model=shared.sd_model,
            outpath_samples=p.outpath_samples,
            outpath_grids=p.outpath_grids,
            prompt="inner",
            seed=1,
            steps=8,
            sampler_name="Euler",
            width=128,
            height=128,
            init_images=[pp.image],
            denoising_strength=0.99,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        inner.e2e_inner = True
        if wanted["inner"] == "all scripts":
            inner.scripts = p.scripts
            inner.script_args = p.script_args
        else:
            inner.scripts = copy.copy(p.scripts)
            inner.scripts.alwayson_scripts = []
        pp.image = processing.process_images(inner).images[0]


class Engine(sd_unet.SdUnet):
    """Stands in for the whole U-Net, as TensorRT does."""

    def forward(self, x, *_args, **_kwargs):
        return 0.5 * x[:, :4]


class EngineOption(sd_unet.SdUnetOption):
    label = "e2e engine"

    def create_unet(self):
        return Engine()


def the_unet():
    """Return the U-Net in force, on AUTOMATIC1111's WebUI or one of Forge's family; an empty one if none is loaded."""
    patched = getattr(shared.sd_model, "forge_objects", None)
    owner = shared.sd_model if patched is None else patched.unet
    return owner.model.diffusion_model if hasattr(owner, "model") else torch.nn.Module()


def count_moves():
    """Count how often a block of a U-Net is sent to a device, as --lowvram does before and after each use."""
    original = torch.nn.Module.to

    def to(self, *args, **kwargs):
        counts["moves"] += type(self).__name__ == "TimestepEmbedSequential"
        return original(self, *args, **kwargs)

    torch.nn.Module.to = to


def count_block(module, _args):
    """Count the calls of blocks, those of control models too, and of layers with weights."""
    counts["blocks"] += type(module).__name__ == "TimestepEmbedSequential"
    counts["layers"] += "weight" in module._parameters


def layers_at(depth):
    """Return how many layers with weights a reuse at a depth has to call."""
    unet = the_unet()
    parts = [
        *unet.input_blocks[:depth],
        *unet.output_blocks[len(unet.output_blocks) - depth :],
        unet.time_embed,
        unet.out,
    ]
    parts += [unet.label_emb] if getattr(unet, "label_emb", None) is not None else []
    return sum("weight" in layer._parameters for part in parts for layer in part.modules())


def count(params):
    if params.denoiser.step == 0 or not counts["evaluations"]:
        counts["evaluations"].append(0)
    counts["evaluations"][-1] += 1
    for wish, act in (("raise_at", run_out_of_memory), ("nan_at", make_nan)):
        if wanted[wish] == counts["evaluations"][-1]:
            wanted[wish] = None
            at_the_next_call(the_unet().output_blocks[-1][-1], act)


def at_the_next_call(layer, act):
    """Have a layer return what `act` makes of its output, once; some hosts call layers and no blocks."""

    def hook(_layer, _args, output):
        handle.remove()
        return act(output)

    handle = layer.register_forward_hook(hook)


def run_out_of_memory(_output):
    raise torch.cuda.OutOfMemoryError("test: out of memory")


def make_nan(output):
    return output * float("nan")


def prediction():
    """Return what the checkpoint in force predicts, as DeepCache has it."""
    levels = sys.modules["deepcache_ext.webui.hosts"].host.noise_levels()
    return "" if levels is None else levels.prediction


def state():
    """Return the counts since the last call, and what of the extension hangs on the host."""
    unet = the_unet()
    hooks = (*unet._forward_pre_hooks.values(), *unet._forward_hooks.values())
    owners = [hook if hasattr(hook, "function") else getattr(hook, "__self__", None) for hook in hooks]
    xyz = next(data.module for data in scripts.scripts_data if data.script_class.__module__.endswith("xyz_grid.py"))
    gc.collect()
    found = {
        "evaluations": counts["evaluations"],
        "moves": counts["moves"],
        "blocks": counts["blocks"],
        "layers": counts["layers"],
        "outer_layers": [layers_at(depth) for depth in range(4)] if hasattr(unet, "time_embed") else [],
        "checkpoint": getattr(getattr(shared.sd_model, "sd_checkpoint_info", None), "name_for_extra", ""),
        "prediction": prediction(),
        "hooks": [type(owner).__module__ for owner in owners if owner is not None],
        "attributes": sorted(name for name in vars(unet) if "deepcache" in name.lower() or name == "__getstate__"),
        "axes": [option.label for option in xyz.axis_options if not getattr(option, "is_img2img", False)],
        "callbacks": [
            f"{category}: {callback.callback.__qualname__}"
            for category, callbacks in script_callbacks.callback_map.items()
            for callback in callbacks
            if "deepcache" in callback.script.lower().rsplit("/", 1)[-1]
        ],
        "tensors": sum(torch.is_tensor(thing) for thing in gc.get_objects()),
    }
    counts.update(evaluations=[], moves=0, blocks=0, layers=0)
    return found


def fail_to_decode():
    """Have the next latents fail to become a picture."""
    original = processing.decode_latent_batch

    def decode(*_args, **_kwargs):
        processing.decode_latent_batch = original
        raise RuntimeError("test: no picture of these")

    processing.decode_latent_batch = decode


def want(inner: str = "", raise_at: int = 0, nan_at: int = 0, decode: bool = True, whole_controls: bool = False):
    """Set what the next jobs do; with `whole_controls` DeepCache hears of no control model that it may shorten."""
    if not decode:
        fail_to_decode()
    wanted.update(inner=inner, raise_at=raise_at or None, nan_at=nan_at or None)
    host = sys.modules["deepcache_ext.webui.hosts"].host
    for name in ("control_models", "controls_ahead"):
        vars(host).pop(name, None)
        if whole_controls:
            setattr(host, name, lambda *_: [])


def reload_ui():
    """Do what the Reload UI button does."""
    shared.state.request_restart()


def narrow_controlnet():
    """Have the ControlNet extension, which assumes the usual width, load the ControlNet of a small checkpoint."""
    guess = sys.modules.get("scripts.controlnet_model_guess")
    if guess is not None:
        unet = shared.sd_model.model.diffusion_model
        config = guess.controlnet_sdxl_mid_config if shared.sd_model.is_sdxl else guess.controlnet_default_config
        config["model_channels"] = unet.model_channels


def add_routes(_demo, app):
    app.add_api_route("/e2e/narrow", narrow_controlnet, methods=["POST"])
    app.add_api_route("/e2e/state", state, methods=["GET"])
    app.add_api_route("/e2e/contract", deepcache_contract.results, methods=["GET"])
    app.add_api_route("/e2e/want", want, methods=["POST"])
    app.add_api_route("/e2e/reload", reload_ui, methods=["POST"])


count_moves()
torch.nn.modules.module.register_module_forward_pre_hook(count_block)
script_callbacks.on_cfg_denoiser(count)
script_callbacks.on_list_unets(lambda options: options.append(EngineOption()))
script_callbacks.on_app_started(add_routes)
