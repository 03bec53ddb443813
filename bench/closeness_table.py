"""The short tables of README.md and docs/closeness.md, from what bench/closeness.py has measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.closeness import SAMPLERS, Point
from bench.report import read_csv, table

HEADINGS = (
    "sampler", "speed-up", "fewer steps", "uniform, held", "auto", "auto over fewer steps", "auto over uniform",
)  # fmt: skip


def rows(points: Iterable[Point], steps: int, guidance: float, pictures: int) -> Iterator[list[str]]:
    """Yield a row for each sampler and N of which both "uniform" and "auto" are there, in dB: mean (worst tenth)."""
    of_case = {
        (point.sampler, point.interval, point.method): point
        for point in points
        if (point.steps, point.guidance, point.pictures) == (steps, guidance, pictures)
    }
    intervals = sorted({interval for _, interval, _ in of_case})
    for sampler in SAMPLERS:
        for interval in intervals:
            auto, even = (of_case.get((sampler, interval, method)) for method in ("auto", "uniform"))
            if auto is not None and even is not None:
                yield _row(auto, even)


def _row(auto: Point, even: Point) -> list[str]:
    gain = f"**{auto.mean - auto.fewer_mean:+.1f}** ± {auto.gain_error:.1f} ({auto.worst - auto.fewer_worst:+.1f})"
    return [
        auto.sampler, f"{auto.sd15:.2f}x", f"{auto.fewer_mean:.1f} ({auto.fewer_worst:.1f})",
        f"{even.mean:.1f} ({even.worst:.1f})", f"{auto.mean:.1f} ({auto.worst:.1f})", gain,
        f"{auto.mean - even.mean:+.1f} ({auto.worst - even.worst:+.1f})",
    ]  # fmt: skip


def main() -> None:
    """Print a table for one number of steps, guidance and number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--csv", type=Path, default=Path("docs/closeness.csv"), help="what bench closeness wrote")
    options = parser.parse_args()
    found = [*rows(read_csv(Point, options.csv), options.steps, options.guidance, options.pictures)]
    if not found:
        parser.error(
            f"{options.csv} has nothing of {options.steps} steps, guidance {options.guidance:g} and "
            f"{options.pictures} pictures; bench closeness with --append adds it"
        )
    print(table(HEADINGS, found))


if __name__ == "__main__":
    main()
