"""Random requests with random settings to a real WebUI: does every reuse get its own row's last feature?

Starts the WebUI that WEBUI_DIR names (with the Python that WEBUI_PYTHON names) with copies of the extension and of a
test-only one that keeps a checksum of every row's deep feature on the side. Each request draws a sampler, steps, size,
batch, prompts, guidance, hires fix or a picture to start from, a refiner, host options, LoRA, ControlNet units where
there are any (CONTROLNET_DIR), tiles that stay and tiles that jitter, windows of a clip and blocks that are exchanged
where EXTENSIONS_DIR has the extensions that make them, and DeepCache's settings, and checks: the host answers 200,
nothing of ours raised, as many evaluations as the sampler made, no reused row with another's or an older feature, none
at all in a pass of tiles or windows, no hook left, and interval 1 identical to off.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deepcache_ext.statistics import NOTHING_FITTED, OTHERS, SWITCHED
from tests.e2e.hosts import A1111
from tests.e2e.pictures import Maker, picture_of, same
from tests.e2e.server import EXTENSIONS, ROOT, parts_of, serving
from tests.e2e.test_controlnet import units_on
from tests.e2e.test_extensions import demofusion, tiled
from tests.e2e.test_replays import MOTION_MODULE, animated

WORDS = ("a red house", "the sea at night", "two cats", "old trees", "a blue car", "rain")
LONG = ", ".join(WORDS * 6)
TILER = "multidiffusion-upscaler-for-automatic1111"
ANIMATOR = "sd-webui-animatediff"
EXCHANGER = "sd-webui-kohya-hiresfix"
NOT_THE_HOSTS_CUT = {"Tiled Diffusion", "DemoFusion", "AnimateDiff"}
EXPECTED = {OTHERS, SWITCHED, NOTHING_FITTED}
"""Reasons that some requests have."""


def settings(draw: random.Random) -> dict[str, Any]:
    """Return values for some of DeepCache's settings; nothing is forecast, so that what is reused is what was kept."""
    interval = {"interval": draw.choice([1, 2, 2, 3, 3, 5, 9])}
    found: dict[str, Any] = {"depth": draw.choice([1, 1, 2, 3, 6, 8])}
    found["forecast"] = "off"
    if draw.random() < 0.3:
        found |= interval | {"schedule": "non-uniform", "center": draw.randint(0, 10), "power": draw.uniform(1, 3)}
    elif draw.random() < 0.2:
        found |= {"schedule": "list", "steps": [0, *draw.sample(range(1, 12), 3)]}
    elif draw.random() < 0.5:
        found |= {"schedule": "auto", "speed_up": draw.choice([1.5, 2, 3])}
    else:
        found |= interval
    if draw.random() < 0.3:
        found |= {"start": draw.uniform(0, 0.4), "end": draw.uniform(0.6, 1)}
    if draw.random() < 0.3:
        found["hires"] = draw.choice(["same", "off"])
    return found


def prompt(draw: random.Random, loras: list[str]) -> str:
    """Return a prompt of one of the kinds that change how many rows or tokens there are."""
    one, other = draw.sample(WORDS, 2)
    text = draw.choice([
        one, one, LONG, f"{one} AND {other} :0.6", f"{one} BREAK {other}", f"{one} [{other}: {LONG}:0.5]",
        f"[{one}|{other}]",
    ])  # fmt: skip
    return f"{text} <lora:{draw.choice(loras)}:0.7>" if loras and draw.random() < 0.2 else text


