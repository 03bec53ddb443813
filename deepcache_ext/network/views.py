"""The views that stand in for a U-Net's block lists during one call."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from deepcache_ext.network.exchange import Exchange
from deepcache_ext.network.remembering import Repeated
from deepcache_ext.network.tap import Tap, layers
from deepcache_ext.network.unet import LISTS, blocks

Shapes = dict[tuple[int, int], tuple[int, ...]]
"""Channels, height and width of a block's output, by the walk's key and the block's position in the deep part."""

LATENT_CHANNELS = 4
"""The first channels of every U-Net input; those of masks and images follow."""


class View(ABC):
    """What one U-Net call sees in place of its block lists.

    `kept` has the feature of every walk of the call that computed the deep part, cloned, so that whatever the rest of
    the call writes into the original leaves it alone. Key 0 is the walk over the call's own input; walks
    over anything else count from 1. `failure` is an error of our own while keeping; the call goes on without.

    `repeated` are skipped modules that are to be called all the same: heard by a view that runs the deep part, called
    again by one that reuses.
    """

    reuses = False

    def __init__(self, repeated: Repeated) -> None:
        self.repeated = repeated
        self.kept: dict[int, Tensor] = {}
        self.failure: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether a reuse has made just the walks that it had features for."""
        return True

    @abstractmethod
    def enter(self) -> None:
        """Put the view in place."""
        if not self.reuses:
            self.repeated.enter()

    @abstractmethod
    def exit(self) -> None:
        """Put the original block lists back."""
        self.repeated.exit()

    def repeat(self) -> None:
        """Call again what a reuse skips but must not miss."""
        try:
            self.repeated.again()
        except Exception as error:  # noqa: BLE001 - somebody else's forward, with what it took before
            self.failure = error

    def _keep(self, key: int, feature: Tensor) -> None:
        try:
            self.kept[key] = feature.detach().clone()
        except Exception as error:  # noqa: BLE001 - out of memory, most likely: the picture matters more than the feature
            self.failure = error


class RefreshView(View):
    """The original block lists, with a tap on the block whose output is the feature."""

    def __init__(self, unet: nn.Module, depth: int, repeated: Repeated) -> None:
        super().__init__(repeated)
        outputs = blocks(unet)[2]
        self._tap = Tap(outputs[len(outputs) - depth - 1], after=self._on_output)

    def enter(self) -> None:
        super().enter()
        self._tap.enter()

    def exit(self) -> None:
        super().exit()
        self._tap.exit()

    def _on_output(self, feature: Tensor) -> None:
        self._keep(len(self.kept), feature)


class _SwappedView(View):
    """A view that exchanges the block lists themselves, and whatever `beside` exchanges along with them."""

    def __init__(self, unet: nn.Module, repeated: Repeated, beside: Sequence[Exchange] = ()) -> None:
        super().__init__(repeated)
        self._unet = unet
        self._beside = beside
        self._exchanges: list[Exchange] = []

    def enter(self) -> None:
        super().enter()
        lists = dict(zip(LISTS, self._lists(), strict=True))
        self._exchanges = [Exchange(self._unet, **lists), *self._beside]
        for exchange in self._exchanges:
            exchange.enter()

    def exit(self) -> None:
        super().exit()
        for exchange in self._exchanges:
            exchange.exit()
        self._exchanges = []

    @abstractmethod
    def _lists(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return what stands in for the input blocks, the middle block and the output blocks."""


