"""What the panel, the API, infotext and the X/Y/Z plot ask: the settings of a pass and which passes they are for."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepcache_ext.planning.sampler_kind import SamplerKind
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
    before: Any = None
    """What pictures have whose infotext does not name it, if not the default: those made before there was it."""

    @property
    def unwritten(self) -> Any:
        """The value that infotext does not name."""
        return self.default if self.before is None else self.before

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
        "Quality is closest to the picture without DeepCache, Fast saves the most time. Custom lets you set "
        "everything.",
    )
    correction = of_settings.pop("correction")
    yield from of_settings.values()
    yield Control(
        "hires",
        "same",
        Choice(("same", "own", "uniform", "off")),
        "Hires pass",
        "The second pass of hires fix. same: as the first; own: the first one's schedule with a speed and depth of its "
        "own; uniform: evenly, with an interval and depth of its own; off: not cached.",
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
    yield dataclasses.replace(correction, before="off")


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
_OWN, _EVENLY = "own", "uniform"
"""What the hires pass does where it has settings of its own: with the first pass's schedule, or evenly in any case."""

CONTROLS = {control.name: control for control in _controls()}
"""Every control by name, in the order of the panel and of the API's positional arguments."""

INFOTEXT_KEYS = tuple(control.infotext_key for control in CONTROLS.values())


@dataclass(frozen=True)
class Options:
    """What one job does."""

    base: Settings
    """Of a job's first pass."""
    hires: Settings | None
    """Of the second pass of hires fix; None if that is not cached."""
    others: Settings
    """Of any other pass: an inner one, or another run of a sampler in the same job."""
    inner: bool
    values: Mapping[str, Any]
    """The value in force of every control; the preset is "Custom" where a value was given that it would have set.

    A list beside a preset is for the first pass alone, so the preset stays: it is that of the other passes.
    """

    def are_presets(self, settings: Settings) -> bool:
        """Tell whether `settings`, those of one of the passes, are a preset's, which leaves some passes alone."""
        own = settings is self.hires and self.values["hires"] in {_OWN, _EVENLY}
        return self.values["preset"] != CUSTOM and settings.schedule != "list" and not own

    def infotext(self) -> dict[str, Any]:
        """Return what differs from what infotext need not name and matters here, by infotext key."""
        schedule, hires = self.base.schedule, self.values["hires"]
        return {
            control.infotext_key: written(self.values[name])
            for name, control in CONTROLS.items()
            if has_effect(name, schedule, hires) and self.values[name] != control.unwritten
        }


def has_effect(name: str, schedule: str, hires: str) -> bool:
    """Tell whether a control's value matters with a schedule of the first pass and a choice for the hires pass."""
    setting = name.removeprefix("hires_")
    if setting == name:
        return schedule in SCHEDULES.get(name, (schedule,))
    if hires == _EVENLY:
        return setting != "speed_up"
    return hires == _OWN and schedule in _schedules_of(name, schedule)


def _schedules_of(name: str, schedule: str) -> tuple[str, ...]:
    """Return the schedules that a control is for; the one given where it is for any."""
    return SCHEDULES.get(name, SCHEDULES.get(name.removeprefix("hires_"), (schedule,)))


def written(value: Any) -> Any:
    """Return a control's value as the panel and infotext show it: a list of steps as text, anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def given(arguments: Sequence[Any], enabled: Any = None) -> dict[str, Any]:
    """Return the values that a caller gave, by name.

    `arguments` are values in the panel's order, of which those that the preset or the defaults give anyway don't
    count as given, or one object with names. Either may be partial, for the host fills in the defaults of what is
    missing, and its API what the request's infotext says: an object goes over that. What is given goes over the preset.
    Raises ValueError for an unknown name, for a value that its control does not accept, for more values than there are
    controls, for the caller's values after an object, and for a value that is named and can have no effect; a job that
    is not enabled is not read any further. `enabled` counts in the place of the caller's, if it is not None.
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
        return _laid_over(values, _of_infotext(arguments[1:]), lenient=True)
    return _by_place(values)


