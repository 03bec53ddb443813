"""How the benches print and draw."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(row(cells) for cells in (headings, ["---"] * len(headings), *rows))


def row(cells: Sequence[str]) -> str:
    """Return one row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def written_on(device: str = "cpu") -> str:
    """Return one line that says when, where and with what a measurement was made."""
    today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {os.cpu_count()} cores"
    return f"{today}, {machine}, torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """Return the processor's name as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def save_figure(out: Path, *draw: Callable[[Any], None], width: float = 6.4) -> None:
    """Write a picture with one plot for each function of `draw`, side by side."""
    figure, axes = plt.subplots(1, len(draw), figsize=(width * len(draw), 4.2), squeeze=False, layout="constrained")
    for one, axis in zip(draw, axes[0], strict=True):
        one(axis)
        axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    print(f"\nwrote {out}")
