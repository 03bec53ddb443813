"""How the benches print and draw."""

from __future__ import annotations

import csv
import datetime as dt
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import matplotlib as mpl
import torch
from torch import Tensor

mpl.use("Agg")
import matplotlib.pyplot as plt

Result = TypeVar("Result")
"""A dataclass whose fields are str, int or float."""


class OfCase(Protocol):
    """A result of which there is one for each case."""

    @property
    def case(self) -> tuple[object, ...]:
        """What is measured once."""


CaseResult = TypeVar("CaseResult", bound=OfCase)


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


def worst_tenth(decibels: Tensor) -> float:
    """Return the mean of the lowest tenth of `decibels`, of shape (pictures,), of one at least."""
    return float(decibels.sort().values[: max(1, len(decibels) // 10)].mean())


def mean_and_worst(decibels: Tensor) -> str:
    """Return the mean of `decibels`, of shape (pictures,), and in brackets that of the worst tenth."""
    return f"{decibels.mean():.1f} ({worst_tenth(decibels):.1f})"


def standard_error(values: Tensor) -> float:
    """Return that of the mean of `values`, of shape (pictures,); nan for a single one."""
    error: Tensor = values.std() / len(values) ** 0.5
    return float(error)


def with_result(results: Iterable[CaseResult], result: CaseResult) -> list[CaseResult]:
    """Return `results` with one more, in the place of that of the same case."""
    return [other for other in results if other.case != result.case] + [result]


def read_csv(kind: type[Result], file: Path) -> list[Result]:
    """Return what `write_csv` wrote of results of class `kind`."""
    types = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(kind)}  # type: ignore[arg-type]
    with file.open(newline="", encoding="utf-8") as lines:
        return [kind(**{name: types[name](value) for name, value in line.items()}) for line in csv.DictReader(lines)]


def write_csv(results: Iterable[Any], file: Path) -> None:
    """Write results of one dataclass, a line each, floats with four digits after the point."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        for number, result in enumerate(results):
            values = asdict(result)
            if number == 0:
                writer.writerow(values)
            writer.writerow([f"{value:.4f}" if isinstance(value, float) else value for value in values.values()])


def save_figure(out: Path, *draw: Callable[[Any], None], width: float = 6.4, columns: int = 9) -> None:
    """Write a picture with one plot for each function of `draw`, side by side, at most `columns` in a line."""
    columns = min(columns, len(draw))
    lines = -(-len(draw) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, 4.2 * lines), squeeze=False, layout="constrained"
    )
    for number, axis in enumerate(axes.flat):
        if number >= len(draw):
            axis.set_axis_off()
            continue
        draw[number](axis)
        axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    print(f"\nwrote {out}")
