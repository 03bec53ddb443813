"""A comparison as one picture, with the host's own grid and legends."""

from __future__ import annotations

import numpy as np
from modules import images, shared
from PIL import Image

from deepcache_ext.webui.comparing.closeness import Picture, difference
from deepcache_ext.webui.comparing.comparison import Comparison, Row, decibels, listed

TIMES = 5
"""By how much differences are enlarged to be seen."""


def array(picture: Image.Image) -> Picture:
    """Return a picture's values, of shape (height, width, 3)."""
    return np.asarray(picture.convert("RGB"))


def difference_of(picture: Image.Image, reference: Image.Image) -> Image.Image:
    """Return how far each value is from the reference's, `TIMES` as large."""
    return Image.fromarray(difference(array(picture), array(reference), TIMES))


def grid(comparison: Comparison, *, differences: bool) -> Image.Image | None:
    """Return the grid; None where nothing is to be compared, or the host's limit is below one picture's rows.

    A column for the full pictures and one for each choice; for each picture a line, one with fewer steps and one with
    `differences`, if they are there. What there is no room for is told in the comparison's note.
    """
    full, choices = comparison.full.pictures, [one for one in comparison.choices if one.row.pictures]
    if not full or not choices:
        return None
    width, height = full[0].size
    blank = Image.new("RGB", (width, height))
    has_fewer = any(one.fewer is not None for one in choices)
    lines_each = 1 + has_fewer + differences
    most = int(shared.opts.img_max_size_mp * 1_000_000 / (width * height * (1 + len(choices)) * lines_each))
    if most < len(full):
        comparison.tell(f"the grid has no room for seed {listed([str(seed) for seed in comparison.seeds[most:]])}")
    if most < 1:
        return None
    cells: list[Image.Image] = []
    lines: list[str] = []
    for number, reference in enumerate(full[:most]):
        made = [one.row.pictures[number] for one in choices]
        lines.append(f"seed {comparison.seeds[number]}")
        cells += [reference, *made]
        if has_fewer:
            lines.append("fewer steps")
            cells += [blank, *(blank if one.fewer is None else one.fewer.pictures[number] for one in choices)]
        if differences:
            lines.append(f"difference x{TIMES}")
            cells += [blank, *(difference_of(picture, reference) for picture in made)]
    text = images.GridAnnotation
    columns = [["full", f"{comparison.full.steps} steps"], *(_legend(one.row, one.fewer) for one in choices)]
    annotated: Image.Image = images.draw_grid_annotations(
        images.image_grid(cells, rows=len(lines)),
        width,
        height,
        [[text(line) for line in column] for column in columns],
        [[text(line)] for line in lines],
    )
    return annotated


def _legend(row: Row, fewer: Row | None) -> list[str]:
    lines = [row.label, f"{row.faster.strip()}, {decibels(row.psnr)}".removeprefix(", ")]
    return lines if fewer is None else [*lines, f"{fewer.label}: {decibels(fewer.psnr)}"]
