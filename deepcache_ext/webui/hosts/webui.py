"""What the WebUI and all that descend from it have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from modules import patches, paths_internal, processing, sd_models, sd_samplers_common, sd_unet, shared

from deepcache_ext.sentence import brief
from deepcache_ext.webui.family import Family

_PATCH = ("deepcache", sd_samplers_common.Sampler, "launch_sampling")
_PATCH_OF_JOBS = ("deepcache", processing, "process_images_inner")

_PACKAGES = frozenset({"modules", "modules_forge", "backend", "ldm_patched"})
"""Where the code of a host of the family is; its extensions have names of their own."""


class WebUI:
    """The part of a `Host` that every WebUI answers in the same way."""

    def job_id(self) -> Any:
        return shared.state.time_start

    def interrupted(self) -> bool:
        return bool(shared.state.interrupted or shared.state.skipped)

    def prompts_change(self, sampler: Any) -> bool:
        given = sampler.sampler_extra_args or {}
        batch = getattr(given.get("cond"), "batch", ())
        conds = [prompt.schedules for prompts in batch for prompt in prompts]
        return any(len(schedule) > 1 for schedule in (*conds, *(given.get("uncond") or ())))

    def checkpoint(self) -> str:
        model = model_in_force()
        info = getattr(model, "sd_checkpoint_info", None)
        names = (getattr(model, "sd_model_hash", None), *(getattr(info, name, None) for name in ("hash", "name")))
        return next((str(name) for name in names if name), "")

    def data_folder(self) -> Path:
        return Path(paths_internal.data_path)

    def is_own(self, hook: Any) -> bool:
        return str(getattr(hook, "__module__", "")).partition(".")[0] in _PACKAGES

    def wrap_sampling(self, run: Callable[[Callable[..., Any], Any, int, Callable[[], Any]], Any]) -> None:
        self.unwrap_sampling()
        original = getattr(_PATCH[1], _PATCH[2])

        def launch_sampling(sampler: Any, steps: int, func: Callable[[], Any]) -> Any:
            return run(original, sampler, steps, func)

        patches.patch(*_PATCH, launch_sampling)

    def unwrap_sampling(self) -> None:
        if patches.original(*_PATCH) is not None:
            patches.undo(*_PATCH)

    def tell_ends_of_jobs(self, ended: Callable[[Any], None]) -> None:
        self.tell_no_ends_of_jobs()
        original = getattr(_PATCH_OF_JOBS[1], _PATCH_OF_JOBS[2])

        @wraps(original)
        def process_images_inner(p: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(p, *args, **kwargs)
            finally:
                ended(p)

        patches.patch(*_PATCH_OF_JOBS, process_images_inner)

    def tell_no_ends_of_jobs(self) -> None:
        if patches.original(*_PATCH_OF_JOBS) is not None:
            patches.undo(*_PATCH_OF_JOBS)


def model_in_force() -> Any:
    """Return the checkpoint's model; None while none is loaded."""
    return sd_models.model_data.sd_model


def engine() -> str:
    """Return why the engine that has replaced the U-Net by the host's sd_unet option rules caching out, or ""."""
    unet = sd_unet.current_unet
    if unet is None:
        return ""
    name = getattr(getattr(unet, "option", None), "label", type(unet).__name__)
    return f'the U-Net is replaced by the engine "{brief(str(name))}"; choose "None" as SD Unet in the settings'


def family_of(model: Any) -> Family:
    """Return the family of a checkpoint's model; SD1 while none is loaded."""
    if getattr(model, "is_sdxl", False):
        return "SDXL"
    return "SD2" if getattr(model, "is_sd2", False) else "SD1"


def arguments_of(denoiser: Any) -> Mapping[str, Any]:
    """Return what the sampler gives its denoiser."""
    return denoiser.sampler.sampler_extra_args or {}


def arguments(params: Any) -> Mapping[str, Any]:
    """Return what the sampler gives the denoiser that called back with `params`."""
    return arguments_of(params.denoiser)


def entry_in_force(schedule: Sequence[Any], step: int) -> int:
    """Return the number of the entry of a prompt's schedule that the host uses at a step."""
    return next((number for number, entry in enumerate(schedule) if step <= entry.end_at_step), 0)
