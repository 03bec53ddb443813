"""Run by the WebUI at every start. DeepCache needs no package of its own; this only says when the host is too old."""

from __future__ import annotations

import sys
from pathlib import Path

OLDEST_HOST = "1.10"
NEEDED = {
    "modules/scripts.py": "on_after_component",
    "modules/ui_components.py": "InputAccordion",
    "modules/sd_samplers_common.py": "launch_sampling",
    "modules/patches.py": "undo",
}
"""What the extension uses of the host, by the file that has it."""


def missing(host: Path) -> list[str]:
    """Return the names out of `NEEDED` that the WebUI in the folder `host` lacks."""
    files = {name: host / name for name in NEEDED}
    return [
        wanted
        for name, wanted in NEEDED.items()
        if not files[name].is_file() or wanted not in files[name].read_text(encoding="utf-8")
    ]


def host_folder() -> Path | None:
    """Return the WebUI's folder, the first on the import path that has its `modules`, or None outside a WebUI."""
    folders = map(Path, filter(None, sys.path))
    return next((folder for folder in folders if (folder / "modules" / "scripts.py").is_file()), None)


def main() -> None:
    """Print one line if the host, AUTOMATIC1111's or one that descends from it, is too old."""
    host = host_folder()
    if host is not None and (lacking := missing(host)):
        hosts = f"WebUI {OLDEST_HOST} or newer, or one of Forge's family"
        print(f"DeepCache needs {hosts}; this one lacks {', '.join(lacking)}. Please update it.")


if __name__ == "__main__":
    main()
