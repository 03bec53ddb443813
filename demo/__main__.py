"""Sample a labelled batch with and without the cache; print a table and write a picture of both."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from deepcache_ext import SamplingPass, Settings
from demo.pictures import psnr, rows_picture
from demo.samplers import SAMPLERS, Sampler
from demo.tiny_model import TinyModel


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 dev.py demo", description=__doc__)
    parser.add_argument("--interval", type=int, default=3, help="one full evaluation in this many (default 3)")
    parser.add_argument("--depth", type=int, default=1, help="outermost block pairs that always run (default 1)")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps (default 20)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="DPM++ 2M", help="default DPM++ 2M")
    parser.add_argument(
        "--schedule", default="uniform", help='uniform, non-uniform, auto, or a list such as "0, 5, 9, 13"'
    )
    parser.add_argument("--speed-up", type=float, default=2.0, help="what the schedule auto aims at (default 2)")
    parser.add_argument("--pictures", type=int, default=16, help="how many pictures (default 16)")
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"), help="the picture (default out/demo.png)")
    options = parser.parse_args(arguments)
    try:
        settings = _settings(options)
        if options.steps < 2 or options.pictures < 1:
            raise ValueError(f"steps must be at least 2 and pictures 1; got {options.steps} and {options.pictures}")
        model = TinyModel()
        _compare(model, SAMPLERS[options.sampler], settings, options)
    except ValueError as error:
        print(f"DeepCache demo: {error}", file=sys.stderr)
        return 2
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    common = {"interval": options.interval, "depth": options.depth, "speed_up": options.speed_up}
    if options.schedule in ("auto", "uniform", "non-uniform"):
        return Settings(**common, schedule=options.schedule, center=min(15, options.steps // 3))
    return Settings(**common, schedule="list", steps=options.schedule)


def _compare(model: TinyModel, sampler: Sampler, settings: Settings, options: argparse.Namespace) -> None:
    prompts = model.prompts(options.pictures)
    asked = sampler.ask(model, options.steps)
    run = SamplingPass(
        model.unet,
        settings,
        sampler.evaluations(options.steps),
        sampler=replace(sampler.kind, pays_back=asked.kind.pays_back),
        run=asked,
        levels=model.levels,
    )
    sampler.sample(model, prompts, 2)  # warm-up, so that neither run pays for the first calls

    print("without the cache", flush=True)
    began = time.perf_counter()
    uncached = sampler.sample(model, prompts, options.steps, progress=True)
    uncached_seconds = time.perf_counter() - began

    print("with the cache", flush=True)
    began = time.perf_counter()
    with run:
        cached = sampler.sample(model, prompts, options.steps, wrap=run.wrap, progress=True)
    cached_seconds = time.perf_counter() - began

    evaluations = sampler.evaluations(options.steps)
    closeness = psnr(cached, uncached)
    print(f"\n{options.sampler}, {options.steps} steps, {len(prompts)} pictures, {settings}\n")
    print(f"{'':10}{'full':>6}{'reused':>8}{'seconds':>9}{'speed-up':>10}   PSNR to the uncached pictures")
    print(f"{'uncached':10}{evaluations:6d}{0:8d}{uncached_seconds:9.2f}{'1.00x':>10}")
    print(
        f"{'DeepCache':10}{run.statistics.full:6d}{run.statistics.reused:8d}{cached_seconds:9.2f}"
        f"{uncached_seconds / cached_seconds:9.2f}x   {closeness.median():.1f} dB median, "
        f"{closeness.min():.1f} dB worst"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    labels = [style for style, _ in prompts]
    rows_picture([("uncached", uncached), ("DeepCache", cached)], labels).save(options.out)
    print(f"\nBoth rows side by side: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
