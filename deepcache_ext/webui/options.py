"""What the panel, the API, infotext and the X/Y/Z plot ask: the settings of a pass and which passes they are for."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepcache_ext.planning.settings import Choice, Kind, Settings, accepted
from deepcache_ext.sentence import shown
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
    "interval": ("uniform", "non-uniform"),
    "speed_up": ("auto",),
    "center": ("non-uniform",),
    "power": ("non-uniform",),
    "steps": ("list",),
    "hires_speed_up": ("auto", "list"),
}
"""The schedules that a setting is for; any, if it is not named here. A list is for one pass, so another is auto's.

The first is the one that is implied where a setting of the first pass is named.
"""

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

    `arguments` are values in the panel's order, where those that the preset or the defaults give anyway don't
    count as given, or one object with names first. Either may be partial. Raises ValueError for an unknown name, for a
    value that its control does not accept, for more values than there are controls, and for a value that is named and
    can have no effect; a job that is not enabled is not read any further. `enabled` counts in the place of the
    caller's, if it is not None.
    """
    first = arguments[0] if arguments else None
    named = isinstance(first, Mapping)
    raw: Mapping[str, Any] = first if isinstance(first, Mapping) else dict(zip(CONTROLS, arguments, strict=False))
    raw = raw if enabled is None else {**raw, "enabled": enabled}
    for name in raw:
        if name not in CONTROLS:
            raise ValueError(f"{shown(name)} is no setting of DeepCache; {_meant(name)}")
    if not CONTROLS["enabled"].read(raw.get("enabled", False)):
        return {"enabled": False}
    if len(arguments) > len(CONTROLS):
        raise ValueError(f"at most {len(CONTROLS)} values are taken; got {len(arguments)}")
    values = {name: CONTROLS[name].read(value) for name, value in raw.items()}
    if named:
        return _with_effect(values, {}, lenient=True)
    presets = PRESETS.get(values.get("preset", CUSTOM), {}).values()
    by_themselves = {name: {CONTROLS[name].default, *(p.get(name) for p in presets)} for name in values}
    return {
        name: value
        for name, value in values.items()
        if name in {"enabled", "preset"} or value not in by_themselves[name]
    }


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `given` returned with single values exchanged; a new preset replaces what was given for its part.

    Raises ValueError for a value that its control does not accept, and for one that can have no effect.
    """
    read = {name: CONTROLS[name].read(value) for name, value in overrides.items()}
    parts = PRESETS.get(read.get("preset", CUSTOM), {})
    replaced = {name for part in parts.values() for name in part}
    kept = {name: value for name, value in values.items() if name not in replaced}
    return _with_effect(read, kept, lenient=False)


def _meant(name: Any) -> str:
    near = difflib.get_close_matches(str(name)[:40], CONTROLS, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else "its schema names them all"


def _with_effect(named: Mapping[str, Any], beside: Mapping[str, Any], *, lenient: bool) -> dict[str, Any]:
    """Return the values that somebody named, over those `beside`, with the choices that they need to have an effect.

    Raises ValueError for one that can't have any. A `lenient` check lets a caller that names the schedule itself, or
    what the hires pass does, go on to name whatever is the default, as with all that the schema has.
    """
    found = {**beside, **named}
    found |= _implied(named, _schedule(found))
    schedule, hires = _schedule(found), found.get("hires", CONTROLS["hires"].default)
    for name, value in named.items():
        setting, usual = name.removeprefix("hires_"), lenient and value == CONTROLS[name].default
        wanted = SCHEDULES.get(name, SCHEDULES.get(setting, (schedule,)))
        if name == "preset" and value in PRESETS:
            wanted = (_schedule({name: value}),)
        if schedule not in wanted and not (usual and "schedule" in named):
            raise ValueError(f"{name} has no effect with the schedule {schedule}, only with {' and '.join(wanted)}")
        if name != setting and hires != "own" and not (usual and "hires" in named):
            raise ValueError(f"{name} has no effect where hires is {hires}, only where it is own")
    return found


def _implied(named: Mapping[str, Any], schedule: str) -> dict[str, Any]:
    """Return the choices without which some of the values that somebody named would have no effect.

    `schedule` is the one in force beside them, which stays if it is one that they are for.
    """
    found, wanted = {}, schedule
    for name, schedules in SCHEDULES.items():
        of_first = name in named and not name.startswith("hires_")
        if of_first and named[name] != () and wanted not in schedules:
            wanted = schedules[0]
    if "schedule" not in named and wanted != schedule:
        found["schedule"] = wanted
    if "hires" not in named and any(f"hires_{name}" in named for name in _OF_HIRES):
        found["hires"] = "own"
    return found


def _schedule(values: Mapping[str, Any]) -> str:
    """Return the schedule in force with some of the values given."""
    preset = PRESETS.get(values.get("preset", CONTROLS["preset"].default))
    usual = CONTROLS["schedule"].default if preset is None else preset["SD1"]["schedule"]
    return str(values.get("schedule", usual))


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
