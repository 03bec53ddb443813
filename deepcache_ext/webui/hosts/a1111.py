"""AUTOMATIC1111's WebUI, and its amdgpu fork with DirectML and ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from modules import shared
from torch import Tensor, nn

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.rows import Batch
from deepcache_ext.webui.hosts import webui
from deepcache_ext.webui.hosts.host import Evaluation, Loaded
from deepcache_ext.webui.hosts.samplers import Samplers


class A1111(webui.WebUI):
    """The host whose checkpoints are ldm's and sgm's models, and whose denoiser cuts its batch by slices."""

    samplers = Samplers()
    counts_blocks = False

    def loaded(self) -> Loaded:
        model = webui.model_in_force()
        unet = getattr(getattr(model, "model", None), "diffusion_model", None)
        return Loaded(unet, getattr(model, "sd_checkpoint_info", None), webui.family_of(model))

    def noise_levels(self) -> NoiseLevels | None:
        model = webui.model_in_force()
        alphas_cumprod: Any = getattr(model, "alphas_cumprod", None)
        prediction: Any = getattr(model, "parameterization", None)
        known = alphas_cumprod is not None and prediction in {"eps", "v"}
        return NoiseLevels(alphas_cumprod, prediction) if known else None

    def obstacle(self) -> str:
        return webui.engine()

    def makes_without_samplers(self) -> str:
        return "ONNX Runtime" if getattr(shared.opts, "onnx_enable", False) else ""

    def control_models(self, p: Any) -> list[Any]:
        """Return the models of the ControlNet extension's units."""
        return [getattr(unit, "control_model", None) for unit in _units(p)]

    def in_force(self, p: Any, sigma: Tensor) -> Any:  # noqa: ARG002 - the units know their time
        """Return what the host's layers compare of LoRAs, and the same of hypernetworks and units."""
        loras = getattr(sys.modules.get("networks"), "loaded_networks", ())
        hypernetworks = getattr(shared, "loaded_hypernetworks", ())
        return (
            [(lora.name, lora.te_multiplier, lora.unet_multiplier, lora.dyn_dim) for lora in loras],
            [(one.name, [layer.multiplier for pair in one.layers.values() for layer in pair]) for one in hypernetworks],
            [bool(getattr(unit, "guidance_stopped", False)) for unit in _units(p)],
        )

    def controls_ahead(self) -> list[Any]:
        return []

    def evaluation(self, params: Any, sigma: Tensor | None = None) -> Evaluation:
        sigma = params.sigma if sigma is None else sigma
        skips_now = not shared.opts.s_min_uncond_all and params.denoiser.step % 2 == 1
        partial = skips_now and _is_below_minimum(params.denoiser, sigma)
        keys = rows(params, sigma)

        def keys_of(args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Sequence[Hashable] | None:
            part = part_of(args[0], params) if args and isinstance(args[0], Tensor) else None
            return None if part is None else keys[part]

        inner = getattr(params.denoiser, "inner_model", None)
        heard_at = inner if isinstance(inner, nn.Module) else None
        return Evaluation(keys, _batch(params), partial, heard_at, keys_of)


def _units(p: Any) -> list[Any]:
    """Return the ControlNet extension's units of a job that are switched on: ControlNets, adapters of any kind."""
    scripts = getattr(getattr(p, "scripts", None), "alwayson_scripts", ())
    networks = (getattr(script, "latest_network", None) for script in scripts)
    return [unit for network in networks for unit in getattr(network, "control_params", None) or ()]


def rows(params: Any, sigma: Any) -> tuple[Hashable, ...]:
    """Return the keys of an evaluation's rows at `sigma` in the order in which the host hands them to the U-Net.

    `params` are the parameters of its denoiser's callback. A key has the kind, the picture, the number within it (of
    prompts joined by AND), and which entry of its prompt's schedule is in force. All conds come first, then the unconds
    unless they are left out; a checkpoint for editing has the picture's own rows between them.
    """
    given, step = webui.arguments(params), params.denoiser.step
    conds: list[Hashable] = [
        ("cond", picture, number, webui.entry_in_force(prompt.schedules, step))
        for picture, prompts in enumerate(getattr(given.get("cond"), "batch", ()))
        for number, prompt in enumerate(prompts)
    ]
    if len(conds) != params.text_cond.shape[0]:  # somebody has put in other conds than the sampler was given
        conds = [("cond", row) for row in range(params.text_cond.shape[0])]
    unconds = [webui.entry_in_force(schedule, step) for schedule in given.get("uncond") or ()]
    pictures = len(unconds) or len(params.x) - len(conds)
    edits = len(params.x) - len(conds) > pictures
    kinds = ["image"] if edits else []
    if not leaves_out_unconds(params.denoiser, sigma, edits=edits):
        kinds.append("uncond")
    others = [(kind, row, unconds[row] if unconds else 0) for kind in kinds for row in range(pictures)]
    return (*conds, *others)


def _batch(params: Any) -> Batch:
    pictures = len(webui.arguments(params).get("uncond") or ()) or len(params.x) - params.text_cond.shape[0]
    return Batch(max(1, pictures), tuple(params.x.shape[2:]))


def part_of(x: Tensor, params: Any) -> slice | None:
    """Return which rows of `params.x` a tensor is by its memory, as the host's own cut is; None for any other."""
    whole = params.x
    same_memory = (x if x._base is None else x._base) is (whole if whole._base is None else whole._base)
    if not same_memory or x.shape[1:] != whole.shape[1:] or x.stride() != whole.stride():
        return None
    first = (x.storage_offset() - whole.storage_offset()) // max(1, whole.stride(0))
    return slice(first, first + len(x))


def leaves_out_unconds(denoiser: Any, sigma: Any, *, edits: bool = False) -> bool:
    """Tell whether the denoiser leaves the unconds out of this evaluation: by the same rule as its own."""
    early = getattr(shared.opts, "skip_early_cond", 0.0)
    if early != 0.0 and denoiser.step / denoiser.total_steps <= early:
        return True
    may = not edits and bool(denoiser.step % 2 or shared.opts.s_min_uncond_all)
    return may and _is_below_minimum(denoiser, sigma)


def _is_below_minimum(denoiser: Any, sigma: Any) -> bool:
    """Tell whether the noise is below the minimum for unconds, which is in the sampler's arguments."""
    minimum = webui.arguments_of(denoiser).get("s_min_uncond", 0)
    return bool(minimum > 0 and sigma[0] < minimum)
