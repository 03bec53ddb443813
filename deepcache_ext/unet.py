"""The U-Net's anatomy, and the views that stand in for its block lists during one call.

An ldm or sgm U-Net with n input and n output blocks runs its input blocks one after the other, then the middle
block, then its output blocks, each on the concatenation of the last output and the output of the opposite input
block. Cut at depth d, the deep part is everything between input block d-1 and output block n-d. Its result, the
output of output block n-d-1, is the feature that caching keeps.
"""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Shape = tuple[int, ...]

_LISTS = ("input_blocks", "middle_block", "output_blocks")
_ALWAYS: dict[str, Any] = (
    {"always_call": True} if "always_call" in inspect.signature(nn.Module.register_forward_hook).parameters else {}
)
"""Has a forward hook run after an exception too. torch 2.0 can't; there `CallHook.reset` tidies up."""


def find_unet(model: Any) -> nn.Module:
    """Return the U-Net in `model`: the module itself or the first one inside it that has a U-Net's block lists.

    Raises ValueError if there is none.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    for module in modules:
        inputs, middle, outputs = (module._modules.get(name) for name in _LISTS)
        lists = isinstance(inputs, nn.ModuleList) and isinstance(outputs, nn.ModuleList) and middle is not None
        if lists and len(cast(nn.ModuleList, inputs)) == len(cast(nn.ModuleList, outputs)) > 1:
            return module
    raise ValueError(
        f"{type(model).__name__} has no U-Net with input_blocks, middle_block and as many output_blocks; "
        "use a checkpoint of the SD1, SD2 or SDXL family"
    )


def max_depth(unet: nn.Module) -> int:
    """Return the largest depth at which `unet` can be cut: 11 for SD1 and SD2, 8 for SDXL."""
    return len(_blocks(unet)[0]) - 1


def has_foreign_forward(unet: nn.Module) -> bool:
    """Tell whether someone set a `forward` of their own on the instance, as the ControlNet extension does.

    The class's own forward, left on the instance by such an extension when it is done, is not foreign.
    """
    forward = vars(unet).get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(unet).forward


class View(ABC):
    """What one U-Net call sees in place of its block lists.

    `kept` grows by one walk each time the call computes the deep part: its feature, cloned row by row, so that
    whatever the rest of the call writes into the original leaves it alone. `failure` is an error of our own while
    keeping; the call goes on without.
    """

    reuses = False

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, ...]] = []
        self.failure: Exception | None = None

    @abstractmethod
    def enter(self) -> None:
        """Put the view in place."""

    @abstractmethod
    def exit(self) -> None:
        """Put the original block lists back."""

    def _keep(self, feature: Tensor) -> None:
        try:
            self.kept.append(tuple(row.clone() for row in feature.detach().chunk(len(feature))))
        except Exception as error:  # noqa: BLE001 - out of memory, most likely: the picture matters more than the feature
            self.failure = error


class RefreshView(View):
    """The original block lists, with a tap on the block whose output is the feature."""

    def __init__(self, unet: nn.Module, depth: int) -> None:
        super().__init__()
        outputs = _blocks(unet)[2]
        self._last_deep = outputs[len(outputs) - depth - 1]
        self._tap: RemovableHandle | None = None

    def enter(self) -> None:
        self._tap = self._last_deep.register_forward_hook(self._on_output)

    def exit(self) -> None:
        if self._tap is not None:
            self._tap.remove()
            self._tap = None

    def _on_output(self, _block: nn.Module, _args: Any, feature: Tensor) -> None:
        self._keep(feature)


class _SwappedView(View):
    """A view that exchanges the block lists themselves."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self._unet = unet
        self._originals: dict[str, nn.Module | None] = {}

    def enter(self) -> None:
        view = dict(zip(_LISTS, self._lists(), strict=True))
        self._originals = {name: self._unet._modules[name] for name in _LISTS}
        self._unet._modules.update(view)

    def exit(self) -> None:
        self._unet._modules.update(self._originals)
        self._originals = {}

    @abstractmethod
    def _lists(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return what stands in for the input blocks, the middle block and the output blocks."""


class CompactView(_SwappedView):
    """The d outermost block pairs, with the whole deep part in the place of the middle block.

    For the stock loop. Nothing of the skipped blocks is called, so a host that moves weights when a block is called
    leaves theirs where they are.
    """

    reuses = True

    def __init__(self, unet: nn.Module, depth: int, features: Sequence[Tensor]) -> None:
        super().__init__(unet)
        self._depth = depth
        self._features = features

    def _lists(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        inputs, middle, outputs = _blocks(self._unet)
        cut = len(inputs) - self._depth
        deep = _DeepPart(inputs[self._depth :], middle, outputs[:cut], self._features, self._keep)
        return inputs[: self._depth], deep, outputs[cut:]


class FullLengthView(_SwappedView):
    """As many blocks as the original, the deep ones replaced by stand-ins.

    For a foreign forward, which counts the blocks and adds residuals between them. In a walk that has a kept feature
    the stand-ins return zeros of the shapes that the blocks had, and the last of them the feature; in any other
    walk they run the blocks and note their shapes in `shapes`, by position in the deep part.
    """

    def __init__(
        self, unet: nn.Module, depth: int, features: Sequence[Tensor] = (), shapes: dict[int, Shape] | None = None
    ) -> None:
        super().__init__(unet)
        self.reuses = bool(features)
        self.shapes = {} if shapes is None else shapes
        self._depth = depth
        self._features = iter(features)
        self._feature: Tensor | None = None

    def run(self, position: int, last: int, block: nn.Module, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Do what deep block `position` of 0 to `last` would do to `h`."""
        if position == 0:
            self._feature = next(self._features, None)
            if self._feature is not None and len(self._feature) != len(h):
                self._feature = None
        if self._feature is None:
            out = cast(Tensor, block(h, *args, **kwargs))
            self.shapes[position] = tuple(out.shape[1:])
            if position == last:
                self._keep(out)
            return out
        return self._feature if position == last else h.new_zeros((len(h), *self.shapes[position]))

    def _lists(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        inputs, middle, outputs = _blocks(self._unet)
        cut = len(inputs) - self._depth
        last = 2 * cut
        positions = itertools.count()

        def stand_in(block: nn.Module) -> nn.Module:
            return _DeepBlock(self, next(positions), last, block)

        deep_inputs = [stand_in(block) for block in inputs[self._depth :]]
        deep_middle = stand_in(middle)
        deep_outputs = [stand_in(block) for block in outputs[:cut]]
        return (
            nn.ModuleList([*inputs[: self._depth], *deep_inputs]),
            deep_middle,
            nn.ModuleList([*deep_outputs, *outputs[cut:]]),
        )


class CallHook:
    """Gives every call of a U-Net a view: hooks before and after whatever forward is in force.

    `choose` gets the call's input of shape (rows, channels, height, width) and returns the view to use, or None for
    the untouched U-Net. `done` gets the view after a call that raised nothing. `failed` gets an exception of
    `choose`, `done` or the view; the call itself goes on untouched.
    """

    def __init__(
        self,
        unet: nn.Module,
        choose: Callable[[Tensor], View | None],
        done: Callable[[View], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.unet = unet
        self._choose = choose
        self._done = done
        self._failed = failed
        self._handles: list[RemovableHandle] = []
        self._view: View | None = None
        self._calls = 0

    def install(self) -> None:
        """Hook the U-Net, after removing any hook of this class from it."""
        for hook in list(self.unet._forward_pre_hooks.values()):
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, CallHook):
                owner.remove()
        self._handles = [
            self.unet.register_forward_pre_hook(self._before, with_kwargs=True),
            self.unet.register_forward_hook(self._after, **_ALWAYS),
        ]

    def remove(self) -> None:
        """Leave the U-Net as it was found."""
        self.reset()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def reset(self) -> None:
        """Put the block lists back if a call was left without our hearing of it."""
        if self._view is not None:
            self._view.exit()
        self._view = None
        self._calls = 0

    def _before(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls += 1
        try:
            if self._calls == 1:
                self._view = self._choose(args[0] if args else kwargs["x"])
                if self._view is not None:
                    self._view.enter()
            elif self._calls == 2 and self._view is not None:
                self._view.exit()  # a forward that calls the U-Net itself: that call sees the originals
        except Exception as error:  # noqa: BLE001 - ours, whatever it is: the picture is made without
            self._view = None
            self._failed(error)

    def _after(self, _unet: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self._calls = max(0, self._calls - 1)
        try:
            if self._calls == 1 and self._view is not None:
                self._view.enter()
            elif self._calls == 0 and self._view is not None:
                view, self._view = self._view, None
                view.exit()
                if view.failure is not None:
                    raise view.failure
                if output is not None:
                    self._done(view)
        except Exception as error:  # noqa: BLE001 - ours, whatever it is: the picture is made without
            self._failed(error)


class _DeepPart(nn.Module):
    """The deep part as one module: a kept feature for each walk that has one, computed for any further walk."""

    def __init__(
        self,
        inputs: nn.ModuleList,
        middle: nn.Module,
        outputs: nn.ModuleList,
        features: Sequence[Tensor],
        keep: Callable[[Tensor], None],
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.middle = middle
        self.outputs = outputs
        self._features = iter(features)
        self._keep = keep

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        feature = next(self._features, None)
        if feature is not None and len(feature) == len(h):
            return feature
        skips: list[Tensor] = []
        for block in self.inputs:
            h = block(h, *args, **kwargs)
            skips.append(h)
        h = self.middle(h, *args, **kwargs)
        for block in self.outputs:
            h = block(torch.cat([h, skips.pop()], dim=1), *args, **kwargs)
        self._keep(h)
        return h


class _DeepBlock(nn.Module):
    """One deep block's stand-in; `FullLengthView.run` says what it does."""

    def __init__(self, view: FullLengthView, position: int, last: int, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self._view = view
        self._position = position
        self._last = last

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._view.run(self._position, self._last, self.block, h, *args, **kwargs)


def _blocks(unet: nn.Module) -> tuple[nn.ModuleList, nn.Module, nn.ModuleList]:
    inputs, middle, outputs = (unet._modules[name] for name in _LISTS)
    return cast(nn.ModuleList, inputs), cast(nn.Module, middle), cast(nn.ModuleList, outputs)