def request(draw: random.Random, maker: Any, known: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of a request."""
    kind = draw.choice(["SD1", "SD1", "SD1", "SDXL"]) if maker.has("SDXL") else "SD1"
    model = maker.model(kind)
    options = {
        "sd_model_checkpoint": model,
        "batch_cond_uncond": draw.random() < 0.6,
        "pad_cond_uncond": draw.random() < 0.3,
        "token_merging_ratio": draw.choice([0, 0, 0.4]),
        "hypertile_enable_unet": draw.random() < 0.15,
        "skip_early_cond": draw.choice([0, 0, 0, 0.3]),
        "s_min_uncond": draw.choice([0, 0, 0, 3.0]),
        "s_min_uncond_all": draw.random() < 0.5,
    }
    body: dict[str, Any] = {
        "model": model,
        "override_settings": options,
        "sampler_name": draw.choice(known["samplers"]),
        "steps": draw.randint(1, 12),
        "width": draw.choice([64, 128, 128, 72, 136]),
        "height": draw.choice([64, 128, 128, 104]),
        "batch_size": draw.choice([1, 1, 2, 3]),
        "n_iter": draw.choice([1, 1, 1, 2]),
        "cfg_scale": draw.choice([1, 5, 5, 5]),
        "prompt": prompt(draw, known["loras"] if kind == "SD1" else []),
        "negative_prompt": draw.choice(["", "", "grey", LONG]),
        "seed": draw.randint(1, 10**6),
    }
    path = draw.choice(["txt2img", "txt2img", "img2img"])
    if path == "img2img":
        body |= {"init_images": [picture_of()], "denoising_strength": draw.uniform(0.3, 1)}
    elif draw.random() < 0.25:
        body |= {"enable_hr": True, "hr_scale": draw.choice([1.5, 2, 1.3]), "hr_upscaler": "Latent"}
        body |= {"hr_second_pass_steps": draw.randint(1, 8), "denoising_strength": draw.uniform(0.4, 0.9)}
    if known["refiner"] and kind == "SD1" and draw.random() < 0.15:
        body |= {"refiner_checkpoint": known["refiner"], "refiner_switch_at": draw.choice([0.3, 0.5, 0.8])}
    if known["control"] and kind == "SD1" and draw.random() < 0.35:
        wanted = draw.sample(known["control"], draw.choice([1, 1, 2]))
        unit = units_on(maker, forge=False)
        units = [unit(name, guidance_end=draw.choice([1.0, 1.0, 0.6])) for name in wanted]
        body["alwayson_scripts"] = {"ControlNet": {"args": units}}
    elif known["others"] and path == "txt2img" and "enable_hr" not in body and draw.random() < 0.25:
        fitting = [name for name in known["others"] if kind == "SD1" or name == TILER]
        scripts, changes = others(draw, draw.choice(fitting)) if fitting else ({}, {})
        body |= changes | {"alwayson_scripts": {name: {"args": arguments} for name, arguments in scripts.items()}}
        if "AnimateDiff" in scripts:  # which fails where unconds are left out, and is then off for good
            options |= {"skip_early_cond": 0, "s_min_uncond": 0}
    return path, body


def others(draw: random.Random, repository: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the arguments of one of a repository's scripts, by its title, and what else it needs of a request."""
    square = {"width": 128, "height": 128}
    if repository == ANIMATOR:
        return {"AnimateDiff": [animated(frames=5, context=4)]}, square | {"batch_size": 1, "n_iter": 1, "steps": 3}
    if repository == EXCHANGER:
        stops, scales = [draw.choice([0.1, 0.3]), 0.5], [draw.choice([0.5, 0.7]), 2.0]
        return {"Kohya Hires.fix": [True, True, 3, 4, *stops, "bicubic", *scales, draw.random() < 0.5, False]}, square
    return draw.choice([tiled("MultiDiffusion", batch=draw.choice([1, 2])), demofusion()]), square


def check(maker: Any, path: str, body: dict[str, Any], cache: dict[str, Any], seen: Counter[str]) -> None:
    """Make a cached picture and raise RuntimeError with what is wrong."""
    maker.state()
    maker.server.get("/e2e/audit")
    made = maker.make(path, cache, **body)
    state, audit, passes = maker.state(), maker.server.get("/e2e/audit"), maker.last_run()["passes"]
    evaluations = [done["statistics"]["full"] + done["statistics"]["reused"] for done in passes]
    told = [done["reason"] or done["statistics"]["error"] for done in passes if not done["name"].startswith("hires")]
    seen.update(f"told: {reason}" for reason in told if reason in EXPECTED)
    told = [reason for reason in told if reason not in EXPECTED and "is out of reach" not in reason]
    cached = [n for n in evaluations if n]
    problems = [*audit["problems"][:3], *filter(None, told)]
    if NOT_THE_HOSTS_CUT & body.get("alwayson_scripts", {}).keys() and cached and passes[-1]["reason"] != OTHERS:
        problems.append(f"somebody else's cut was cached: {passes[-1]}")
    if len(cached) == len(passes) and cached != state["evaluations"]:
        problems.append(f"{state['evaluations']} evaluations, {cached} counted")
    if "deepcache_ext" in " ".join(state["hooks"]):
        problems.append("a hook was left")
    if cache.get("interval") == 1 and not same(made, maker.make(path, **body)):
        seen["the host's first picture differs from its second"] += 1
        if not same(maker.make(path, cache, **body), maker.make(path, **body)):
            problems.append("interval 1 is not identical")
    seen.update(requests=1, reused_rows=audit["reused_rows"], reused=sum(d["statistics"]["reused"] for d in passes))
    seen.update(evaluations=sum(evaluations), missed=sum(d["statistics"]["missed"] for d in passes))
    if problems:
        raise RuntimeError("; ".join(problems))


def main() -> int:
    """Make requests until the time is over, print what was wrong, and return how many were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first request (default 0)")
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    extensions: dict[str, Any] = EXTENSIONS | {"e2e-audit": [ROOT / "tests/e2e/audit/scripts"]}
    control = os.environ.get("CONTROLNET_DIR")
    if control:
        extensions["sd-webui-controlnet"] = parts_of(control)
    found = {name: Path(os.environ.get("EXTENSIONS_DIR", "")) / name for name in (TILER, ANIMATOR, EXCHANGER)}
    found = {name: folder for name, folder in found.items() if folder.is_dir()}
    extensions |= {name: parts_of(folder) for name, folder in found.items()}
    extensions["e2e-narrow"] = [ROOT / "tests/e2e/narrow/scripts"]
    end = time.monotonic() + 60 * options.minutes
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, serving(A1111, Path(folder), extensions=extensions) as server:
        maker = Maker(server)
        known = _known(maker, with_control=bool(control)) | {"others": [*found]}
        for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(options.first)):
            draw = random.Random(f"{options.seed}/{number}")  # noqa: S311 - not for secrets
            path, body = request(draw, maker, known)
            cache = settings(draw)
            wrong = _what_is_wrong(maker, path, body, cache, seen)
            if wrong:
                seen["wrong"] += 1
                short = {key: value for key, value in body.items() if key not in {"init_images", "alwayson_scripts"}}
                print(f"request {number} of seed {options.seed}: {wrong}\n  {path} {short}\n  {cache}", flush=True)
    print(f"seed {options.seed}, from request {options.first} on: {dict(seen)}")
    return seen["wrong"]


def _what_is_wrong(maker: Any, path: str, body: dict[str, Any], cache: dict[str, Any], seen: Counter[str]) -> str:
    try:
        check(maker, path, body, cache, seen)
    except RuntimeError as error:
        return str(error)
    except AssertionError as error:  # the host's answer was none
        try:
            maker.make(path, **body)
        except AssertionError:
            seen["the host's own error"] += 1
            return ""
        return str(error)
    return ""


def _known(maker: Any, *, with_control: bool) -> dict[str, Any]:
    """Return what the WebUI has to draw from."""
    first = maker.model("SD1")
    maker.make(steps=1)
    maker.server.post("/e2e/narrow")
    maker.server.post(f"/e2e/motion-module?name={MOTION_MODULE}")
    refiner = ""
    with contextlib.suppress(pytest.skip.Exception):
        refiner = maker.model("SD1", but=first)
    return {
        "samplers": [sampler["name"] for sampler in maker.server.get("/sdapi/v1/samplers")],
        "loras": [lora["name"] for lora in maker.server.get("/sdapi/v1/loras") if "tiny" in lora["name"]],
        "refiner": refiner,
        "control": ["tiny-cn", "tiny-t2i", "reference_only"] if with_control else [],
    }


if __name__ == "__main__":
    sys.exit(bool(main()))
