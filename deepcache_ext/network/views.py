"""The views that stand in for a U-Net's block lists during one call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from deepcache_ext.network.exchange import Exchange
from deepcache_ext.network.remembering import Repeated, hooks_so_far
from deepcache_ext.network.tap import Tap, layers
from deepcache_ext.network.unet import LISTS, blocks, deep_blocks

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
    again by one that reuses. `only_our_hooks` is whether nobody has added a hook while the view was in place.
    """

    reuses = False

    def __init__(self, repeated: Repeated) -> None:
        self.repeated = repeated
        self.kept: dict[int, Tensor] = {}
        self.failure: Exception | None = None
        self.only_our_hooks = True
        self._hooks_before = 0

    @property
    def complete(self) -> bool:
        """Whether a reuse has made just the walks that it had features for."""
        return True

    @abstractmethod
    def enter(self) -> None:
        """Put the view in place; the last thing that is done for it."""
        if not self.reuses:
            self.repeated.enter()
        self._hooks_before = hooks_so_far()

    @abstractmethod
    def exit(self) -> None:
        """Put the original block lists back; the first thing that is done for it."""
        self.only_our_hooks &= self._hooks_before == hooks_so_far()
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
        self._block = outputs[len(outputs) - depth - 1]
        self._tap: Tap | None = None
        """There while the view is in place: it holds the view, and together they would outlive their call."""

    def enter(self) -> None:
        self._tap = Tap(self._block, after=self._on_output)
        self._tap.enter()
        super().enter()

    def exit(self) -> None:
        super().exit()
        if self._tap is not None:
            self._tap.exit()
        self._tap = None

    def _on_output(self, feature: Tensor) -> None:
        self._keep(len(self.kept), feature)


class UntouchedView(View):
    """The U-Net as it is, for a call whose output is looked at."""

    def enter(self) -> None:
        super().enter()

    def exit(self) -> None:
        super().exit()


class StandIns:
    """What stands in for a U-Net's block lists on reuses at one depth, made once for the blocks that are in them."""

    def __init__(self, unet: nn.Module, depth: int) -> None:
        self.unet = unet
        self.depth = depth
        self.last = 2 * (len(blocks(unet)[0]) - depth)
        """The position of the last deep block, of which the first has 0."""
        self.view: Any = None
        """The view of the call that is going on, which the stand-ins ask."""

    @cached_property
    def compact(self) -> Exchange:
        """What puts in place the outermost blocks at each end and the deep part as one module between them."""
        inputs, middle, outputs = blocks(self.unet)
        cut = len(inputs) - self.depth
        deep = _DeepPart(self, inputs[self.depth :], middle, outputs[:cut])
        return self._exchange(inputs[: self.depth], deep, outputs[cut:])

    @cached_property
    def full_length(self) -> Exchange:
        """What puts in place lists as long as the originals, with a stand-in for each deep block."""
        inputs, _, outputs = blocks(self.unet)
        cut = len(inputs) - self.depth
        deep = [
            _DeepBlock(self, position, block, starts=self.depth == position == 0)
            for position, block in enumerate(deep_blocks(self.unet, self.depth))
        ]
        return self._exchange(
            nn.ModuleList([*inputs[: self.depth], *deep[:cut]]),
            deep[cut],
            nn.ModuleList([*deep[cut + 1 :], *outputs[cut:]]),
        )

    def _exchange(self, *lists: nn.Module) -> Exchange:
        return Exchange(self.unet, **dict(zip(LISTS, lists, strict=True)))


class CompactView(View):
    """The d outermost block pairs, with the whole deep part in the place of the middle block.

    For the stock loop. Nothing of the skipped blocks is called, so a host that moves weights when a block is called
    leaves theirs where they are. The first walk gets `features[0]`; should there be another, it is computed.
    """

    reuses = True

    def __init__(self, stand_ins: StandIns, features: Mapping[int, Tensor], repeated: Repeated) -> None:
        super().__init__(repeated)
        self._stand_ins = stand_ins
        self._feature: Tensor | None = features[0]

    def enter(self) -> None:
        self._stand_ins.view = self
        self._stand_ins.compact.enter()
        super().enter()

    def exit(self) -> None:
        super().exit()
        self._stand_ins.compact.exit()
        self._stand_ins.view = None

    def take(self, rows: int) -> Tensor | None:
        """Return the feature for a walk over `rows` rows, once; None if the deep part has to be computed."""
        feature, self._feature = self._feature, None
        return feature if feature is not None and len(feature) == rows else None


