"""Run every bench, one after the other, and say how long each took; with --quick at its smallest size.

    python3 dev.py bench all --quick

That shows that each of them still runs. Its figures mean nothing, and what it writes is thrown away. A bench that asks
for a WebUI or for pictures that are not here only shows its options.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bench", "bench.research")
FEW = "--samplers Euler --pictures 2"
SMALLEST = {
    "closeness": f"{FEW} --steps 6 --intervals 2 --guidance 3 --out OUT",
    "corrections": f"{FEW} --networks avatars --steps 6 --plans '0, 2, 4'",
    "distribution": f"{FEW} --steps 6 --reference-steps 6",
    "dry_runs": "--steps 10 --times 1",
    "forecast": "--small --latent 8 --repeats 1",
    "fuzz": "--runs 20",
    "identity": "--samplers Euler --plans 'auto, 2x' --pictures 3 --steps 8",
    "launches": "--rows 2",
    "macs": "--out OUT",
    "memory": "--networks SD1.5 --rows 2 --samplers Euler --depths 0",
    "own_time": "--networks SD1.5 --repeats 2",
    "placement": f"{FEW} --steps 6 --speed-ups 2 --growths 1",
    "predictors": f"{FEW} --steps 10",
    "preset_speed": "--small --batch 1 --latent 8 --steps 10 --repeats 1",
    "presets": f"{FEW} --networks avatars --steps 10 --out OUT",
    "quality": f"{FEW} --steps 6 --intervals 2 --depths 1 --schedules uniform --out OUT",
    "short_passes": f"{FEW} --networks avatars --steps 20 --counts 6 --out OUT",
    "speed": "--small --latent 8 --depths 1 --intervals 2 --repeats 1 --out OUT",
    "tuning": "--networks avatars --samplers Euler --steps 10 --tunings 1 --pictures 2 --out OUT",
}
"""Each bench's options at its smallest size; OUT is a file in a folder that is thrown away."""
ASKS_FOR = {
    "fuzz_webui": "a WebUI",
    "webui": "a WebUI and a checkpoint",
    "webui_closeness": "a WebUI that is running",
    "train": "the pictures to train on",
}
"""What a bench needs that is not here."""


def names() -> list[str]:
    """Return the name of every bench: each file in the benches' folders that can be run, but this one."""
    files = [file for room in ROOMS for file in sorted((ROOT / room.replace(".", "/")).glob("*.py"))]
    return [file.stem for file in files if file.stem != "all" and "__main__" in file.read_text(encoding="utf-8")]


def commands(folder: Path, *, quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the arguments to Python of every bench; what the quick ones write goes to `folder`."""
    for name in names():
        (room,) = [room for room in ROOMS if (ROOT / room.replace(".", "/") / f"{name}.py").is_file()]
        options = shlex.split("--help" if name in ASKS_FOR else SMALLEST[name] if quick else "")
        yield name, ["-m", f"{room}.{name}", *(str(folder / name) if option == "OUT" else option for option in options)]


def main() -> int:
    """Run them, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at the smallest size, instead of that of the figures")
    options = parser.parse_args()
    began, failed = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in commands(Path(folder), quick=options.quick):
            start = time.perf_counter()
            print(f"\n== {name}" + (f", which asks for {ASKS_FOR[name]}" if name in ASKS_FOR else ""), flush=True)
            if subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode:
                failed.append(name)
            print(f"-- {name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s; " + (f"failed: {', '.join(failed)}" if failed else "all ran"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
