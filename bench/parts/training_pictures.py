"""Pictures to train small networks on, from packages whose licence allows it.

* "emoji": Noto emoji (Apache 2.0), as npm's emoji-datasource-google has them (`npm pack emoji-datasource-google@16.0.0`
  and `tar`);
* "clipart": Open Clip Art (public domain), as Debian's openclipart-png has it (`apt-get download openclipart-png` and
  `dpkg-deb -x`).

Or from any folder that has a folder of pictures for each class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 128
BACKGROUNDS = ("ffffff", "ffd5dc", "b6e3f4", "c1f0c1", "ffe9a8", "3a4a6b")
CLIPART = (
    "animals", "computer", "food", "people", "recreation", "shapes", "signs_and_symbols", "transportation",
)  # fmt: skip
SHARE_OF_FRAME = 0.9
"""How much of a picture its motif fills."""
PHOTO_SIZE = 32
TINTS = ("dark-cool", "dark-warm", "middle-cool", "middle-warm", "bright-cool", "bright-warm")
"""What a photograph's mean colour is called, by thirds of the brightness, and by which of red and blue is stronger."""
LARGEST = 2_000_000
"""Pixels; larger files take too long to read."""


@dataclass(frozen=True)
class Motifs:
    """Cut-out motifs and what each of them shows."""

    kinds: tuple[str, ...]
    pictures: Tensor
    """RGBA from 0 to 255, of shape (motifs, 4, SIZE, SIZE)."""
    kind: Tensor
    """Number of each motif's kind, of shape (motifs,)."""

    def on(self, chosen: Tensor, backgrounds: Tensor, flipped: Tensor) -> Tensor:
        """Return the chosen motifs on backgrounds, by number, some of them flipped: RGB from -1 to 1.

        `chosen`, `backgrounds` and `flipped` are of shape (pictures,), the result of shape (pictures, 3, SIZE, SIZE).
        """
        rgba = self.pictures[chosen].float() / 255
        rgba = torch.where(flipped.view(-1, 1, 1, 1), rgba.flip(3), rgba)
        colours = torch.tensor([[int(name[i : i + 2], 16) / 255 for i in (0, 2, 4)] for name in BACKGROUNDS])
        alpha = rgba[:, 3:]
        return 2 * (rgba[:, :3] * alpha + colours[backgrounds].view(-1, 3, 1, 1) * (1 - alpha)) - 1


@dataclass(frozen=True)
class Photos:
    """Photographs, what each shows and how it is tinted."""

    kinds: tuple[str, ...]
    pictures: Tensor
    """RGB from 0 to 255, of shape (photos, 3, PHOTO_SIZE, PHOTO_SIZE)."""
    kind: Tensor
    """Number of each photograph's kind, of shape (photos,)."""
    tint: Tensor
    """Number of each photograph's tint, of shape (photos,)."""

    def to(self, device: str) -> Photos:
        """Return them on another device."""
        return Photos(self.kinds, self.pictures.to(device), self.kind.to(device), self.tint.to(device))

    def mean_and_std(self) -> tuple[float, float]:
        """Return both over all numbers of all photographs, from -1 to 1."""
        values = self.pictures.float() / 127.5 - 1
        return float(values.mean()), float(values.std())


def photos(folder: Path) -> Photos:
    """Return the photographs of a folder with a folder for each class; raises ValueError if there are none."""
    kinds = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    files = [(number, file) for number, kind in enumerate(kinds) for file in sorted((folder / kind).iterdir())]
    if not files:
        raise ValueError(f"{folder} has no folders of pictures, one for each class")
    pictures = torch.from_numpy(np.stack([_photo(file) for _, file in files])).permute(0, 3, 1, 2).contiguous()
    red, green, blue = pictures.float().mean((2, 3)).unbind(1)
    brightness = red + green + blue
    thirds = torch.stack([brightness.quantile(part) for part in (1 / 3, 2 / 3)])
    tint = 2 * torch.bucketize(brightness, thirds) + (red > blue)
    return Photos(kinds, pictures, torch.tensor([number for number, _ in files]), tint)


def _photo(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB").resize((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.LANCZOS))


def motifs(name: str, folder: Path) -> Motifs:
    """Return the motifs of the named set from its unpacked package; raises ValueError if there are none."""
    found = list((_emoji if name == "emoji" else _clipart)(folder))
    if not found:
        raise ValueError(f"{folder} has no pictures of the set {name}; unpack its package there")
    kinds = tuple(sorted({kind for kind, _ in found}))
    numbers = [kinds.index(kind) for kind, _ in found]
    tiles = np.stack([_tile(file) for _, file in found])
    return Motifs(kinds, torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous(), torch.tensor(numbers))


def _emoji(folder: Path) -> Iterator[tuple[str, Path]]:
    entries = json.loads(next(folder.rglob("emoji.json")).read_text(encoding="utf-8"))
    images = next(folder.rglob("img/google/64"))
    for entry in entries:
        kind = entry["category"].split(" ")[0].lower()
        variants = [entry, *entry.get("skin_variations", {}).values()]
        files = [images / one["image"] for one in variants if one.get("has_img_google")]
        if kind not in {"component", "flags"}:
            yield from ((kind, file) for file in files if file.exists())


def _clipart(folder: Path) -> Iterator[tuple[str, Path]]:
    root = next(folder.rglob("openclipart/png"))
    for kind in CLIPART:
        for file in sorted((root / kind).rglob("*.png")):
            if not file.is_symlink() and _is_small(file):
                yield kind, file


def _is_small(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return bool(picture.width * picture.height <= LARGEST)
    except Image.DecompressionBombError:
        return False


def _tile(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a motif fitted into the middle of a transparent square, as RGBA."""
    motif = Image.open(file).convert("RGBA")
    motif = motif.crop(motif.getchannel("A").getbbox() or (0, 0, *motif.size))
    scale = SHARE_OF_FRAME * SIZE / max(motif.size)
    size = (max(1, round(motif.width * scale)), max(1, round(motif.height * scale)))
    tile = Image.new("RGBA", (SIZE, SIZE))
    tile.paste(motif.resize(size, Image.Resampling.LANCZOS), ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(tile)