class FullLengthView(View):
    """As many blocks as the original, the deep ones replaced by stand-ins on a reuse.

    For a forward that counts the blocks and adds residuals between them, that goes through their layers itself, or that
    may walk them more than once: the walk that starts from the call's own input `x` has key 0, the others count from 1.
    Without `features` the original blocks run and their shapes are noted in `shapes`. With them the stand-ins return
    zeros of these shapes and the last of them the feature; in a walk that has none they run the blocks.
    """

    def __init__(
        self,
        stand_ins: StandIns,
        x: Tensor,
        features: Mapping[int, Tensor],
        shapes: Shapes,
        repeated: Repeated,
        beside: Sequence[Exchange] = (),
    ) -> None:
        super().__init__(repeated)
        self.reuses = bool(features)
        self._stand_ins = stand_ins
        self._beside = beside
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
            self._stand_ins.view = self
            for exchange in (self._stand_ins.full_length, *self._beside):
                exchange.enter()
        super().enter()

    def exit(self) -> None:
        super().exit()
        for tap in self._taps:
            tap.exit()
        self._taps = []
        if not self.reuses:
            return
        for exchange in (self._stand_ins.full_length, *self._beside):
            exchange.exit()
        self._stand_ins.view = None

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
        if position == self._stand_ins.last:
            return self._feature
        return h.new_zeros((len(h), *self._shapes[self._key, position]))

    @property
    def has_feature(self) -> bool:
        """Whether the walk that has begun has one."""
        return self._feature is not None

    def _all_taps(self) -> list[Tap]:
        unet, depth = self._stand_ins.unet, self._stand_ins.depth
        first = [Tap(blocks(unet)[0][0], before=self.start_walk)] if depth or not self.reuses else []
        if self.reuses:
            return first
        deep = enumerate(deep_blocks(unet, depth))
        return first + [Tap(block, after=partial(self._note, position)) for position, block in deep]

    def _note(self, position: int, output: Tensor) -> None:
        self._shapes[self._key, position] = tuple(output.shape[1:])
        if position == self._stand_ins.last:
            self._keep(self._key, output)


class _DeepPart(nn.Module):
    """The deep part as one module: the kept feature, or the deep blocks run one after the other."""

    def __init__(self, stand_ins: StandIns, inputs: nn.ModuleList, middle: nn.Module, outputs: nn.ModuleList) -> None:
        super().__init__()
        self.inputs = inputs
        self.middle = middle
        self.outputs = outputs
        self._stand_ins = stand_ins

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        view: CompactView = self._stand_ins.view
        feature = view.take(len(h))
        if feature is not None:
            view.repeat()
            return feature
        skips: list[Tensor] = []
        for block in self.inputs:
            h = block(h, *args, **kwargs)
            skips.append(h)
        h = self.middle(h, *args, **kwargs)
        for block in self.outputs:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:  # hosts make them fit, so that sizes which do not halve evenly go through
                h = nn.functional.interpolate(h, skip.shape[2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), *args, **kwargs)
        return h


class _DeepBlock(nn.Module):
    """One deep block's stand-in on a reuse, which may be called or gone through layer by layer.

    With `starts` it is the first block of all, with whose input a walk begins.
    """

    def __init__(self, stand_ins: StandIns, position: int, block: nn.Module, *, starts: bool) -> None:
        super().__init__()
        self.block = block
        self._stand_ins = stand_ins
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

    @property
    def _view(self) -> FullLengthView:
        view: FullLengthView = self._stand_ins.view
        return view

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
