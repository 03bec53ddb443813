"""Real U-Nets of every kind, narrowed so that a test takes a moment, and their blocks run by hand."""

from contextlib import nullcontext

import torch
from torch import nn

from bench.parts.networks import NETWORKS, in_precision

KINDS = [(name, None) for name in NETWORKS] + [("SD1.5", 8), ("SD1.5", 9), ("SD2.1", 9), ("SDXL", 8), ("SDXL", 9)]
"""Every network as it is, and instruction editing (8) and inpainting (9) checkpoints of those that have them."""

VIEWS = ["compact", "full-length"]
DTYPES = [torch.float32, torch.bfloat16]


class Case:
    """One narrowed U-Net with inputs for several evaluations."""

    def __init__(self, name="SD1.5", in_channels=None, dtype=torch.float32):
        self.network = NETWORKS[name]
        self.dtype = dtype
        self.unet = in_precision(self.network.build(small=True, in_channels=in_channels), dtype)
        self.cat = torch.cat
        self.max_depth = len(self.unet.input_blocks) - 1

    def inputs(self, seed, rows=2, latent=8):
        return self.network.inputs(self.unet, rows, latent=latent, dtype=self.dtype, seed=seed)

    def precision(self):
        return nullcontext() if self.dtype is torch.float32 else torch.autocast("cpu", self.dtype)

    @torch.no_grad()
    def call(self, seed, **size):
        with self.precision():
            return self.unet(**self.inputs(seed, **size))

    @torch.no_grad()
    def feature(self, depth, seed, **size):
        """Return what output block n-d-1 of the untouched U-Net gives for the inputs of `seed`."""
        taken = []
        block = self.unet.output_blocks[len(self.unet.output_blocks) - depth - 1]
        handle = block.register_forward_hook(lambda _block, _args, output: taken.append(output.clone()))
        self.call(seed, **size)
        handle.remove()
        return taken[0]

    @torch.no_grad()
    def reuse_by_hand(self, depth, seed, feature, **size):
        """Return what a reuse must give: d outer input blocks, the kept feature, d outer output blocks."""
        with self.precision():
            inputs = self.inputs(seed, **size)
            h, emb, context = self.embedded(**inputs)
            skips = []
            for block in list(self.unet.input_blocks)[:depth]:
                h = block(h, emb, context)
                skips.append(h)
            h = feature
            for block in list(self.unet.output_blocks)[len(self.unet.output_blocks) - depth :]:
                h = block(self.cat([h, skips.pop()], dim=1), emb, context)
            return self.unet.out(h.type(inputs["x"].dtype))

    def embedded(self, x, timesteps, context, y=None):
        return x.type(self.dtype), self.network.embedding(self.unet, timesteps, y), context


class TaggedUNet(nn.Module):
    """A U-Net of three block pairs whose output shows where its deep feature came from.

    x has two channels, the row's number and the evaluation's; the output has them of the deep feature and of the
    skip connection, in that order.
    """

    class _Deep(nn.Module):
        def forward(self, h):
            return h[:, :2]

    def __init__(self):
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.Identity() for _ in range(3)])
        self.middle_block = nn.Identity()
        self.output_blocks = nn.ModuleList([self._Deep(), self._Deep(), nn.Identity()])

    def forward(self, x, timesteps=None):  # noqa: ARG002 - for the caller to hook
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h)
            skips.append(h)
        h = self.middle_block(h)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1))
        return h


def state_of(module):
    """Return everything that installing could leave behind: the tree's objects, their attributes and hooks."""
    return [
        (name, id(part), tuple(vars(part)), [(key, dict(value)) for key, value in vars(part).items() if "hooks" in key])
        for name, part in module.named_modules(remove_duplicate=False)
    ]
