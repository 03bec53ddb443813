"""The U-Net's anatomy.

An ldm or sgm U-Net with n input and n output blocks runs its input blocks one after the other, then the middle
block, then its output blocks, each on the concatenation of the last output and the output of the opposite input
block. Cut at depth d, the deep part is everything between input block d-1 and output block n-d. Its result, the
output of output block n-d-1, is the feature that caching keeps. At depth 0 the deep part is all of the blocks, and the
output layer alone is left for a reuse.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from deepcache_ext.network.own_hooks import is_own
from deepcache_ext.sentence import brief

LISTS = ("input_blocks", "middle_block", "output_blocks")
"""The attributes of a U-Net that hold its blocks."""


def find_unet(model: Any) -> nn.Module:
    """Return the U-Net in `model`: the module itself or the first one inside it that has a U-Net's block lists.

    Raises ValueError if there is no U-Net.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    for module in modules:
        inputs, middle, outputs = (module._modules.get(name) for name in LISTS)
        lists = isinstance(inputs, nn.ModuleList) and isinstance(outputs, nn.ModuleList) and middle is not None
        if lists and len(cast(nn.ModuleList, inputs)) == len(cast(nn.ModuleList, outputs)) > 1:
            return module
    raise _no_unet(model)


def check_for_unet(model: nn.Module) -> None:
    """Raise the ValueError of `find_unet` if no module in `model` has a U-Net's block lists.

    Unlike that, it sees a U-Net while it is being called, by another thread too, and has its lists exchanged.
    """
    if not any(set(LISTS) <= module._modules.keys() for module in model.modules()):
        raise _no_unet(model)


def blocks(unet: nn.Module) -> tuple[nn.ModuleList, nn.Module, nn.ModuleList]:
    """Return the input blocks, the middle block and the output blocks of `unet`."""
    inputs, middle, outputs = (unet._modules[name] for name in LISTS)
    return cast(nn.ModuleList, inputs), cast(nn.Module, middle), cast(nn.ModuleList, outputs)


def block_modules(unet: nn.Module) -> tuple[nn.Module, ...]:
    """Return all blocks of `unet`, in the order in which they run."""
    inputs, middle, outputs = blocks(unet)
    return cast(tuple[nn.Module, ...], (*inputs._modules.values(), middle, *outputs._modules.values()))


def deep_blocks(unet: nn.Module, depth: int) -> tuple[nn.Module, ...]:
    """Return the blocks that a reuse at `depth` skips, in the order in which they run."""
    modules = block_modules(unet)
    return modules[depth : len(modules) - depth]


def head(unet: nn.Module) -> nn.Module | None:
    """Return the layers of `unet` after its blocks, if nothing but they would be called; None if they have hooks.

    Those of ours count as none.
    """
    layers = unet._modules.get("out")
    if not isinstance(layers, nn.Sequential):
        return None
    return layers if not any(map(_is_changed, layers.modules())) else None


def _is_changed(layer: nn.Module) -> bool:
    """Tell whether a layer has hooks that are not ours, or a forward of its own."""
    hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    return "forward" in vars(layer) or not all(map(is_own, hooks))


def max_depth(unet: nn.Module) -> int:
    """Return the largest depth at which `unet` can be cut: 11 for SD1 and SD2, 8 for SDXL."""
    return len(blocks(unet)[0]) - 1


def is_compiled(model: nn.Module, unet: nn.Module) -> bool:
    """Tell whether `unet`, or a module in `model` that contains it, runs as torch.compile has made it."""
    return any(_is_compiled(module) and any(part is unet for part in module.modules()) for module in model.modules())


def _is_compiled(module: nn.Module) -> bool:
    """Tell whether a module is compiled in place, or the wrapper around one that is."""
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def has_foreign_forward(unet: nn.Module) -> bool:
    """Tell whether someone set a `forward` of their own on the instance, as the ControlNet extension does.

    The class's own forward, left on the instance by such an extension when it is done, is not foreign.
    """
    forward = vars(unet).get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(unet).forward


def _no_unet(model: Any) -> ValueError:
    return ValueError(
        f"{brief(type(model).__name__)} has no U-Net with input_blocks, middle_block and as many output_blocks; "
        "use a checkpoint of the SD1, SD2 or SDXL family"
    )
