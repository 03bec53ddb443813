"""Weights of small networks in small files: large ones in 8 bits a number with a scale for each row, others in 16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SMALLEST = 4096
"""Numbers from which on a tensor of rows is stored in 8 bits each."""
_SCALE = ".scale"


def save(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write float weights."""
    stored: dict[str, Tensor] = {}
    for key, value in weights.items():
        if value.ndim < 2 or value.numel() < SMALLEST:
            stored[key] = value.half().contiguous()
            continue
        scale = (value.abs().flatten(1).amax(1) / 127).clamp(min=1e-12)
        stored[key] = (value / scale.view(-1, *[1] * (value.ndim - 1))).round().to(torch.int8).contiguous()
        stored[key + _SCALE] = scale
    save_file(stored, file)


def load(file: Path) -> dict[str, Tensor]:
    """Return the weights of a file in float32, whether `save` wrote them or all are floats."""
    stored = load_file(file)
    found = {}
    for key, value in stored.items():
        if key.endswith(_SCALE):
            continue
        scale = stored.get(key + _SCALE)
        found[key] = value.float() if scale is None else value.float() * scale.view(-1, *[1] * (value.ndim - 1))
    return found
