"""The plans that were found for checkpoints: one small JSON file among the user's data."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcache_ext.planning.settings import Settings
from deepcache_ext.planning.tuning import is_surely_closer
from deepcache_ext.sentence import of_error

FORMAT = "DeepCache plans, 1"


@dataclass(frozen=True)
class Key:
    """What a plan was found for."""

    checkpoint: str
    """Its hash, or its name where the host makes no hashes."""
    sampler: str
    scheduler: str
    kind: str
    """Of the pass: "txt2img" or "img2img"."""
    evaluations: int
    """How many the pass makes."""


@dataclass(frozen=True)
class Plan:
    """What was found for one preset, and how close its pictures were."""

    steps: tuple[int, ...]
    """The full evaluations, counted from 0."""
    depth: int
    forecast: str
    psnr: float
    """To the full pictures, in dB, in the mean."""
    usual: float
    """The same of the plan that the preset makes by itself."""
    fewer_steps: int
    """As many steps without DeepCache as cost the same."""
    fewer: float
    """The same of pictures in that many steps."""

    @property
    def settings(self) -> Settings:
        """The settings that make the plan anywhere."""
        return Settings(schedule="list", steps=self.steps, depth=self.depth, forecast=self.forecast)

    @property
    def is_worth_it(self) -> bool:
        """Whether fewer steps at the same cost were surely less close."""
        return is_surely_closer(self.psnr, self.fewer)


Plans = Mapping[Key, Mapping[str, Plan]]
"""The plans of each key, by preset."""


class TunedPlans:
    """The plans in a file, read again whenever it has changed.

    A file that can't be read, or that something else wrote, counts as empty; `problem` says so. It is never written
    over: saving moves it aside first.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problem = ""
        """Why the file is not used, as a sentence; "" if it is, or if there is none."""
        self._read: tuple[int, int] | None = None
        self._in_use = threading.RLock()
        self._plans: dict[Key, dict[str, Plan]] = {}

    def all(self) -> Plans:
        """Return all plans."""
        with self._in_use:
            stamp = self._stamp()
            if stamp != self._read:
                plans, problem = {}, ""
                try:
                    plans = _plans(self.file) if stamp is not None else {}
                except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                    problem = f"{self.file.name} holds no plans that can be read ({of_error(error)})"
                self._read, self._plans, self.problem = stamp, plans, problem
            return self._plans

    def of(self, key: Key) -> Mapping[str, Plan]:
        """Return the plans for a key, by preset."""
        return self.all().get(key, {})

    def keep(self, key: Key, plans: Mapping[str, Plan]) -> None:
        """Write the plans of some presets, in the place of those that were found before; raises OSError."""
        with self._in_use:
            found = dict(self.all())
            found[key] = {**found.get(key, {}), **plans}
            self._write(found)

    def forget(self, checkpoint: str) -> int:
        """Take all plans of a checkpoint out of the file, and return for how many kinds of runs; raises OSError."""
        with self._in_use:
            found = self.all()
            kept = {key: plans for key, plans in found.items() if key.checkpoint != checkpoint}
            if len(kept) < len(found):
                self._write(kept)
        return len(found) - len(kept)

    def _write(self, plans: Plans) -> None:
        if self.problem:
            numbers = (self.file.with_name(f"{self.file.stem}.not-read-{number}.json") for number in range(1, 10000))
            self.file.rename(next(name for name in numbers if not name.exists()))
        entries = [
            {**asdict(key), "presets": {name: asdict(plan) for name, plan in of_key.items()}}
            for key, of_key in plans.items()
        ]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps({"format": FORMAT, "plans": entries}, indent=1), encoding="utf-8")
        beside.replace(self.file)
        self._read = None

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size


def _plans(file: Path) -> dict[Key, dict[str, Plan]]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise ValueError(f'it does not say "{FORMAT}"')
    return dict(_entries(found["plans"]))


def _entries(entries: Iterable[Any]) -> Iterable[tuple[Key, dict[str, Plan]]]:
    for entry in entries:
        presets = {name: _plan(**values) for name, values in entry["presets"].items()}
        names = ("checkpoint", "sampler", "scheduler", "kind")
        yield Key(**{name: str(entry[name]) for name in names}, evaluations=int(entry["evaluations"])), presets


def _plan(**values: Any) -> Plan:
    steps = tuple(values.pop("steps"))
    plan = Plan(steps=steps, **values)
    if not plan.settings.steps == steps or not all(
        isinstance(value, (int, float)) for value in (plan.psnr, plan.usual, plan.fewer, plan.fewer_steps)
    ):
        raise ValueError("a plan in it is none")
    return plan
