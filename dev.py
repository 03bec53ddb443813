"""Set up the project's own environment and run a task in it: python3 dev.py {demo,test,bench} [options].

    python3 dev.py demo                 sample the small model with and without the cache
    python3 dev.py test                 lint, type check and run all tests, some at a time; options go to pytest instead
    python3 dev.py bench macs           run bench/macs.py; any file in bench/ and bench/research/ runs so
    python3 dev.py bench all --quick    run every bench at its smallest size

Needs Python 3.10 to 3.12. The first run makes .venv and downloads the pinned packages into it, torch among them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements"
STAMP = ENVIRONMENT / "requirements.sha256"
OLDEST_PYTHON = (3, 10)

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])

ENVIRONMENT_VARIABLES = {
    # glibc returns large blocks to the system after every operation; keeping them makes torch up to twice as fast.
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
    # torch's threads spin while they wait; beside other work on the same cores that is many times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def main(arguments: list[str]) -> int:
    """Run the task that `arguments` name and return its exit status."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        print(f"dev.py needs Python {wanted} or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    commands = _commands(*arguments)
    if not commands:
        print(__doc__)
        return 2
    _prepare("demo" if arguments[0] == "demo" else "test")
    return next(filter(None, map(_run, commands)), 0)


def _commands(task: str = "", *options: str) -> list[list[str]]:
    """Return the arguments of each Python process that the task needs, in order; none for an unknown task."""
    if task == "demo":
        return [["-m", "demo", *options]]
    if task == "test":
        return [["-m", *command] for command in (*CHECKS, ["pytest", *(options or _in_parallel())])]
    if task == "bench" and options:
        rooms = ("bench", "bench.research")
        found = [room for room in rooms if (ROOT / room.replace(".", "/") / f"{options[0]}.py").is_file()]
        return [["-m", f"{room}.{options[0]}", *options[1:]] for room in found]
    return []


def _in_parallel() -> list[str]:
    """Return pytest's options for all tests: a process for each core, up to four, with the tests of a file in one."""
    return ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]


def _prepare(group: str) -> None:
    """Make the environment and install what `group` needs, unless that is there already."""
    files = [REQUIREMENTS / f"{group}.txt", REQUIREMENTS / f"{group}-no-deps.txt"]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(REQUIREMENTS.glob("*.txt")))).hexdigest()
    done = STAMP.read_text(encoding="utf-8").split() if STAMP.exists() else []
    if done[:1] == [wanted] and group in done:
        return
    if not STAMP.exists():
        print(f"making {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    print(f"installing what {group} needs; this happens once", flush=True)
    for options in (["-r", str(files[0])], ["--no-deps", "-r", str(files[1])]):
        command = [str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"dev.py: pip could not install {options[-1]}; its own message is above")
    groups = {group, *(done[1:] if done[:1] == [wanted] else [])} | ({"demo"} if group == "test" else set())
    STAMP.write_text(" ".join([wanted, *sorted(groups)]), encoding="utf-8")


def _run(arguments: list[str]) -> int:
    return subprocess.run(
        [str(_python()), *arguments], cwd=ROOT, env=ENVIRONMENT_VARIABLES | os.environ, check=False
    ).returncode


def _python() -> Path:
    return ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
