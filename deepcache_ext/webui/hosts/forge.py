"""Forge and its family: reForge, Forge Classic, Forge Neo.

Their U-Net hangs on `forge_objects.unet`, a patcher. Its calls come from ComfyUI's sampling function: each is told by
keyword of what kind its rows are, unconds come first, and control models have run before it.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from modules import sd_samplers_common, shared
from torch import Tensor

from deepcache_ext.features.denoised import NoiseLevels, Prediction
from deepcache_ext.features.rows import Batch
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.hosts import webui
from deepcache_ext.webui.hosts.host import Evaluation, Loaded
from deepcache_ext.webui.hosts.samplers import Samplers

_KINDS = {0: "cond", 1: "uncond"}
"""What the host's numbers of kinds mean."""
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "eps": "eps", "v_prediction": "v"}
_FAMILIES: dict[str, Family] = {"xl": "SDXL"}
"""The families by the preset at the top of Forge's page, which loads a checkpoint when the first picture is made."""


_ONE_A_STEP = frozenset({
    "Euler", "LMS", "DPM++ 2M", "LCM", "DDPM", "IPNDM", "IPNDM_V", "DEIS", "Euler Negative",
})  # fmt: skip
"""Samplers that evaluate once a step; of reForge's dozens of others the host tells nothing."""
_DECIDE_THEMSELVES = frozenset({
    "DPM adaptive", "ODE (Bosh3)", "ODE (Fehlberg2)", "ODE (Adaptive Heun)", "ODE (Dopri5)", "ODE Custom",
})  # fmt: skip


class Forge(webui.WebUI):
    """The family's host, whichever of its members."""

    samplers = Samplers(_ONE_A_STEP, _DECIDE_THEMSELVES)
    counts_blocks = True

    def __init__(self) -> None:
        self._leaves_out = _rule()

    def loaded(self) -> Loaded:
        model, patcher = webui.model_in_force(), _patcher()
        if patcher is None:
            return Loaded(None, None, _FAMILIES.get(str(getattr(shared.opts, "forge_preset", "")), "SD1"))
        # with its option "refiner_fast_sd" Neo loads the refiner's weights into the same module
        weights = getattr(model, "sd_checkpoint_info", None), getattr(sd_samplers_common, "ORIGINAL_CHECKPOINT", None)
        return Loaded(patcher.model.diffusion_model, weights, webui.family_of(model))

    def noise_levels(self) -> NoiseLevels | None:
        model = getattr(_patcher(), "model", None)
        # what the host itself computes with: patches of the user's take its place, and its checkpoint may say less
        sampling: Any = getattr(model, "predictor", getattr(model, "model_sampling", None))
        sigmas, prediction = getattr(sampling, "sigmas", None), _prediction_of(sampling)
        if sigmas is None or prediction is None or int(sampling.timestep(sigmas[-1:])) != len(sigmas) - 1:
            return None  # nothing that is known, or timesteps that do not count the noise levels
        return NoiseLevels(1 / (sigmas**2 + 1), prediction)

    def obstacle(self) -> str:
        return webui.engine() or _spectrum() or _compiled() or _replaced_forward()

    def makes_without_samplers(self) -> str:
        return ""

    def control_models(self, _p: Any) -> list[Any]:
        return []

    def in_force(self, p: Any, sigma: Tensor) -> Any:  # noqa: ARG002 - all hangs on the patcher
        """Return the strengths of the patches of weights, and which controls and adapters are on at `sigma`."""
        patcher = _patcher()
        ranges = {*_ranges(patcher)}
        now = float(sigma[0]) if ranges else 0.0
        return _strengths(patcher), {(start, end) for start, end in ranges if start >= now >= end}

    def controls_ahead(self) -> list[Any]:
        patcher = _patcher()
        if patcher is None or "model_function_wrapper" in patcher.model_options:
            return []  # a wrapper may make other calls of the U-Net than the one that the residuals were made for
        return [getattr(control, "control_model", None) for control in patcher.list_controlnets()]

    def evaluation(self, params: Any, sigma: Tensor | None = None) -> Evaluation:  # noqa: ARG002 - params' are its own
        pictures = len(params.x)
        key_of = _keys(params)
        now, returns = self._leaves_out(params.denoiser, params.sigma)
        now = now and (self._leaves_out is _reforge_rule or not _makes_all(params))  # reForge hands none over
        has_unconds = not now and _guidance(params) and params.text_uncond is not None
        places = [("uncond", 0)] if has_unconds else []
        places += [("cond", number) for number in reversed(range(_prompts(params)))]
        keys = tuple(key_of(*place, picture) for place in places for picture in range(pictures))
        seen: Counter[str] = Counter()

        def keys_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Hashable] | None:
            kinds = (kwargs.get("transformer_options") or {}).get("cond_or_uncond") or ()
            rows = len(args[0]) if args and isinstance(args[0], Tensor) else 0
            found: list[Hashable] = []
            for kind in kinds:
                name = _KINDS.get(kind, str(kind))
                found += [key_of(name, seen[name], picture) for picture in range(pictures)]
                seen[name] += 1
            return found if found and len(found) == rows else None

        unet = self.loaded().unet
        batch = Batch(pictures, tuple(params.x.shape[2:]))
        return Evaluation(keys, batch, now and returns, unet, keys_of, exact=False)


