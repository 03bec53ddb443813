"""What the panel, the API, infotext and the X/Y/Z plot ask: the settings of a pass and which passes they are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepcache_ext.planning.settings import Choice, Kind, Settings, accepted
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.presets import BALANCED, CUSTOM, NAMES, PRESETS

_OF_HIRES = ("speed_up", "interval", "depth")
"""Settings that the hires pass may have of its own."""
_TRUE, _FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


@dataclass(frozen=True)
class Flag:
    """A bool; also read from 0, 1 and words such as "true" and "off"."""

    def __str__(self) -> str:
        return "true or false"

    def read(self, value: Any) -> bool:
        word = str(value).strip().lower()
        if word not in _TRUE + _FALSE:
            raise ValueError
        return word in _TRUE


@dataclass(frozen=True)
class Control:
    """One value that the user sets: its name, default, what it accepts, and what the user reads beside it."""

    name: str
    default: Any
    kind: Kind
    label: str
    help: str

    @property
    def infotext_key(self) -> str:
        """The key of the value in infotext."""
        return "DeepCache " + self.name.replace("_", " ")

    def read(self, value: Any) -> Any:
        """Return `value` as the control's own type; raises ValueError naming the control, the value and the range."""
        return accepted(self.name, self.kind, value)


def _controls() -> Iterator[Control]:
    of_settings = {f.name: Control(f.name, f.default, **f.metadata) for f in dataclasses.fields(Settings)}
    yield Control(
        "enabled", False, Flag(), "Enable DeepCache", "Make this tab's pictures faster, and a little different."
    )
    yield Control(
        "preset",
        BALANCED,
        Choice(NAMES),
        "Preset",
        "Quality is closest to the full picture, Fast saves the most time. Custom lets you set everything.",
    )
    yield from of_settings.values()
    yield Control(
        "hires",
        "same",
        Choice(("same", "own", "off")),
        "Hires pass",
        "The second pass of hires fix: same settings, its own speed and depth, or not cached at all.",
    )
    for name in _OF_HIRES:
        control = of_settings[name]
        yield dataclasses.replace(
            control,
            name=f"hires_{name}",
            label=f"Hires {control.label.lower()}",
            help=f"{control.label} of the hires pass.",
        )
    yield Control(
        "inner",
        True,
        Flag(),
        "Inner passes",
        "Also cache what other extensions make along the way, such as ADetailer's faces.",
    )


SCHEDULES = {
    "speed_up": {"auto"},
    "interval": {"uniform", "non-uniform"},
    "center": {"non-uniform"},
    "power": {"non-uniform"},
    "steps": {"list"},
    "hires_speed_up": {"auto", "list"},
}
"""The schedules that a setting is for; any, if it is not named here. A list is for one pass, so another is auto's."""

CONTROLS = {control.name: control for control in _controls()}
"""Every control by name, in the order of the panel and of the API's positional arguments."""

INFOTEXT_KEYS = tuple(control.infotext_key for control in CONTROLS.values())


@dataclass(frozen=True)
class Options:
    """What one job does."""

    base: Settings
    hires: Settings | None
    """Of the second pass of hires fix; None if that is not cached."""
    inner: bool
    values: Mapping[str, Any]
    """The value in force of every control; the preset is "Custom" where a value was given that it would have set."""

    def infotext(self) -> dict[str, Any]:
        """Return what differs from the defaults and matters here, by infotext key."""
        schedule, own = self.base.schedule, self.values["hires"] == "own"
        relevant = {name: schedule in schedules for name, schedules in SCHEDULES.items()}
        of_hires = {name: relevant.get(f"hires_{name}", relevant.get(name, True)) for name in _OF_HIRES}
        relevant |= {f"hires_{name}": own and matters for name, matters in of_hires.items()}
        return {
            control.infotext_key: written(self.values[name])
            for name, control in CONTROLS.items()
            if relevant.get(name, True) and self.values[name] != control.default
        }


def written(value: Any) -> Any:
    """Return a control's value as the panel and infotext show it: a list of steps as text, anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def given(arguments: Sequence[Any], enabled: Any = None) -> dict[str, Any]:
    """Return the values that a caller gave, by name.

    `arguments` are values in the panel's order, of which those that the preset or the defaults give anyway don't
    count as given, or one object with names first. Either may be partial. Raises ValueError for an unknown name or a
    value that its control does not accept; a job that is not enabled is not read any further. `enabled` counts in the
    place of the caller's, if it is not None.
    """
    first = arguments[0] if arguments else None
    named = isinstance(first, Mapping)
    raw: Mapping[str, Any] = first if isinstance(first, Mapping) else dict(zip(CONTROLS, arguments, strict=False))
    raw = raw if enabled is None else {**raw, "enabled": enabled}
    for name in raw:
        if name not in CONTROLS:
            raise ValueError(f"{name} is no setting of DeepCache; these are: {', '.join(CONTROLS)}")
    if not CONTROLS["enabled"].read(raw.get("enabled", False)):
        return {"enabled": False}
    values = {name: CONTROLS[name].read(value) for name, value in raw.items()}
    if named:
        return _implied(values) | values
    presets = PRESETS.get(values.get("preset", CUSTOM), {}).values()
    by_themselves = {name: {CONTROLS[name].default, *(p.get(name) for p in presets)} for name in values}
    return {
        name: value
        for name, value in values.items()
        if name in {"enabled", "preset"} or value not in by_themselves[name]
    }


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `given` returned with single values exchanged; a new preset replaces what was given for its part."""
    read = {name: CONTROLS[name].read(value) for name, value in overrides.items()}
    parts = PRESETS.get(read.get("preset", CUSTOM), {})
    replaced = {name for part in parts.values() for name in part}
    return {name: value for name, value in values.items() if name not in replaced} | _implied(read) | read


def _implied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices without which some of the values that somebody named would have no effect."""
    found = {}
    if any(f"hires_{name}" in values for name in _OF_HIRES):
        found["hires"] = "own"
    if "interval" in values:
        found["schedule"] = "uniform"
    if "speed_up" in values:
        found["schedule"] = "auto"
    if "center" in values or "power" in values:
        found["schedule"] = "non-uniform"
    if values.get("steps"):
        found["schedule"] = "list"
    return found


def resolved(values: Mapping[str, Any], family: Family) -> Options:
    """Return the options for a checkpoint of `family`: the defaults, over them the preset, over it what was given.

    A preset's values are for its schedule; where another was given, none of them is taken. Raises ValueError where the
    values don't go together.
    """
    preset = values.get("preset", CONTROLS["preset"].default)
    defaults = {name: control.default for name, control in CONTROLS.items()}
    of_preset = PRESETS[preset][family] if preset in PRESETS else {}
    if values.get("schedule") not in {None, of_preset.get("schedule")}:
        of_preset = {}
    force = {**defaults, **of_preset, **values}
    force["preset"] = preset if of_preset and not of_preset.keys() & values.keys() else CUSTOM
    base = Settings(**{field.name: force[field.name] for field in dataclasses.fields(Settings)})
    hires = {"same": base, "off": None}.get(force["hires"], base)
    if force["hires"] == "own":
        own = {name: force[f"hires_{name}"] for name in _OF_HIRES}
        hires = dataclasses.replace(base, **own, schedule="auto" if base.schedule == "list" else base.schedule)
    return Options(base, hires, force["inner"], force)