def _by_place(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values in the panel's order that count as given, with the schedule that they need."""
    preset = values.get("preset", CUSTOM)
    usual = _schedule({"preset": preset})
    counts = _counting(values, PRESETS.get(preset, {}).values())
    if "schedule" not in counts and values.get("schedule", usual) != usual:
        counts |= _implied_schedule(counts, usual)  # the default stands there, which the host may have filled in
    return counts if counts.get("schedule", usual) == usual else _counting(values, ()) | counts


def _counting(values: Mapping[str, Any], presets: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """Return those of the values by place that count as given: which neither the defaults nor `presets` give anyway."""
    by_themselves = {name: {CONTROLS[name].default, *(p.get(name) for p in presets)} for name in values}
    return {n: v for n, v in values.items() if n in {"enabled", "preset"} or v not in by_themselves[n]}


def _of_infotext(others: Sequence[Any]) -> dict[str, Any]:
    """Return what the values after an object give: nothing if they are the defaults, else what infotext says.

    Raises ValueError if they are a caller's: fewer than the host fills in, one that its control does not accept, or a
    preset without its schedule, which infotext names.
    """
    defaults = {name: written(control.default) for name, control in CONTROLS.items() if name != "enabled"}
    sent = [value for value, usual in zip(others, defaults.values(), strict=False) if value != usual]
    if not sent:
        return {}
    told = f"an object of settings comes alone; got {shown(sent[0])} after it"
    try:
        values = {name: CONTROLS[name].read(value) for name, value in zip(defaults, others, strict=True)}
    except ValueError:
        raise ValueError(told) from None
    if values["preset"] != CUSTOM and values["schedule"] == defaults["schedule"]:
        raise ValueError(told)
    return _by_place(values)


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `given` returned with single values exchanged; a new preset replaces what was given for its part.

    Raises ValueError for a value that its control does not accept, and for one that can have no effect.
    """
    read = {name: CONTROLS[name].read(value) for name, value in overrides.items()}
    return _laid_over(read, values, lenient=False)


def _laid_over(named: Mapping[str, Any], values: Mapping[str, Any], *, lenient: bool) -> dict[str, Any]:
    """Return `_with_effect` of the values that somebody named beside others, without those that a new preset sets."""
    parts = PRESETS.get(named.get("preset", CUSTOM), {})
    replaced = {name for part in parts.values() for name in part}
    kept = {name: value for name, value in values.items() if name not in replaced}
    return _with_effect(named, kept, lenient=lenient)


def _meant(name: Any) -> str:
    near = difflib.get_close_matches(str(name)[:40], CONTROLS, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else "its schema names them all"


def _with_effect(named: Mapping[str, Any], beside: Mapping[str, Any], *, lenient: bool) -> dict[str, Any]:
    """Return the values that somebody named, over those `beside`, with the choices that they need to have an effect.

    Raises ValueError for one that can't have any. A `lenient` check lets a caller that names the schedule itself, or
    what the hires pass does, go on to name whatever is the default, as with all that the schema has.
    """
    found = {**beside, **named}
    found |= _implied_schedule(named, _schedule(found))
    schedule = _schedule(found)
    found |= _implied_hires(named, schedule, found.get("hires", CONTROLS["hires"].default))
    hires = found.get("hires", CONTROLS["hires"].default)
    for name, value in named.items():
        usual = lenient and value == CONTROLS[name].default
        if has_effect(name, schedule, hires):
            continue
        wanted = _schedules_of(name, schedule)
        if schedule not in wanted and not (usual and "schedule" in named):
            raise ValueError(f"{name} has no effect with the schedule {schedule}, only with {' and '.join(wanted)}")
        if schedule in wanted and not (usual and "hires" in named):
            raise ValueError(f"{name} has no effect where hires is {hires}, only where it is own")
    return found


def _implied_schedule(named: Mapping[str, Any], schedule: str) -> dict[str, Any]:
    """Return the schedule without which some of the values that somebody named would have no effect, if it is another.

    `schedule` is the one in force beside them, which stays if it is one that they are for.
    """
    wanted = schedule
    for name, schedules in SCHEDULES.items():
        of_first = name in named and not name.startswith("hires_")
        if of_first and named[name] != () and wanted not in schedules:
            wanted = schedules[0]
    return {"schedule": wanted} if "schedule" not in named and wanted != schedule else {}


def _implied_hires(named: Mapping[str, Any], schedule: str, hires: str) -> dict[str, Any]:
    """Return the choice for the hires pass without which what somebody named of it would have no effect, if needed."""
    if "hires" in named:
        return {}
    wanted = hires
    for name in (f"hires_{name}" for name in _OF_HIRES):
        if name in named and not has_effect(name, schedule, wanted):
            wanted = _EVENLY if name == "hires_interval" and not has_effect(name, schedule, _OWN) else _OWN
    return {"hires": wanted} if wanted != hires else {}


def _schedule(values: Mapping[str, Any]) -> str:
    """Return the schedule in force with some of the values given."""
    preset = PRESETS.get(values.get("preset", CONTROLS["preset"].default))
    usual = CONTROLS["schedule"].default if preset is None else preset["SD1"]["schedule"]
    return str(values.get("schedule", usual))


def resolved(values: Mapping[str, Any], family: Family) -> Options:
    """Return the options for a checkpoint of `family`: the defaults, over them the preset, over it what was given.

    A preset's values are for its schedule; where another was given, none of them is taken. Beside a preset a list is
    for the first pass, and the others are the preset's. Raises ValueError where the values don't go together.
    """
    preset = values.get("preset", CONTROLS["preset"].default)
    defaults = {name: control.default for name, control in CONTROLS.items()}
    of_preset = PRESETS[preset][family] if preset in PRESETS else {}
    others = Settings(**of_preset) if of_preset and values.get("schedule") == "list" else None
    if values.get("schedule") not in {None, of_preset.get("schedule")}:
        of_preset = {}
    force = {**defaults, **of_preset, **values}
    if others is None:
        force["preset"] = preset if of_preset and not of_preset.keys() & values.keys() else CUSTOM
    base = _with_depth(Settings(**{field.name: force[field.name] for field in dataclasses.fields(Settings)}))
    others = others or base
    hires = {"same": others, "off": None}.get(force["hires"], others)
    if force["hires"] in {_OWN, _EVENLY}:
        own = {name: force[f"hires_{name}"] for name in _OF_HIRES}
        own["schedule"] = "uniform" if force["hires"] == _EVENLY else others.schedule
        own["schedule"] = "auto" if own["schedule"] == "list" else own["schedule"]
        hires = _with_depth(dataclasses.replace(others, **own))
        force["hires_depth"] = hires.depth
    force["depth"] = base.depth
    return Options(base, hires, others, force["inner"], force)


def _with_depth(settings: Settings) -> Settings:
    """Return settings that name the depth which is in force with any sampler."""
    return dataclasses.replace(settings, depth=SamplerKind().depth(settings))