def _patcher() -> Any:
    """Return the patcher of the U-Net in force; None while no checkpoint is loaded."""
    return getattr(getattr(webui.model_in_force(), "forge_objects", None), "unet", None)


def _strengths(patcher: Any) -> list[Any]:
    """Return what LoRAs are merged into the weights and how strongly, on Forge or where patches go by weight."""
    merged = getattr(getattr(patcher, "lora_loader", None), "loaded_hash", None)
    merged = merged or getattr(getattr(patcher, "model", None), "current_weight_patches_uuid", None)
    by_lora = [*getattr(patcher, "lora_patches", {}).values(), getattr(patcher, "patches", {})]
    return [merged, [(patch[0], patch[2]) for of in by_lora for patches in of.values() for patch in patches]]


def _ranges(patcher: Any) -> Iterator[tuple[float, float]]:
    """Return from which noise level to which each control and each IP-Adapter has an effect."""
    for control in patcher.list_controlnets():
        if control.timestep_range is not None:
            yield float(control.timestep_range[0]), float(control.timestep_range[1])
    replaced = patcher.model_options.get("transformer_options", {}).get("patches_replace", {})
    for patch in (patch for patches in replaced.values() for patch in patches.values()):
        of_forge = zip(getattr(patch, "sigma_start", ()), getattr(patch, "sigma_end", ()), strict=True)
        of_reforge = (one for one in getattr(patch, "kwargs", ()) if "sigma_end" in one)
        both = (*of_forge, *((one["sigma_start"], one["sigma_end"]) for one in of_reforge))
        yield from ((float(start), float(end)) for start, end in both)


def _prediction_of(sampling: Any) -> Prediction | None:
    """Return what the U-Net predicts by what Forge's predictor says, or by the class that the others' is made of."""
    told = getattr(sampling, "prediction_type", None)
    if told is None:
        classes = (made.__name__ for made in type(sampling).__mro__ if "calculate_denoised" in vars(made))
        told = next(classes, "").lower()
    return _PREDICTIONS.get(str(told))


def _guidance(params: Any) -> bool:
    """Tell whether the guidance is such that the host makes the unconds."""
    p = params.denoiser.p
    scale = webui.arguments(params).get("cond_scale", 7.0)
    if getattr(p, "is_hr_pass", False):
        scale = getattr(p, "hr_cfg", scale)
    if getattr(params.denoiser, "_refiner_pass", False):
        scale = getattr(p, "refiner_cfg", None) or scale  # Neo's
    return not math.isclose(scale, 1.0) or _makes_all(params)


def _makes_all(params: Any) -> bool:
    """Tell whether unconds are made even where they count for nothing, as a script or a CFG++ sampler asks for."""
    options = {**_patcher().model_options, **(webui.arguments(params).get("model_options") or {})}
    return bool(options.get("disable_cfg1_optimization", False))


def _prompts(params: Any) -> int:
    """Return how many prompts joined by AND the host makes of each picture: as many as that with the fewest has."""
    batch = getattr(webui.arguments(params).get("cond"), "batch", ())
    return min((len(prompts) for prompts in batch), default=1)


