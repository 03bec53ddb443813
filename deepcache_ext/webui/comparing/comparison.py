"""What a comparison found: how close and how fast each choice of settings is, and as many steps as cost the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any

from PIL import Image

from deepcache_ext.webui.comparing.closeness import IDENTICAL

OFF = {"enabled": False}
"""The settings of a row that is made without DeepCache."""


@dataclass
class Row:
    """One way of making the pictures."""

    label: str
    steps: int
    hires_steps: int = 0
    """Of the second pass; 0 without one."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The controls of DeepCache that it sets, by name."""
    unet_seconds: float = 0.0
    seconds: float = 0.0
    """From the start to the finished pictures, all of them."""
    speed_up: float = 1.0
    """How many times less long the U-Net took than for the full pictures."""
    psnr: list[float] = field(default_factory=list)
    """To the full picture of the same seed, in dB, `closeness.IDENTICAL` for the same; none for what was not made."""
    ssim: list[float] = field(default_factory=list)
    reason: str = ""
    """Why it was not made, or why nothing was cached."""
    pictures: list[Image.Image] = field(default_factory=list, repr=False)
    infotexts: list[str] = field(default_factory=list, repr=False)

    def figures(self) -> dict[str, Any]:
        """Return everything by name but the pictures, with means and worst values."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        for name, values in (("psnr", self.psnr), ("ssim", self.ssim)):
            found[f"{name}_mean"] = fmean(values) if values else None
            found[f"{name}_worst"] = min(values) if values else None
        return found

    def __str__(self) -> str:
        if not self.psnr:
            return f"{self.label} ({self.reason})"
        return f"{self.label} {self.faster}{decibels(self.psnr)} SSIM {similarity(self.ssim)}"

    @property
    def faster(self) -> str:
        """Its speed-up as text with a space after it; nothing on a device on which the U-Net can't be timed."""
        return f"{self.speed_up:.2f}x " if self.unet_seconds else ""


@dataclass
class Choice:
    """One choice of settings, and as many steps without DeepCache as cost the same, if they were made."""

    row: Row
    fewer: Row | None = None


@dataclass
class Comparison:
    """Full pictures, and what came of every choice of settings for the same seeds."""

    checkpoint: str
    sampler: str
    scheduler: str
    width: int
    height: int
    seeds: list[int]
    full: Row
    made_with: dict[str, str] = field(default_factory=dict)
    """The host's version, the device, and the versions of torch and the extension."""
    choices: list[Choice] = field(default_factory=list)
    note: str = ""
    """Why the comparison ended early, or what of the request could not be used."""

    def rows(self) -> Iterator[Row]:
        """Yield all but the full one, fewer steps after the choice that they cost as much as."""
        for choice in self.choices:
            yield choice.row
            if choice.fewer is not None:
                yield choice.fewer

    @property
    def advice(self) -> str:
        """The choices that fewer steps are closer than, as a sentence; "" where there are none."""
        better = [
            f"{one.row.label} ({one.fewer.steps} steps: {fmean(one.fewer.psnr):.1f} dB, it: {fmean(one.row.psnr):.1f})"
            for one in self.choices
            if one.fewer is not None and one.fewer.psnr and one.row.psnr and fmean(one.fewer.psnr) > fmean(one.row.psnr)
        ]
        return f"With these settings fewer steps are closer than {listed(better)}." if better else ""

    def tell(self, sentence: str) -> None:
        """Add to the note."""
        self.note = "; ".join(filter(None, (self.note, sentence)))

    def as_json(self) -> dict[str, Any]:
        """Return all figures for the API."""
        return {
            "checkpoint": self.checkpoint,
            "sampler": self.sampler,
            "scheduler": self.scheduler,
            "width": self.width,
            "height": self.height,
            "seeds": self.seeds,
            **self.made_with,
            "full": self.full.figures(),
            "choices": [
                one.row.figures() | {"fewer_steps": None if one.fewer is None else one.fewer.figures()}
                for one in self.choices
            ],
            "advice": self.advice,
            "note": self.note,
        }

    def __str__(self) -> str:
        told = [str(one.row) + ("" if one.fewer is None else f", against {one.fewer}") for one in self.choices]
        return "; ".join(told) or self.note


def decibels(values: Sequence[float]) -> str:
    """Return the mean of PSNRs as text, and the worst where there are several."""
    return _mean_and_worst(values, lambda value: "same" if value >= IDENTICAL else f"{value:.1f}") + (
        "" if min(values) >= IDENTICAL else " dB"
    )


def similarity(values: Sequence[float]) -> str:
    """Return the mean of SSIMs as text, and the worst where there are several."""
    return _mean_and_worst(values, "{:.3f}".format)


def listed(words: Sequence[str]) -> str:
    """Return words with commas and an "and"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def headings() -> tuple[str, ...]:
    """Return the names of what `cells` returns."""
    return ("", "steps", "U-Net", "in all", "speed-up", "PSNR", "SSIM")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's figures as text."""
    steps = f"{row.steps}" + (f" + {row.hires_steps}" if row.hires_steps else "")
    if not row.seconds:
        return (row.label, steps, "", "", "", "", row.reason)
    close = (decibels(row.psnr), similarity(row.ssim)) if row.psnr else ("", "")
    unet = f"{row.unet_seconds:.1f} s" if row.unet_seconds else ""
    label = f"{row.label} ({row.reason})" if row.reason else row.label
    return (label, steps, unet, f"{row.seconds:.1f} s", row.faster.strip(), *close)


def _mean_and_worst(values: Sequence[float], text: Callable[[float], str]) -> str:
    found = text(fmean(values))
    return found if len(values) == 1 else f"{found} ({text(min(values))})"
