"""How many operations does the cache add to a U-Net call?

On a graphics card an operation costs a launch, whatever its size. Counted on a narrow network of SD1.5's blocks with
random weights: every operation that does work, views and changes of shape left out, that a refresh has more than the
untouched network, and a reuse more than the blocks that it runs. The numbers must not depend on the rows, and nothing
may read a value back from the device, for which a device has to finish what it was given before.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.parts.networks import NETWORKS, in_precision
from bench.parts.report import row, table
from bench.parts.walk import Walk
from deepcache_ext import NoiseLevels, SamplerKind, SamplingPass, Settings
from deepcache_ext.features.forecast import ITERATIONS_WITH_NOISE, Held, Line, LineAndResponse, Predictor, Response
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel

NETWORK = "SD1.5"
ROWS = (2, 8, 16, 32)
LATENT = 8
EVALUATIONS = 6
"""In a run; every second reuses. The last of each kind is counted, when there is all that a forecast needs."""
LEVELS = NoiseLevels(torch.linspace(0.999, 0.005, 1000))
READ_BACK = frozenset({
    "_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "_unique2", "unique_dim",
})  # fmt: skip
"""Operations whose result, or its size, the host has to wait for."""
NO_WORK = frozenset(
    {"_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty"}
)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that do work, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operation.overloadpacket.__name__
        if not operation.is_view and name not in NO_WORK:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Case:
    """What a pass keeps features with, how deep it cuts, and whether it draws outputs."""

    name: str
    predictor: Predictor
    depth: int
    noisy: bool = False
    asked: str = ""
    """The sampler that was asked for its run, so that the host knows when each evaluation is."""
    corrected: bool = False
    """Whether its reuses are put right."""


RESPONSE = Response(ITERATIONS_WITH_NOISE)
CASES = (
    *(Case("held", Held(), depth) for depth in (0, 1)),
    *(Case("line, not asked", Line(), depth) for depth in (0, 1)),
    *(Case("line (Euler)", Line(), depth, asked="Euler") for depth in (0, 1)),
    *(Case("line and response (Heun)", LineAndResponse(), depth, asked="Heun") for depth in (0, 1)),
    Case("response, drawn, not asked", RESPONSE, 1, noisy=True),
    Case("response, drawn (Euler a)", RESPONSE, 1, noisy=True, asked="Euler a"),
    Case("line, corrected (Euler)", Line(), 0, asked="Euler", corrected=True),
    Case("line, corrected (DPM++ 2M)", Line(), 0, asked="DPM++ 2M", corrected=True),
    Case("response, drawn, corrected (Euler a)", RESPONSE, 0, noisy=True, asked="Euler a", corrected=True),
)


class Counted:
    """A narrow network in a precision, and what its calls with so many rows take."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.network = NETWORKS[NETWORK]
        self.unet = in_precision(self.network.build(small=True), dtype)

    def inputs(self, rows: int, number: int) -> dict[str, Tensor]:
        """Return the inputs of evaluation `number`, nearer to the picture than the one before."""
        found = self.network.inputs(self.unet, rows, latent=LATENT, dtype=self.dtype, seed=number)
        found["timesteps"] = torch.full((rows,), 900.0 - 100 * number)
        return found

    def added(self, case: Case, rows: int) -> tuple[Counter[str], Counter[str]]:
        """Return what the cache adds to a refresh, and to a reuse over the blocks that it runs."""
        inputs = self.inputs(rows, 0)
        untouched = self._counted(lambda: self.unet(**inputs))
        settings = Settings(schedule="list", steps=tuple(range(0, EVALUATIONS, 2)), depth=case.depth)
        kind = SamplerKind(noisy=case.noisy)
        options: dict[str, Any] = {"levels": LEVELS, "predictor": case.predictor}
        if case.asked:
            model = TinyModel()
            options |= {"run": SAMPLERS[case.asked].ask(model, EVALUATIONS), "levels": model.levels}
            kind = replace(kind, pays_back=case.corrected)
        with SamplingPass(self.unet, settings, sampler=kind, **options) as run:
            counts = [self._evaluation(run, rows, number) for number in range(EVALUATIONS)]
        if run.statistics.reused != EVALUATIONS // 2 or run.statistics.error:
            raise RuntimeError(f"every second evaluation was to reuse; {run.statistics}")
        if case.corrected != bool(run.statistics.corrected):
            raise RuntimeError(f"reuses were to be put right where the case says so; {run.statistics}")
        return counts[-2] - untouched, counts[-1] - self._outer(case.depth, rows)

    def _evaluation(self, run: SamplingPass, rows: int, number: int) -> Counter[str]:
        inputs = self.inputs(rows, number)
        run.start_evaluation()
        return self._counted(lambda: self.unet(**inputs))

    def _outer(self, depth: int, rows: int) -> Counter[str]:
        """Return what the blocks take that a reuse runs."""
        inputs, feature = self.inputs(rows, 0), self._feature(depth, rows)

        def run() -> None:
            walk = Walk(self.unet, **inputs)
            walk.inputs(depth)
            walk.head(walk.outer(feature, depth))

        return self._counted(run)

    def _feature(self, depth: int, rows: int) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            return Walk(self.unet, **self.inputs(rows, 0)).deep(depth)

    def _counted(self, call: Callable[[], object]) -> Counter[str]:
        half, operations = self.dtype != torch.float32, Operations()
        with torch.no_grad(), torch.autocast("cpu", self.dtype, enabled=half), operations:
            call()
        return operations.counts


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--half", action="store_true", help="count in bfloat16 instead of float32")
    parser.add_argument("--names", action="store_true", help="print which operations they are")
    options = parser.parse_args()
    counted = Counted(torch.bfloat16 if options.half else torch.float32)
    print(table(["predictor", "depth", "rows", "added to a refresh", "added to a reuse", "read back"], []))
    for case in CASES:
        for rows in options.rows:
            refresh, reuse = counted.added(case, rows)
            read_back = sum((refresh + reuse)[name] for name in READ_BACK)
            print(
                row([case.name, *map(str, (case.depth, rows, refresh.total(), reuse.total(), read_back))]), flush=True
            )
        if options.names:
            print(f"\nrefresh: {dict(refresh)}\nreuse: {dict(reuse)}\n")


if __name__ == "__main__":
    main()
