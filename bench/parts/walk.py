"""A call of a U-Net a part at a time, and what its parts cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from ldm.modules.diffusionmodules.openaimodel import timestep_embedding
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.parts.networks import NETWORKS


class Walk:
    """The stock loop of ldm's and sgm's U-Nets over one call's blocks, a part at a time.

    `x` is the call's input of shape (rows, channels, height, width), `timesteps` of shape (rows,), `context` the text
    embedding of shape (rows, tokens, width), `y` sgm's vector of shape (rows, width). `h` is the output of the last
    block that ran.
    """

    def __init__(
        self, unet: Any, x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None = None
    ) -> None:
        self.x = x
        self.timesteps = timesteps
        self.h: Tensor = x.type(getattr(unet, "dtype", x.dtype))
        self._unet = unet
        self._context = context
        self._emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
        if y is not None:
            self._emb = self._emb + unet.label_emb(y)
        self._skips: list[Tensor] = []

    def at(self, x: Tensor, timesteps: Tensor) -> Walk:
        """Return a walk of the same U-Net with the same text over another input."""
        return Walk(self._unet, x, timesteps, self._context)

    def inputs(self, stop: int | None = None) -> Tensor:
        """Run the input blocks below number `stop` that have not run, all if None, and return what the last gave."""
        for block in self._unet.input_blocks[len(self._skips) : stop]:
            self.h = block(self.h, self._emb, self._context)
            self._skips.append(self.h)
        return self.h

    def deep(self, depth: int) -> Tensor:
        """Run everything up to the outermost `depth` output blocks and return DeepCache's feature of that depth."""
        self.inputs()
        self.h = self._unet.middle_block(self.h, self._emb, self._context)
        outputs = self._unet.output_blocks
        return self._outputs(outputs[: len(outputs) - depth], self._skips[depth:])

    def outer(self, feature: Tensor, depth: int) -> Tensor:
        """Run the outermost `depth` output blocks on `feature` and return what the head gets."""
        self.h = feature
        outputs = self._unet.output_blocks
        return self._outputs(outputs[len(outputs) - depth :], self._skips[:depth])

    def head(self, h: Tensor) -> Tensor:
        """Return the U-Net's output, of x's shape, for `h`, the output of the last block."""
        output: Tensor = self._unet.out(h.type(self.x.dtype))
        return output

    def _outputs(self, blocks: Sequence[nn.Module], skips: list[Tensor]) -> Tensor:
        for block, skip in zip(blocks, reversed(skips), strict=True):
            self.h = block(torch.cat([self.h, skip], dim=1), self._emb, self._context)
        return self.h


@functools.lru_cache
def share(name: str, blocks: int, depth: int) -> float:
    """Return what the first `blocks` input blocks, the outermost `depth` output blocks and the head cost.

    As a share of a full evaluation of network `name`, attention included, counted on the meta device as bench/macs.py
    does. For SD1.5: the head alone (0, 0) 0.0001, First-Block Cache's probe and head (2, 0) 0.067, DeepCache's reuse of
    depth 1 (1, 1) 0.079, the same with a probe of two blocks (2, 1) 0.146.
    """
    unet = NETWORKS[name].build(device="meta")
    inputs = NETWORKS[name].inputs(unet, rows=1, device="meta")
    walk = Walk(unet, **inputs)
    feature = walk.deep(depth)
    last = walk.outer(feature, depth)

    def cheap() -> None:
        part = Walk(unet, **inputs)
        if blocks:
            part.inputs(blocks)
        if depth:
            part.outer(feature, depth)
        part.head(last)

    with FlopCounterMode(display=False) as of_part:
        cheap()
    with FlopCounterMode(display=False) as of_whole:
        unet(**inputs)
    return float(of_part.get_total_flops() / of_whole.get_total_flops())
