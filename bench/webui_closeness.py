"""How close and how fast are the presets on your checkpoint and card, beside as many steps as cost the same?

Asks a running WebUI with --api that has the extension, the AUTOMATIC1111 WebUI or one of its descendants, and makes
nothing itself: for every checkpoint, sampler and prompt the full pictures of some seeds, each preset's, and those of
fewer steps. Prints one Markdown table, ready for docs/measured.md. Needs Python, and dev.py installs the rest:

    python3 dev.py bench webui_closeness http://127.0.0.1:7860 --prompts prompts.txt --seeds 8
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.parts.report import row, table

PRESETS = ("Quality", "Balanced", "Fast")
HEADINGS = (
    "checkpoint", "sampler", "choice", "steps", "U-Net, s", "in all, s", "speed-up", "PSNR, dB", "SSIM",
)  # fmt: skip
HOURS = 3600


class AnswerError(Exception):
    """The WebUI gave no answer that can be used; the text says why."""


@dataclass(frozen=True)
class WebUI:
    """A running WebUI, and who asks, as "user:password" or ""."""

    address: str
    user: str = ""

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the decoded answer; raises AnswerError."""
        data = None if body is None else json.dumps(body).encode()
        url = self.address.rstrip("/") + path
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - the user's own
        if self.user:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.user.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=24 * HOURS) as reply:  # noqa: S310 - the user's own
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise AnswerError(f"{url}: {error.code} {error.read().decode(errors='replace')[:300]}") from None
        except (urllib.error.URLError, ValueError) as error:
            raise AnswerError(f"{url}: {error}; is the WebUI running with --api, and the extension in it?") from None


@dataclass
class Figures:
    """What was measured of one choice, over all prompts and seeds."""

    label: str
    steps: set[int] = field(default_factory=set)
    unet_seconds: float = 0.0
    seconds: float = 0.0
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)

    def add(self, found: Mapping[str, Any]) -> None:
        """Add what a comparison has of it."""
        self.steps.add(found["steps"])
        self.unet_seconds += found["unet_seconds"]
        self.seconds += found["seconds"]
        self.psnr += found["psnr"]
        self.ssim += found["ssim"]
        if found["reason"]:
            self.reasons.add(found["reason"])

    def cells(self, full: Figures) -> list[str]:
        """Return its figures as text: seconds of one picture, means, and in brackets the worst picture."""
        steps, count = "/".join(map(str, sorted(self.steps))), len(self.psnr)
        if not count or not self.unet_seconds:
            return [self.label, steps, "", "", "", "", "; ".join(sorted(self.reasons))]
        seconds = [f"{self.unet_seconds / count:.2f}", f"{self.seconds / count:.2f}"]
        if self is full:
            return [self.label, steps, *seconds, "", "", ""]
        speed = f"{full.unet_seconds / len(full.psnr) / (self.unet_seconds / count):.2f}x"
        label = self.label + (f" ({'; '.join(sorted(self.reasons))})" if self.reasons else "")
        closeness = [f"{fmean(self.psnr):.1f} ({min(self.psnr):.1f})", f"{fmean(self.ssim):.3f} ({min(self.ssim):.3f})"]
        return [label, steps, *seconds, speed, *closeness]


def measure(webui: WebUI, request: Mapping[str, Any], prompts: Iterable[str], choices: Sequence[str]) -> list[Figures]:
    """Return the full pictures' figures first, then each choice's and those of fewer steps; raises AnswerError."""
    found: dict[str, Figures] = {}
    for prompt in prompts:
        webui.ask("/sdapi/v1/txt2img", {**request, "prompt": prompt, "script_args": [list(choices), True, False]})
        comparison = webui.ask("/deepcache/v1/last-run").get("comparison")
        if comparison is None or comparison["note"]:
            why = "the extension made none" if comparison is None else comparison["note"]
            raise AnswerError(f"the comparison did not end as it should: {why}")
        found.setdefault("full", Figures("full")).add(comparison["full"])
        for choice in comparison["choices"]:
            label = choice["label"]
            found.setdefault(label, Figures(label)).add(choice)
            if choice["fewer_steps"]:
                found.setdefault(f"{label} fewer", Figures("fewer steps")).add(choice["fewer_steps"])
    return list(found.values())


def rows(webui: WebUI, options: argparse.Namespace, prompts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the table's rows, checkpoint by checkpoint and sampler by sampler."""
    for checkpoint, sampler in product(options.checkpoint or [""], options.samplers):
        request = {
            "negative_prompt": options.negative,
            "sampler_name": sampler,
            "steps": options.steps,
            "width": options.width or options.size,
            "height": options.height or options.size,
            "cfg_scale": options.cfg,
            "seed": options.seed,
            "n_iter": options.seeds,
            "script_name": "DeepCache comparison",
            "send_images": False,
            "save_images": False,
            "override_settings": {"sd_model_checkpoint": checkpoint} if checkpoint else {},
        }
        request |= {"scheduler": options.scheduler} if options.scheduler else {}
        full, *others = measure(webui, request, prompts, options.choices)
        name = webui.ask("/deepcache/v1/last-run")["comparison"]["checkpoint"]
        for figures in (full, *others):
            yield [name, sampler, *figures.cells(full)]


def about(webui: WebUI, options: argparse.Namespace, prompts: Sequence[str]) -> str:
    """Return a line with date, host, card, torch and what was made."""
    comparison = webui.ask("/deepcache/v1/last-run")["comparison"]
    today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    size = f"{comparison['width']}x{comparison['height']}"
    made = f"{options.steps} steps, {size}, CFG {options.cfg:g}, {len(prompts)} prompts of {options.seeds} seeds"
    where = f"WebUI {comparison['host']}, {comparison['device']}, torch {comparison['torch']}"
    return f"{today}, {where}, DeepCache {comparison['version']}; {made}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the WebUI answers, such as http://127.0.0.1:7860")
    parser.add_argument("--prompts", type=Path, required=True, help="a text file, one prompt a line")
    parser.add_argument("--negative", default="", help="the negative prompt of all")
    parser.add_argument("--checkpoint", nargs="+", help="names as the WebUI lists them (default: the loaded one)")
    parser.add_argument("--samplers", nargs="+", default=["Euler a", "DPM++ 2M"])
    parser.add_argument("--scheduler", default="", help="of all samplers (default: each one's own)")
    parser.add_argument("--choices", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=8, help="pictures of each prompt (default 8)")
    parser.add_argument("--seed", type=int, default=1000, help="of the first picture (default 1000)")
    parser.add_argument("--size", type=int, default=512, help="height and width (default 512; SDXL wants 1024)")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--cfg", type=float, default=7.0)
    parser.add_argument("--auth", default="", help="user:password of --api-auth")
    options = parser.parse_args(arguments)
    lines = [line.strip() for line in options.prompts.read_text(encoding="utf-8").splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    webui = WebUI(options.url, options.auth)
    try:
        if not prompts:
            raise AnswerError(f"{options.prompts} has no prompts")
        print(table(HEADINGS, []), flush=True)
        for cells in rows(webui, options, prompts):
            print(row(cells), flush=True)
        print(f"\n{about(webui, options, prompts)}")
    except AnswerError as error:
        print(f"webui_closeness: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
