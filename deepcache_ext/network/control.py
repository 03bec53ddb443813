"""What of a control model a reuse needs.

A control model (ControlNet, https://arxiv.org/abs/2302.05543) is a copy of the U-Net's input and middle blocks, with a
convolution after each whose output is added to the skip connection from the input block of the same number. A reuse
at depth d has no other skip connections than the first d, so that only the first d blocks of the control model have
an effect on it. The first block always runs, for the control model adds its own picture to what that block returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from deepcache_ext.network.exchange import Exchange
from deepcache_ext.network.own_hooks import OwnHooks


def short_controls(models: Iterable[Any], depth: int) -> list[Exchange]:
    """Return what makes each control model in `models` run its first `depth` blocks alone, at least one.

    A control model is a module that has input blocks and as many zero convolutions, or contains one. In the place of
    what its other blocks would return it returns zeros of shape (rows, 1, 1, 1).
    """
    return [_short(control, max(1, depth), _Zero()) for control in _controls_in(models)]


class ControlsAhead:
    """Shortens control models that are called before the U-Net, which then takes their residuals out of lists.

    `will_reuse` gets the input of a control model's call, of shape (rows, channels, height, width), and tells whether
    the U-Net call that follows reuses. Then the call returns None in the place of what the skipped blocks would give.
    `failed` gets an exception of `will_reuse`; the call itself goes on untouched.
    """

    def __init__(self, depth: int, will_reuse: Callable[[Tensor], bool], failed: Callable[[Exception], None]) -> None:
        self._depth = max(1, depth)
        self._will_reuse = will_reuse
        self._failed = failed
        self._hooks: dict[nn.Module, OwnHooks] = {}
        self._short: dict[nn.Module, Exchange] = {}

    def watch(self, models: Iterable[Any]) -> None:
        """Watch the control models in `models` and no others."""
        wanted = _controls_in(models)
        if wanted == [*self._hooks]:
            return
        self.remove()
        for control in wanted:
            self._hooks[control] = hooks = OwnHooks(control, self._failed)
            hooks.add_before(self._before)
            hooks.add_after(self._after, always=True)

    def reset(self) -> None:
        """Put back what a call left short of whose end nobody heard."""
        for control in [*self._short]:
            self._short.pop(control).exit()

    def remove(self) -> None:
        """Leave the control models as they were found."""
        self.reset()
        for hooks in self._hooks.values():
            hooks.remove()
        self._hooks = {}

    def _before(self, control: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = args[0] if args else kwargs.get("x")
        if control not in self._short and isinstance(x, Tensor) and self._will_reuse(x):
            self._short[control] = short = _short(control, self._depth, _Nothing())
            short.enter()

    def _after(self, control: nn.Module, *_: Any) -> None:
        short = self._short.pop(control, None)
        if short is not None:
            short.exit()


def _controls_in(models: Iterable[Any]) -> list[nn.Module]:
    controls = (_control_in(model) for model in models if isinstance(model, nn.Module))
    return [control for control in dict.fromkeys(controls) if control is not None]


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


def _short(control: nn.Module, depth: int, nothing: nn.Module) -> Exchange:
    same = _Same()
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
    """Returns None, which is added to nothing."""

    def forward(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class _Zero(nn.Module):
    """Returns a zero for every row, which may be added to anything."""

    def forward(self, h: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return h.new_zeros((len(h), 1, 1, 1))
