"""A test-only extension: has others know the blocks of a small checkpoint, which they know by the usual widths."""

import sys
from pathlib import Path

import safetensors.torch
import torch
from modules import script_callbacks, shared

WIDTHS = (1280, 640, 320)


def width(usual):
    """Return what stands for a usual width in the small checkpoint."""
    return usual // WIDTHS[-1] * shared.sd_model.model.diffusion_model.model_channels


def narrow_freeu():
    free_u = sys.modules.get("lib_free_u.unet")
    if free_u is not None:
        exchange(free_u.free_u_cat_hijack, {WIDTHS: tuple(map(width, WIDTHS))})


def make_motion_module(name: str):
    """Write a motion module with random weights for AnimateDiff, of its third version."""
    motion = sys.modules.get("motion_module")
    if motion is not None:
        usual = WIDTHS[::-1] + WIDTHS[:1]
        exchange(motion.MotionWrapper.__init__, {usual: tuple(map(width, usual))})
        made = motion.MotionWrapper(mm_name=name, mm_hash="", mm_type=motion.MotionModuleType.AnimateDiffV3)
        generator = torch.Generator().manual_seed(1)
        for parameter in made.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        folder = Path(sys.modules["scripts.animatediff_mm"].mm_animatediff.get_model_dir())
        safetensors.torch.save_file(made.state_dict(), folder / name)


def exchange(function, others):
    """Put other constants into a function."""
    constants = tuple(others.get(constant, constant) for constant in function.__code__.co_consts)
    function.__code__ = function.__code__.replace(co_consts=constants)


def add_routes(_demo, app):
    app.add_api_route("/e2e/narrow-freeu", narrow_freeu, methods=["POST"])
    app.add_api_route("/e2e/motion-module", make_motion_module, methods=["POST"])


script_callbacks.on_app_started(add_routes)