def _keys(params: Any) -> Callable[[str, int, int], Hashable]:
    """Return what gives the key of a row: its kind, its number within the kind, its picture, its prompts in force.

    The host hands over the prompts joined by AND in an order of its own, the same in every evaluation as long as
    their texts stay. So the prompts of a picture count together: where one changes, all of its conds are new.
    """
    given, step = webui.arguments(params), params.denoiser.step
    conds: list[tuple[int, ...]] = [
        tuple(webui.entry_in_force(prompt.schedules, step) for prompt in prompts)
        for prompts in getattr(given.get("cond"), "batch", ())
    ]
    unconds: list[tuple[int, ...]] = [(webui.entry_in_force(schedule, step),) for schedule in given.get("uncond") or ()]
    in_force = {"cond": conds, "uncond": unconds}

    def key_of(kind: str, number: int, picture: int) -> Hashable:
        entries = in_force.get(kind, [])
        return kind, number, picture, entries[picture] if picture < len(entries) else ()

    return key_of


Rule = Callable[[Any, Any], "tuple[bool, bool]"]
"""Tells whether a denoiser leaves the unconds out at a sigma, and if so, whether the next evaluation has them again."""


def _rule() -> Rule:
    """Return by which rule this member's denoiser leaves out unconds; a wrong guess costs a refresh, no picture."""
    if importlib.util.find_spec("backend") is not None:
        return _neo_rule if hasattr(sd_samplers_common, "ORIGINAL_CHECKPOINT") else _forge_rule
    return _reforge_rule if hasattr(shared.opts, "s_min_uncond_all") else _classic_rule


def _forge_rule(denoiser: Any, sigma: Any) -> tuple[bool, bool]:
    """Negative Guidance minimum sigma at odd steps, Skip Early CFG up to a part of the run."""
    early = getattr(shared.opts, "skip_early_cond", 0.0)
    if early > 0 and denoiser.step / denoiser.total_steps <= early:
        return True, False
    minimum = webui.arguments_of(denoiser).get("s_min_uncond", 0)
    return _below_minimum(minimum, sigma, at=denoiser.step % 2 == 1)


def _neo_rule(denoiser: Any, sigma: Any) -> tuple[bool, bool]:
    """As Forge's, but Skip Early CFG leaves the first evaluation alone."""
    if denoiser.step > 0:
        return _forge_rule(denoiser, sigma)
    return _below_minimum(webui.arguments_of(denoiser).get("s_min_uncond", 0), sigma, at=False)


def _reforge_rule(denoiser: Any, sigma: Any) -> tuple[bool, bool]:
    """As Forge's at even steps, with the minimum out of the settings, and Skip Early CFG by number as well."""
    now, returns = _below_minimum(getattr(shared.opts, "s_min_uncond", 0), sigma, at=denoiser.step % 2 == 0)
    early = getattr(shared.opts, "skip_early_cond", 0.0)
    if not now and (denoiser.step < early or (early != 0 and denoiser.step / denoiser.total_steps <= early)):
        return True, False
    return now, returns


def _classic_rule(denoiser: Any, sigma: Any) -> tuple[bool, bool]:
    """The minimum at every step, and Skip Early CFG from 0 on: the first evaluation has no unconds."""
    if 0 <= denoiser.step / denoiser.total_steps <= getattr(shared.opts, "skip_early_cond", 0.0):
        return True, False
    minimum = webui.arguments_of(denoiser).get("s_min_uncond", 0)
    return bool(minimum > 0 and sigma[0] < minimum), False


def _below_minimum(minimum: float, sigma: Any, *, at: bool) -> tuple[bool, bool]:
    always = bool(getattr(shared.opts, "s_min_uncond_all", False))
    now = bool((at or always) and minimum > 0 and sigma[0] < minimum)
    return now, not always


def _spectrum() -> str:
    wrapper = getattr(_patcher(), "model_options", {}).get("model_function_wrapper")
    name = f"{getattr(wrapper, '__module__', '')}.{getattr(wrapper, '__qualname__', type(wrapper).__name__)}"
    is_it = "spectrum" in name.lower()
    return "Spectrum is on, which skips calls of the U-Net itself; use one of the two" if is_it else ""


def _compiled() -> str:
    apply = getattr(getattr(_patcher(), "model", None), "apply_model", None)
    is_it = bool(getattr(apply, "_torch_compile_wrapper", False))
    return 'the U-Net is compiled by "Torch Compile Integrated"; choose "Disable" there' if is_it else ""


def _replaced_forward() -> str:
    patcher = _patcher()
    unet = None if patcher is None else type(patcher.model.diffusion_model)
    code = getattr(getattr(unet, "forward", None), "__globals__", None)
    if unet is None or code is None or code.get("__name__") in {c.__module__ for c in unet.__mro__}:
        return ""
    return f"{code.get('__name__')} has replaced the forward of {unet.__name__}; switch one of the two off"
