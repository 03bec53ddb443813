"""What the adapter asks of the host and where it takes hold of it. Everything else here gets plain values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from modules import patches, sd_models, sd_samplers_common, sd_unet, shared
from torch import Tensor, nn

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.rows import Batch
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


def rows(params: Any) -> tuple[Hashable, ...]:
    """Return the keys of an evaluation's rows in the order in which the host hands them to the U-Net, from `params`.

    These are the parameters of its denoiser's callback. A key has the kind, the picture, the number within it (of
    prompts joined by AND), and which entry of its prompt's schedule is in force. All conds come first, then the unconds
    unless they are left out; a checkpoint for editing has the picture's own rows between them.
    """
    given = params.denoiser.sampler.sampler_extra_args or {}
    conds: list[Hashable] = [
        ("cond", picture, number, _in_force(prompt.schedules, params.denoiser.step))
        for picture, prompts in enumerate(getattr(given.get("cond"), "batch", ()))
        for number, prompt in enumerate(prompts)
    ]
    if len(conds) != params.text_cond.shape[0]:  # somebody has put in other conds than the sampler was given
        conds = [("cond", row) for row in range(params.text_cond.shape[0])]
    unconds = [_in_force(schedule, params.denoiser.step) for schedule in given.get("uncond") or ()]
    pictures = len(unconds) or len(params.x) - len(conds)
    edits = len(params.x) - len(conds) > pictures
    kinds = ["image"] if edits else []
    if not leaves_out_unconds(params.denoiser, params.sigma, edits=edits):
        kinds.append("uncond")
    others = [(kind, row, unconds[row] if unconds else 0) for kind in kinds for row in range(pictures)]
    return (*conds, *others)


def batch(params: Any) -> Batch:
    """Return what is known of the batch that the sampler works on, from the parameters of its denoiser's callback."""
    given = params.denoiser.sampler.sampler_extra_args or {}
    pictures = len(given.get("uncond") or ()) or len(params.x) - params.text_cond.shape[0]
    return Batch(max(1, pictures), tuple(params.x.shape[2:]))


def part_of(x: Tensor, params: Any) -> slice | None:
    """Return which rows of `params.x` a tensor is by its memory, as the host's own cut is; None for any other."""
    whole = params.x
    same_memory = (x if x._base is None else x._base) is (whole if whole._base is None else whole._base)
    if not same_memory or x.shape[1:] != whole.shape[1:] or x.stride() != whole.stride():
        return None
    first = (x.storage_offset() - whole.storage_offset()) // max(1, whole.stride(0))
    return slice(first, first + len(x))


def inner_model(denoiser: Any) -> nn.Module | None:
    """Return the module that the host's denoiser hands its rows to, on their way to the U-Net."""
    found = getattr(denoiser, "inner_model", None)
    return found if isinstance(found, nn.Module) else None


def leaves_out_unconds(denoiser: Any, sigma: Any, *, edits: bool = False) -> bool:
    """Tell whether the denoiser leaves the unconds out of this evaluation: the same reckoning as its own."""
    early = getattr(shared.opts, "skip_early_cond", 0.0)
    if early != 0.0 and denoiser.step / denoiser.total_steps <= early:
        return True
    may = not edits and bool(denoiser.step % 2 or shared.opts.s_min_uncond_all)
    return may and _is_below_minimum(denoiser, sigma)


def skips_uncond_only_now(denoiser: Any, sigma: Any) -> bool:
    """Tell whether Negative Guidance minimum sigma leaves the unconds out of this evaluation but not of the next.

    The keys say who is left out now; who is back in the next evaluation they can't.
    """
    return not shared.opts.s_min_uncond_all and denoiser.step % 2 == 1 and _is_below_minimum(denoiser, sigma)


def _is_below_minimum(denoiser: Any, sigma: Any) -> bool:
    """Tell whether the noise is below the minimum for unconds, which is in the sampler's arguments."""
    minimum = (denoiser.sampler.sampler_extra_args or {}).get("s_min_uncond", 0)
    return bool(minimum > 0 and sigma[0] < minimum)


def _in_force(schedule: Sequence[Any], step: int) -> int:
    """Return the number of the entry of a prompt's schedule that the host uses at a step."""
    return next((number for number, entry in enumerate(schedule) if step <= entry.end_at_step), 0)


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