class CompactView(_SwappedView):
    """The d outermost block pairs, with the whole deep part in the place of the middle block.

    For the stock loop. Nothing of the skipped blocks is called, so a host that moves weights when a block is called
    leaves theirs where they are. The first walk gets `features[0]`; should there be another, it is computed.
    """

    reuses = True

    def __init__(self, unet: nn.Module, depth: int, features: Mapping[int, Tensor], repeated: Repeated) -> None:
        super().__init__(unet, repeated)
        self._depth = depth
        self._feature: Tensor | None = features[0]

    def take(self, rows: int) -> Tensor | None:
        """Return the feature for a walk over `rows` rows, once; None if the deep part has to be computed."""
        feature, self._feature = self._feature, None
        return feature if feature is not None and len(feature) == rows else None

    def _lists(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        inputs, middle, outputs = blocks(self._unet)
        cut = len(inputs) - self._depth
        deep = _DeepPart(self, inputs[self._depth :], middle, outputs[:cut])
        return inputs[: self._depth], deep, outputs[cut:]


class FullLengthView(_SwappedView):
    """As many blocks as the original, the deep ones replaced by stand-ins on a reuse.

    For a forward that counts the blocks and adds residuals between them, that goes through their layers itself, or that
    may walk them more than once: the walk that starts from the call's own input `x` has key 0, the others count from 1.
    Without `features` the original blocks run and their shapes are noted in `shapes`. With them the stand-ins return
    zeros of these shapes and the last of them the feature; in a walk that has none they run the blocks.
    """

    def __init__(
        self,
        unet: nn.Module,
        depth: int,
        x: Tensor,
        features: Mapping[int, Tensor],
        shapes: Shapes,
        repeated: Repeated,
        beside: Sequence[Exchange] = (),
    ) -> None:
        super().__init__(unet, repeated, beside)
        self.reuses = bool(features)
        self._depth = depth
        self._x = x
        self._unused = dict(features)
        self._shapes = shapes
        self._others = 0
        self._key = 0
        self._feature: Tensor | None = None
        self._every_walk_had_one = True
        self._taps: list[Tap] = []

    @property
    def complete(self) -> bool:
        return self._every_walk_had_one and not self._unused

    def enter(self) -> None:
        self._taps = self._all_taps()
        for tap in self._taps:
            tap.enter()
        if self.reuses:
            super().enter()
        else:
            self.repeated.enter()

    def exit(self) -> None:
        super().exit()
        for tap in self._taps:
            tap.exit()
        self._taps = []

    def start_walk(self, h: Tensor) -> None:
        """Tell that a walk begins with `h`, the input of the first block."""
        own = _is_latent_of(h, self._x)
        self._others += not own
        self._key = 0 if own else self._others
        self._feature = self._unused.pop(self._key, None)
        if self._feature is not None and len(self._feature) != len(h):
            self._feature = None
        self._every_walk_had_one &= self._feature is not None

    def served(self, position: int, h: Tensor) -> Tensor | None:
        """Return what stands for the output of a deep block on `h`, or None if this walk has no feature."""
        if self._feature is None:
            return None
        if position == self._key == 0:
            self.repeat()
        return self._feature if position == self._last else h.new_zeros((len(h), *self._shapes[self._key, position]))

    @property
    def has_feature(self) -> bool:
        """Whether the walk that has begun has one."""
        return self._feature is not None

    @property
    def _last(self) -> int:
        """The position of the last deep block, counted from 0 at the first."""
        return 2 * (len(blocks(self._unet)[0]) - self._depth)

    def _all_taps(self) -> list[Tap]:
        inputs, middle, outputs = blocks(self._unet)
        first = [Tap(inputs[0], before=self.start_walk)] if self._depth or not self.reuses else []
        if self.reuses:
            return first
        deep = [*inputs[self._depth :], middle, *outputs[: len(inputs) - self._depth]]
        return first + [Tap(block, after=partial(self._note, position)) for position, block in enumerate(deep)]

    def _note(self, position: int, output: Tensor) -> None:
        self._shapes[self._key, position] = tuple(output.shape[1:])
        if position == self._last:
            self._keep(self._key, output)

    def _lists(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        inputs, middle, outputs = blocks(self._unet)
        cut = len(inputs) - self._depth
        positions = itertools.count()

        def stand_in(block: nn.Module) -> nn.Module:
            position = next(positions)
            return _DeepBlock(self, position, block, starts=self._depth == position == 0)

        deep_inputs = [stand_in(block) for block in inputs[self._depth :]]
        deep_middle = stand_in(middle)
        deep_outputs = [stand_in(block) for block in outputs[:cut]]
        return (
            nn.ModuleList([*inputs[: self._depth], *deep_inputs]),
            deep_middle,
            nn.ModuleList([*deep_outputs, *outputs[cut:]]),
        )


class _DeepPart(nn.Module):
    """The deep part as one module: the kept feature, or the deep blocks run one after the other."""

    def __init__(self, view: CompactView, inputs: nn.ModuleList, middle: nn.Module, outputs: nn.ModuleList) -> None:
        super().__init__()
        self.inputs = inputs
        self.middle = middle
        self.outputs = outputs
        self._view = view

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        feature = self._view.take(len(h))
        if feature is not None:
            self._view.repeat()
            return feature
        skips: list[Tensor] = []
        for block in self.inputs:
            h = block(h, *args, **kwargs)
            skips.append(h)
        h = self.middle(h, *args, **kwargs)
        for block in self.outputs:
            h = block(torch.cat([h, skips.pop()], dim=1), *args, **kwargs)
        return h


class _DeepBlock(nn.Module):
    """One deep block's stand-in on a reuse, which may be called or gone through layer by layer.

    With `starts` it is the first block of all, with whose input a walk begins.
    """

    def __init__(self, view: FullLengthView, position: int, block: nn.Module, *, starts: bool) -> None:
        super().__init__()
        self.block = block
        self._view = view
        self._position = position
        self._starts = starts

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._starts:
            self._view.start_walk(h)
        served = self._view.served(self._position, h)
        return cast(Tensor, self.block(h, *args, **kwargs)) if served is None else served

    def __iter__(self) -> Iterator[nn.Module]:
        if self._starts:
            yield _Layer(self._begin)
        if self._view.has_feature:
            yield _Layer(self._serve)
        else:
            yield from layers(self.block)

    def _begin(self, h: Tensor) -> Tensor:
        self._view.start_walk(h)
        return h

    def _serve(self, h: Tensor) -> Tensor:
        return cast(Tensor, self._view.served(self._position, h))


class _Layer(nn.Module):
    """A layer that does something with the first thing that it is called with."""

    def __init__(self, do: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._do = do

    def forward(self, h: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return self._do(h)


def _is_latent_of(h: Tensor, x: Tensor) -> bool:
    """Tell whether a walk's input is the call's, cast or with other inpainting channels at most.

    The usual case, the very same tensor, is told without waiting for the device.
    """
    if (len(h), h.shape[2:]) != (len(x), x.shape[2:]):
        return False
    return _same_memory(h, x) or torch.equal(h[:, :LATENT_CHANNELS], x[:, :LATENT_CHANNELS].to(h.dtype))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    try:
        return one.data_ptr() == other.data_ptr()
    except RuntimeError:  # DirectML's tensors are opaque: they have no address
        return False
