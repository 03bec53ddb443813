"""What does the forecast cost? Its part of a refresh and of a reuse on a full-size network with random weights.

The forecast is what the store does beyond keeping and handing out features, timed with and without it in turns.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from bench.parts.networks import NETWORKS, in_precision, use_sdp_attention
from bench.parts.report import row, table, written_on
from bench.parts.timing import Clock, Samples
from deepcache_ext import NoiseLevels, SamplerKind, SamplingPass, Settings
from deepcache_ext.features.store import RowStore

HEADINGS = ("network", "sampler", "depth", "of a refresh", "of a reuse", "on a reuse, of a refresh")
CASES = (
    ("adds none", 1, False, 0), ("adds none", 1, False, 1),
    ("adds none, two stages", 2, False, 0), ("adds none, two stages", 2, False, 1),
    ("adds noise", 1, True, 1),
)  # fmt: skip
"""The sampler in words, its stages, whether it adds noise, and the depth."""
OWN = {"refresh": ("keep",), "reuse": ("take", "drawn")}
"""The store's methods at a refresh and at a reuse."""
LEVELS = NoiseLevels(torch.linspace(0.999, 0.005, 1000))
EVALUATIONS = 6
"""In a run; every second reuses. The first two refreshes forecast less than the others and aren't counted."""
REFRESHES = tuple(range(0, EVALUATIONS, 2))


def parts(
    call: Callable[[int], None], unet: Any, clock: Clock, *, stages: int, noisy: bool, depth: int, repeats: int
) -> tuple[float, float, float]:
    """Return which part of a refresh the forecast takes, of a reuse, and its time on a reuse as a part of a refresh.

    Medians over the repeats. `call` makes the evaluation of that number. Without the forecast a depth of 0 is timed as
    1, whose feature is as large on the stock networks.
    """
    samples = Samples()
    for _ in range(repeats):
        spent: dict[str, float] = {}
        for forecast in ("off", "on"):
            settings = Settings(schedule="list", steps=REFRESHES, forecast=forecast, depth=depth)
            with SamplingPass(unet, settings, EVALUATIONS, sampler=SamplerKind(stages, noisy), levels=LEVELS) as run:
                for index in range(EVALUATIONS):
                    run.start_evaluation()
                    kind = "reuse" if index % 2 else "refresh"
                    own: list[float] = []
                    with contextlib.ExitStack() as patches:
                        for name in OWN[kind]:
                            method = _timed(getattr(RowStore, name), clock, own)
                            patches.enter_context(mock.patch.object(RowStore, name, method))
                        whole = clock.time(lambda index=index: call(index))  # type: ignore[misc]
                    if index >= EVALUATIONS - 2:
                        spent |= {f"{kind} {forecast}": sum(own), f"{kind} whole": whole}
        forecasts = {kind: spent[f"{kind} on"] - spent[f"{kind} off"] for kind in OWN}
        for kind, time in forecasts.items():
            samples.add(kind, time / spent[f"{kind} whole"])
        samples.add("reuse of refresh", forecasts["reuse"] / spent["refresh whole"])
    return samples.median("refresh"), samples.median("reuse"), samples.median("reuse of refresh")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["SD1.5"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--small", action="store_true", help="narrow networks, to see that it runs")
    parser.add_argument("--latent", type=int, default=64, help="height and width of the latent (default 64)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(written_on(options.device))
    print()
    print(table(HEADINGS, []), flush=True)
    use_sdp_attention()
    for name in options.networks:
        network = NETWORKS[name]
        dtype = torch.float16 if options.device == "cuda" else torch.float32
        unet = in_precision(network.build(small=options.small, device=options.device), dtype)
        inputs = network.inputs(unet, 2, latent=options.latent, device=options.device, dtype=dtype)

        @torch.no_grad()
        def call(index: int, unet: Any = unet, inputs: dict[str, Any] = inputs) -> None:
            moved = {"x": inputs["x"] + 0.01 * index, "timesteps": inputs["timesteps"] * 0 + 900 - 50 * index}
            unet(**(inputs | moved))

        for kind, stages, noisy, depth in CASES:
            clock = Clock(options.device)
            found = parts(call, unet, clock, stages=stages, noisy=noisy, depth=depth, repeats=options.repeats)
            print(row([name, kind, str(depth), *(f"{100 * part:.2f} %" for part in found)]), flush=True)


def _timed(method: Callable[..., Any], clock: Clock, own: list[float]) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        found: list[Any] = []
        own.append(clock.time(lambda: found.append(method(*args))))
        return found[0]

    return timed


if __name__ == "__main__":
    main()
