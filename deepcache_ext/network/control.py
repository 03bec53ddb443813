"""What of a control model a reuse needs.

A control model (ControlNet, https://arxiv.org/abs/2302.05543) is a copy of the U-Net's input and middle blocks, with a
convolution after each whose output is added to the skip connection from the input block of the same number. A reuse
at depth d has no other skip connections than the first d, so that only the first d blocks of the control model have
an effect on it. The first block always runs, for the control model adds its own picture to what that block returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from deepcache_ext.network.exchange import Exchange


def short_controls(models: Iterable[Any], depth: int) -> list[Exchange]:
    """Return what makes each control model in `models` run its first `depth` blocks alone, at least one.

    A control model is a module that has input blocks and as many zero convolutions, or contains one. In the place of
    what its other blocks would return it returns zeros of shape (rows, 1, 1, 1).
    """
    controls = (_control_in(model) for model in models if isinstance(model, nn.Module))
    return [_short(control, max(1, depth)) for control in dict.fromkeys(controls) if control is not None]


def _control_in(model: nn.Module) -> nn.Module | None:
    return next((module for module in model.modules() if _is_control(module)), None)


def _is_control(module: nn.Module) -> bool:
    blocks, convolutions = (module._modules.get(name) for name in ("input_blocks", "zero_convs"))
    return (
        isinstance(blocks, nn.ModuleList)
        and isinstance(convolutions, nn.ModuleList)
        and len(blocks) == len(convolutions)
        and {"middle_block", "middle_block_out"} <= module._modules.keys()
    )


def _short(control: nn.Module, depth: int) -> Exchange:
    same, nothing = _Same(), _Nothing()
    blocks, convolutions = (cast(nn.ModuleList, control._modules[name]) for name in ("input_blocks", "zero_convs"))
    left_out = len(blocks) - depth
    return Exchange(
        control,
        input_blocks=nn.ModuleList([*blocks[:depth], *[same] * left_out]),
        zero_convs=nn.ModuleList([*convolutions[:depth], *[nothing] * left_out]),
        middle_block=same,
        middle_block_out=nothing,
    )


class _Same(nn.Module):
    """Returns what it gets."""

    def forward(self, h: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return h


class _Nothing(nn.Module):
    """Returns a zero for every row, which may be added to anything."""

    def forward(self, h: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return h.new_zeros((len(h), 1, 1, 1))
