"""The U-Nets that checkpoints of each family hold, built with random weights from the real ldm and sgm packages."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from demo import unet_packages

ldm_unet, sgm_unet = unet_packages.ldm(), unet_packages.sgm()


@dataclass(frozen=True)
class Network:
    """One U-Net: its package, its constructor arguments, and the inputs that belong to it."""

    module: Any
    arguments: dict[str, Any]
    tokens: int
    latent: int
    """Height and width of the usual latent."""
    label_channels: int = 0
    """Width of the vector conditioning, 0 without."""
    narrow: dict[str, Any] = field(default_factory=dict)
    """What to change for a network of the same blocks that is small enough for a test."""

    def build(self, *, small: bool = False, in_channels: int | None = None, device: str = "cpu") -> nn.Module:
        """Return the U-Net with random weights, the zero-initialised layers included, in eval mode."""
        changes = dict(self.narrow) if small else {}
        if in_channels is not None:
            changes["in_channels"] = in_channels
        torch.manual_seed(0)
        with torch.device(device), _quiet():
            unet: nn.Module = self.module.UNetModel(**(self.arguments | changes))
        if device != "meta":
            for parameter in unet.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.02)
        return unet.requires_grad_(False).eval()

    def inputs(
        self,
        unet: nn.Module,
        rows: int = 2,
        *,
        latent: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Return one call's inputs for `unet`: x, timesteps, context and, where it has them, vector conditions y."""
        sizes: Any = unet
        generator = torch.Generator().manual_seed(seed)
        size = latent or self.latent
        context = self.arguments["context_dim"]
        width = context[0] if isinstance(context, list) else context
        if sizes.model_channels != self.arguments["model_channels"]:
            narrow = self.narrow["context_dim"]
            width = narrow[0] if isinstance(narrow, list) else narrow
        inputs = {
            "x": torch.randn(rows, sizes.in_channels, size, size, generator=generator).to(dtype),
            "timesteps": torch.full((rows,), 500.0).to(dtype),
            "context": torch.randn(rows, self.tokens, width, generator=generator).to(dtype),
        }
        if self.label_channels:
            channels = sizes.label_emb[0][0].in_features
            inputs["y"] = torch.randn(rows, channels, generator=generator).to(dtype)
        return {name: value.to(device) for name, value in inputs.items()}

    def embedding(self, unet: Any, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the embedding of shape (rows, channels) that the U-Net's forward gives its blocks."""
        emb: Tensor = unet.time_embed(self.module.timestep_embedding(timesteps, unet.model_channels))
        return emb if y is None else emb + unet.label_emb(y)


def in_precision(unet: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `unet` with its weights in `dtype`, to be called under autocast; group norms stay in float32.

    That is how the WebUI and ldm's own conversion run a half-precision checkpoint.
    """
    unet.to(dtype).dtype = dtype  # type: ignore[assignment]
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            module.float()
    return unet


def use_sdp_attention() -> None:
    """Have ldm's attention call torch's fused kernel, as the WebUI's --opt-sdp-attention does; sgm's already does."""

    def forward(self: Any, x: Tensor, context: Tensor | None = None, mask: None = None) -> Tensor:
        context = x if context is None else context
        projected = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2) for tensor in projected)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        result: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return result

    importlib.import_module("ldm.modules.attention").CrossAttention.forward = forward


@contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)


def _ldm(**changes: Any) -> dict[str, Any]:
    common = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "use_checkpoint": False,
        "legacy": False,
    }
    return common | changes


def _sgm(**changes: Any) -> dict[str, Any]:
    common = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4],
        "num_head_channels": 64,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "use_linear_in_transformer": True,
        "transformer_depth": [1, 2, 10],
        "context_dim": 2048,
        "use_checkpoint": False,
    }
    return common | changes


_NARROW = {"model_channels": 32, "context_dim": 48}

NETWORKS = {
    "SD1.5": Network(ldm_unet, _ldm(num_heads=8, context_dim=768), 77, 64, narrow=_NARROW),
    "SD2.1": Network(
        ldm_unet,
        _ldm(num_head_channels=64, use_linear_in_transformer=True, context_dim=1024),
        77,
        64,
        narrow=_NARROW | {"num_head_channels": 16},
    ),
    "LDM-4-G": Network(
        ldm_unet,
        _ldm(
            in_channels=3,
            out_channels=3,
            model_channels=192,
            attention_resolutions=[8, 4, 2],
            channel_mult=[1, 2, 3, 5],
            num_heads=1,
            context_dim=512,
            legacy=True,
        ),
        1,
        64,
        narrow=_NARROW,
    ),
    "SDXL": Network(
        sgm_unet,
        _sgm(),
        77,
        128,
        label_channels=2816,
        narrow=_NARROW | {"num_head_channels": 16, "adm_in_channels": 64},
    ),
    "SDXL refiner": Network(
        sgm_unet,
        _sgm(
            model_channels=384,
            channel_mult=[1, 2, 4, 4],
            transformer_depth=4,
            context_dim=[1280, 1280, 1280, 1280],
            adm_in_channels=2560,
        ),
        77,
        128,
        label_channels=2560,
        narrow=_NARROW | {"num_head_channels": 16, "adm_in_channels": 64, "context_dim": [48] * 4},
    ),
}
