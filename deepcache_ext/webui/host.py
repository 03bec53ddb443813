"""What the adapter asks of the host and where it takes hold of it. Everything else here gets plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import patches, sd_models, sd_samplers_common, sd_unet, shared
from torch import nn

from deepcache_ext.denoised import NoiseLevels
from deepcache_ext.webui.presets import Family

_PATCH = ("deepcache", sd_samplers_common.Sampler, "launch_sampling")


class Loaded:
    """The checkpoint whose weights are in force, as far as caching is concerned; equal while neither changes."""

    def __init__(self, model: Any) -> None:
        self.unet: nn.Module | None = getattr(getattr(model, "model", None), "diffusion_model", None)
        self.checkpoint = getattr(model, "sd_checkpoint_info", None)
        self.family: Family = family_of(model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loaded) and other.unet is self.unet and other.checkpoint == self.checkpoint

    __hash__ = None  # type: ignore[assignment]


def family_of(model: Any) -> Family:
    """Return the family of a checkpoint's model; SD1 while none is loaded."""
    if getattr(model, "is_sdxl", False):
        return "SDXL"
    return "SD2" if getattr(model, "is_sd2", False) else "SD1"


def loaded() -> Loaded:
    """Return the checkpoint in force. Loads none."""
    return Loaded(sd_models.model_data.sd_model)


def engine() -> str:
    """Return the name of the engine that has replaced the U-Net by the host's sd_unet option, or ""."""
    unet = sd_unet.current_unet
    return "" if unet is None else str(getattr(getattr(unet, "option", None), "label", type(unet).__name__))


def uses_onnx() -> bool:
    """Tell whether the AMD fork's ONNX Runtime makes the pictures: no sampler, U-Net or script of the host's runs."""
    return bool(getattr(shared.opts, "onnx_enable", False))


def job_id() -> Any:
    """Return what tells one job of the user from the next; the jobs made inside it have the same."""
    return shared.state.time_start


def noise_levels() -> NoiseLevels | None:
    """Return what the timesteps and outputs of the checkpoint in force mean; None if it does not tell."""
    model = sd_models.model_data.sd_model
    alphas_cumprod, prediction = (getattr(model, name, None) for name in ("alphas_cumprod", "parameterization"))
    return None if alphas_cumprod is None or prediction not in {"eps", "v"} else NoiseLevels(alphas_cumprod, prediction)


def control_models(p: Any) -> list[Any]:
    """Return the models of the ControlNet extension's units in a job; none where there is no such extension."""
    scripts = getattr(getattr(p, "scripts", None), "alwayson_scripts", ())
    networks = (getattr(script, "latest_network", None) for script in scripts)
    units = (unit for network in networks for unit in getattr(network, "control_params", None) or ())
    return [getattr(unit, "control_model", None) for unit in units]


def skips_uncond_only_now(denoiser: Any, sigma: Any) -> bool:
    """Tell whether Negative Guidance minimum sigma leaves the unconds out of this evaluation but not of the next.

    The same reckoning as the denoiser's own; the minimum is in the sampler's arguments, as the host passes it on.
    """
    if shared.opts.s_min_uncond_all or denoiser.step % 2 == 0:
        return False
    minimum = (denoiser.sampler.sampler_extra_args or {}).get("s_min_uncond", 0)
    return bool(minimum > 0 and sigma[0] < minimum)


def wrap_sampling(run: Callable[[Callable[..., Any], Any, int, Callable[[], Any]], Any]) -> None:
    """Have `run(original, sampler, steps, func)` called in the place of every sampler's launch_sampling."""
    unwrap_sampling()
    original = getattr(_PATCH[1], _PATCH[2])

    def launch_sampling(sampler: Any, steps: int, func: Callable[[], Any]) -> Any:
        return run(original, sampler, steps, func)

    patches.patch(*_PATCH, launch_sampling)


def unwrap_sampling() -> None:
    """Take back what `wrap_sampling` did, if it did."""
    if patches.original(*_PATCH) is not None:
        patches.undo(*_PATCH)
