"""How close pictures are, and how they are laid out side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

IDENTICAL = 99.0
"""The PSNR in dB that stands for identical pictures, whose true value is infinite."""


def psnr(pictures: Tensor, references: Tensor) -> Tensor:
    """Return the PSNR in dB of each RGB picture (0 to 1) to its reference, at most `IDENTICAL`."""
    error = ((pictures - references) ** 2).flatten(1).mean(dim=1)
    decibels: Tensor = -10 * torch.log10(error)
    return torch.clamp(decibels, max=IDENTICAL)


def relative_error(pictures: Tensor, references: Tensor) -> Tensor:
    """Return the L2 norm of each picture's difference from its reference over the norm of the reference."""
    difference: Tensor = (pictures - references).flatten(1).norm(dim=1)
    return torch.div(difference, references.flatten(1).norm(dim=1))


def rows_picture(rows: Sequence[tuple[str, Tensor]], labels: Sequence[str], scale: int = 3) -> Image.Image:
    """Return one picture with a titled row per batch of shape (n, 3, height, width) and a label over each column."""
    line = 16
    count, _, height, width = rows[0][1].shape
    cell_w, cell_h = width * scale + 4, height * scale + 4
    sheet = Image.new("RGB", (count * cell_w, line + len(rows) * (line + cell_h)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        draw.text((column * cell_w + 2, 2), label, fill="black")
    for row, (title, pictures) in enumerate(rows):
        top = line + row * (line + cell_h)
        draw.text((2, top + 2), title, fill="black")
        for column, picture in enumerate(pictures):
            pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            tile = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * cell_w, top + line))
    return sheet
