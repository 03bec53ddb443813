"""Is what each preset gives closer to the full picture than as many steps as cost the same, on networks of every kind?

Each preset is run at its own speed, and as many steps as come nearest to its compute, on the small networks of
demo/tiny_model.py. PSNR to the uncached picture of the same seed and all steps, its mean over the pictures and the mean
of their worst tenth; compute is counted with SD1.5's cost of a reuse on networks of SD1's and SD2's blocks, and with
SDXL's on those of SDXL's. --show prints the tables of what is there: each figure, the range of gains (for
docs/presets.md) and what a preset holds everywhere (for README.md). With --without FILE, a second table is kept of the
same presets without corrections, and what these are worth is printed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.parts.report import read_csv, standard_error, table, with_result, worst_tenth, write_csv, written_on
from bench.parts.runs import ALL_SAMPLERS, Task
from deepcache_ext import Settings
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.plan import reuse_cost
from deepcache_ext.webui.presets import PRESETS, for_run
from demo import tiny_model
from demo.pictures import psnr
from demo.tiny_model import TinyModel

SAMPLERS = (
    "Euler", "DDIM", "Euler a", "Heun", "DPM++ 2M", "UniPC", "LMS", "PLMS", "DPM++ 2M SDE", "DPM++ 3M SDE",
)  # fmt: skip

NEARLY = 1.0
"""By how much a preset may be behind fewer steps, in dB, to be called about as close."""


@dataclass(frozen=True)
class Result:
    """One preset on one network, and fewer steps at about the same compute."""

    network: str
    sampler: str
    steps: int
    guidance: float
    pictures: int
    preset: str
    speed_up: float
    mean: float
    worst: float
    """Mean of the worst tenth of the pictures."""
    fewer: int
    """As many steps cost about the same."""
    fewer_mean: float
    fewer_worst: float
    gain_error: float
    """Standard error of the mean gain over fewer steps."""

    @property
    def case(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.network, self.sampler, self.steps, self.guidance, self.pictures, self.preset

    @property
    def gain(self) -> str:
        """What the preset gains over fewer steps in dB, ± its standard error, and in brackets in the worst tenth."""
        gain, worst = self.mean - self.fewer_mean, self.worst - self.fewer_worst
        return f"{gain:+.1f} ± {self.gain_error:.1f} ({worst:+.1f})"


def compare(task: Task, steps: int) -> Iterator[tuple[Result, Result]]:
    """Yield two results for each preset, with corrections and without; one twice if the sampler has none."""
    sampler = ALL_SAMPLERS[task.sampler]
    total, family = sampler.evaluations(steps), family_of(task.model)
    kind = task.kind(steps)
    reference = task.run(steps).pictures
    by_steps: dict[int, Tensor] = {}

    def result(preset: str, correction: str) -> Result:
        given = Settings(**PRESETS[preset][family], correction=correction)
        chosen = for_run(given, preset, kind)
        reuse = reuse_cost(kind.depth(chosen), family)
        run = task.run(steps, chosen, reuse=reuse)
        compute = run.compute(reuse)
        fewer = min(range(2, steps + 1), key=lambda count: abs(sampler.evaluations(count) - compute))
        if fewer not in by_steps:
            by_steps[fewer] = psnr(task.run(fewer).pictures, reference)
        cached, without = psnr(run.pictures, reference), by_steps[fewer]
        figures = float(cached.mean()), worst_tenth(cached), fewer, float(without.mean()), worst_tenth(without)
        case = task.model.name, task.sampler, steps, task.guidance, task.pictures, preset, total / compute
        return Result(*case, *figures, standard_error(cached - without))

    for preset in PRESETS:
        corrected = result(preset, "on")
        yield corrected, result(preset, "off") if kind.pays_back else corrected


def gains(results: Iterable[Result]) -> str:
    """Return a table with a row for each sampler, number of steps and preset, and a column for each network."""
    by_case = {(r.sampler, r.steps, r.preset, r.network): r for r in results}
    found_on = dict.fromkeys(case[3] for case in by_case)
    on = [name for name in tiny_model.NAMES if name in found_on]
    on += [name for name in found_on if name not in on]
    rows = []
    for sampler, steps, preset in dict.fromkeys(case[:3] for case in by_case):
        found = [by_case.get((sampler, steps, preset, network)) for network in on]
        speed_ups = sorted({f"{result.speed_up:.2f}x" for result in found if result})
        cells = [result.gain if result else "" for result in found]
        rows.append([sampler, f"{steps}", preset, ", ".join(speed_ups), *cells])
    return table(["sampler", "steps", "preset", "speed-up", *on], rows)


def summary(results: Iterable[Result]) -> str:
    """Return a table with the least and the greatest mean gain of each preset, over all networks and steps."""

    def extent(found: Sequence[Result]) -> str:
        found_gains = [r.mean - r.fewer_mean for r in found]
        return f"{min(found_gains):+.1f} to {max(found_gains):+.1f}"

    return by_preset(results, extent)


def promises(results: Iterable[Result]) -> str:
    """Return a table of what each preset holds everywhere: its least mean PSNR, and whether it beats fewer steps.

    Both are those of the least favourable network, number of steps and guidance.
    """
    return by_preset(results, lambda found: f"{min(r.mean for r in found):.0f} dB, {verdict(found)}")


def verdict(results: Sequence[Result]) -> str:
    """Return in words whether a preset is closer than fewer steps in all of its `results`."""
    if any(r.mean - r.fewer_mean < -NEARLY for r in results):
        return "fewer steps are closer"
    return "about equal" if any(r.mean - r.fewer_mean <= r.gain_error for r in results) else "closer"


def by_preset(results: Iterable[Result], cell: Callable[[Sequence[Result]], str]) -> str:
    """Return a table with a row for each sampler and a column for each preset, each cell made of their results."""
    found: dict[str, dict[str, list[Result]]] = {}
    for r in results:
        found.setdefault(r.sampler, {}).setdefault(r.preset, []).append(r)
    samplers = sorted(found, key=lambda name: SAMPLERS.index(name) if name in SAMPLERS else len(SAMPLERS))
    rows = [[name, *(cell(found[name][p]) if p in found[name] else "" for p in PRESETS)] for name in samplers]
    return table(["sampler", *PRESETS], rows)


def differences(results: Iterable[Result], others: Iterable[Result]) -> str:
    """Return a table of what each preset gains over the same in `others`, in dB, and in brackets in the worst tenth.

    Presets that make the same pictures in both are left out.
    """
    before = {other.case: other for other in others}
    pairs = [(r, before[r.case]) for r in results if r.case in before]
    changed = dict.fromkeys((r.network, r.sampler) for r, other in pairs if r.mean != other.mean)
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for r, other in pairs:
        if (r.network, r.sampler) in changed:
            gain, worst = r.mean - other.mean, r.worst - other.worst
            key = r.sampler, f"{r.steps}", f"{r.guidance:g}", r.preset
            cells.setdefault(key, {})[r.network] = f"{gain:+.1f} ({worst:+.1f})"
    on = list(dict.fromkeys(network for found in cells.values() for network in found))
    rows = [[*case, *(found.get(network, "") for network in on)] for case, found in cells.items()]
    return table(["sampler", "steps", "guidance", "preset", *on], rows)


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tiny_model.NAMES, default=tiny_model.NAMES)
    parser.add_argument(
        "--weights", type=Path, help="a folder of networks, each a NAME.json with NAME*.safetensors, in their place"
    )
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 30])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--guidance", nargs="+", type=float, default=[4.0])
    parser.add_argument("--out", type=Path, default=Path("docs/presets.csv"), help="what is there is added to")
    parser.add_argument("--device", default="cpu", help="such as cuda; always in single precision")
    parser.add_argument("--show", action="store_true", help="print the tables of what is there, measure nothing")
    parser.add_argument("--without", type=Path, help="a second table, of the same without corrections, to compare with")
    options = parser.parse_args()
    found, without = (
        read_csv(Result, file) if file and file.exists() else [] for file in (options.out, options.without)
    )
    if not options.show:
        print(written_on(options.device))
        for model in networks(options.networks, options.weights, options.device):
            for steps, name, guidance in itertools.product(options.steps, options.samplers, options.guidance):
                task = Task(model, name, options.pictures, options.batch, guidance)
                for result, uncorrected in compare(task, steps):
                    found, without = with_result(found, result), with_result(without, uncorrected)
                    print(*result.case, f"{result.speed_up:.2f}x", result.gain, flush=True)
                write_csv(found, options.out)
                if options.without:
                    write_csv(without, options.without)
    for guidance, pictures in dict.fromkeys((result.guidance, result.pictures) for result in found):
        if guidance in options.guidance:
            print(f"\n{pictures} pictures, guidance {guidance:g}\n")
            print(gains(r for r in found if (r.guidance, r.pictures) == (guidance, pictures)))
    print(f"\nLeast and greatest gain over fewer steps, in dB\n\n{summary(found)}")
    print(f"\nLeast closeness to the full picture, and whether fewer steps are closer anywhere\n\n{promises(found)}")
    if options.without:
        print(f"\nGained over no corrections, in dB\n\n{differences(found, without)}")


def networks(names: Iterable[str], folder: Path | None = None, device: str = "cpu") -> Iterator[TinyModel]:
    """Yield the named networks, or those in a folder; raises SystemExit for a folder that has none."""
    torch.backends.cudnn.allow_tf32 = False
    if folder is None:
        yield from (TinyModel(name).to(device) for name in names)
        return
    configs = sorted(folder.glob("*.json"))
    if not configs:
        raise SystemExit(f"{folder} has no networks: no NAME.json with NAME*.safetensors")
    for config in configs:
        yield TinyModel(config.stem, config).to(device)


def family_of(model: TinyModel) -> Family:
    """Return the family whose blocks a small network has."""
    if model.config.get("package") == "sgm":
        return "SDXL"
    return "SD2" if model.prediction == "v" else "SD1"


if __name__ == "__main__":
    main()
