"""A ControlNet for any U-Net of `bench.parts.networks`, and the forward of a U-Net that calls it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.networks import Network

HINT_CHANNELS = (3, 16, 16, 32, 32, 96, 96, 256)
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2)


class ControlNet(nn.Module):
    """The control model of a U-Net as https://arxiv.org/abs/2302.05543 has it, with random weights.

    It takes the U-Net's inputs and a picture `hint` of shape (1, 3, 8 height, 8 width), and returns what is added to
    every skip connection and to the middle block's output.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.input_blocks: Any = copy.deepcopy(unet.input_blocks)
        self.middle_block = copy.deepcopy(unet.middle_block)
        device = next(unet.parameters()).device
        channels = [block[0].out_channels for block in self.input_blocks]
        with torch.device(device):
            hint: list[nn.Module] = []
            for inner, outer, stride in zip(HINT_CHANNELS, HINT_CHANNELS[1:], HINT_STRIDES, strict=False):
                hint += [nn.Conv2d(inner, outer, 3, stride, 1), nn.SiLU()]
            self.input_hint_block = nn.Sequential(*hint, nn.Conv2d(HINT_CHANNELS[-1], channels[0], 3, 1, 1))
            self.zero_convs = nn.ModuleList([_Convolution(count) for count in channels])
            self.middle_block_out = _Convolution(channels[-1])
        self.requires_grad_(requires_grad=False).eval()

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        h, residuals = x, []
        for number, (block, convolution) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = block(h, emb, context)
            if number == 0:
                h += self.input_hint_block(hint)
            residuals.append(convolution(h, emb, context))
        h = self.middle_block(h, emb, context)
        return [*residuals, self.middle_block_out(h, emb, context)]


class ControlledForward:
    """A U-Net's forward with a control model, to be set on the instance as the ControlNet extension does."""

    def __init__(self, network: Network, unet: Any, control: ControlNet, hint: Tensor) -> None:
        self._network = network
        self._unet = unet
        self._control = control
        self._hint = hint

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the U-Net's output for one call's inputs."""
        unet = self._unet
        emb = self._network.embedding(unet, timesteps, y)
        *residuals, of_middle = self._control(x, emb, context, self._hint)
        h, skips = x, []
        for block in unet.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        h = unet.middle_block(h, emb, context) + of_middle
        for block in unet.output_blocks:
            h = block(torch.cat([h, skips.pop() + residuals.pop()], dim=1), emb, context)
        out: Tensor = unet.out(h.type(x.dtype))
        return out


class _Convolution(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, h: Tensor, *_args: Tensor) -> Tensor:
        return super().forward(h)
