"""What takes hold of a U-Net, worked out once for as long as the same blocks are in its lists."""

from __future__ import annotations

from operator import is_

from torch import nn

from deepcache_ext.network.remembering import IsHosts, Watch
from deepcache_ext.network.unet import block_modules, deep_blocks
from deepcache_ext.network.views import StandIns

Blocks = tuple[nn.Module, ...]


class Hold:
    """The stand-ins for the blocks that are in a U-Net's lists now, and the watch over those that reuses skip."""

    def __init__(self, unet: nn.Module, depth: int, is_hosts: IsHosts) -> None:
        self.blocks: Blocks = block_modules(unet)
        self.stand_ins = StandIns(unet, depth)
        self.watch = Watch(deep_blocks(unet, depth), is_hosts)


def same(one: Blocks, other: Blocks) -> bool:
    """Tell whether these are the very same blocks."""
    return len(one) == len(other) and all(map(is_, one, other))
