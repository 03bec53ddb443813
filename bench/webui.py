"""How much faster does sampling get in a real WebUI, and is that what the multiply-accumulates promise?

Starts the WebUI that WEBUI_DIR names (with the Python that WEBUI_PYTHON names) with a copy of the extension, and makes
the same picture by interval, interval 1 being the uncached one, in turns. Seconds are of the sampler's whole run;
"told" is what the panel says, from the U-Net's full and reused calls of the cached run alone.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from bench.macs import FAMILIES, costs
from bench.parts.report import table, written_on
from bench.parts.timing import Samples
from deepcache_ext import Action, Schedule, Settings
from tests.e2e.hosts import A1111
from tests.e2e.pictures import Maker
from tests.e2e.server import serving


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the model's name, as the WebUI lists it")
    parser.add_argument("--family", choices=FAMILIES, default="SD1", help="the checkpoint's family")
    parser.add_argument("--size", type=int, default=512, help="height and width of the picture (default 512)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--intervals", nargs="+", type=int, default=[5])
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--flags", nargs="*", default=["--opt-sdp-attention"], help="more flags for the WebUI")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(A1111, Path(folder), *options.flags) as server:
        maker = Maker(server)
        samples = Samples()
        request = {"model": options.checkpoint, "width": options.size, "height": options.size}
        maker.make(**request, steps=2)
        for _ in range(options.repeats):
            for interval in (1, *options.intervals):
                maker.make(**request, steps=options.steps, cache={"interval": interval, "depth": options.depth})
                (done,) = maker.last_run()["passes"]
                samples.add(str(interval), done["sampling_seconds"])
                samples.add(f"{interval} U-Net", done["unet_seconds"])
                samples.add(f"{interval} own", done["speed_up"])
    print(f"{written_on()}; the WebUI's torch {_torch_of(A1111.python)}")
    print(f"{options.checkpoint}, {options.size}x{options.size}, Euler, {options.steps} steps, depth {options.depth}\n")
    full, *reuses = (cost for _, cost in costs(FAMILIES[options.family], options.size // 8))
    print(_table(samples, options.intervals, options.steps, options.depth, reuses[options.depth - 1] / full))


def _torch_of(python: str) -> str:
    command = [python, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _table(samples: Samples, intervals: list[int], steps: int, depth: int, reuse_cost: float) -> str:
    uncached = samples.median("1")
    rows = [["1", f"{uncached:.1f} s", f"{samples.median('1 U-Net'):.1f} s", "", "", "", ""]]
    for interval in intervals:
        seconds = samples.median(str(interval))
        actions = Schedule(Settings(interval=interval, depth=depth), steps).actions()
        promised = steps / sum(reuse_cost if action is Action.REUSE else 1.0 for action in actions)
        measured = uncached / seconds
        difference = f"{100 * (measured / promised - 1):+.1f} %"
        unet = f"{samples.median(f'{interval} U-Net'):.1f} s"
        own = f"{samples.median(f'{interval} own'):.2f}x"
        rows.append([str(interval), f"{seconds:.1f} s", unet, own, f"{measured:.2f}x", f"{promised:.2f}x", difference])
    return table(
        ["N", "sampling", "of that the U-Net", "speed-up told", "speed-up", "by multiply-accumulates", "difference"],
        rows,
    )


if __name__ == "__main__":
    main()
