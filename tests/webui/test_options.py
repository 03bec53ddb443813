"""From what the panel, the API, infotext or the X/Y/Z plot say to the settings in force."""

import dataclasses
import itertools
import re

import pytest

from deepcache_ext import Schedule, Settings
from deepcache_ext.webui import infotext
from deepcache_ext.webui.options import CONTROLS, given, has_effect, overridden, resolved, written
from deepcache_ext.webui.presets import PRESETS


def options(*arguments, family="SD1"):
    return resolved(given(arguments), family)


def test_every_setting_is_a_control():
    assert {field.name for field in dataclasses.fields(Settings)} < set(CONTROLS)
    assert list(CONTROLS)[:2] == ["enabled", "preset"]


def test_nothing_given_is_off():
    assert given([]) == {"enabled": False}
    assert given([{}]) == {"enabled": False}
    assert given([False, "nonsense", "nonsense"]) == {"enabled": False}


@pytest.mark.parametrize(
    "arguments", [(True, "Custom", "uniform", 2, "5", 2.0), ({"enabled": 1, "interval": "5", "depth": "2"},)]
)
def test_values_come_by_position_or_by_name_and_numbers_as_strings(arguments):
    assert options(*arguments).base == Settings(interval=5, depth=2)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_a_preset_fits_the_family_by_position_and_by_name(preset, family):
    expected = Settings(**PRESETS[preset][family])
    assert options(True, preset, family=family).base == expected
    assert options({"enabled": True, "preset": preset}, family=family).base == expected
    panel = [written(control.default) for control in CONTROLS.values()]
    shown = {"enabled": True, "preset": preset} | PRESETS[preset]["SD1"]
    panel = [shown.get(name, value) for name, value in zip(CONTROLS, panel, strict=True)]
    assert options(*panel, family=family).base == expected


def test_what_is_given_goes_over_the_preset():
    fast = Settings(schedule="auto", speed_up=3, depth=4)
    assert options({"enabled": True, "preset": "Fast", "depth": 4}).base == fast
    assert options(True, "Fast", "auto", 3, 3, 4).base == fast


def test_the_hires_pass_follows_has_its_own_or_is_off():
    assert options(True).hires == options(True).base
    assert options({"enabled": True, "hires": "off"}).hires is None
    own = options({"enabled": True, "hires_speed_up": 3, "start": 0.25}).hires
    assert own == Settings(schedule="auto", speed_up=3, start=0.25)
    own = options({"enabled": True, "interval": 4, "hires_interval": 2, "hires_depth": 3}).hires
    assert own == Settings(interval=2, depth=3)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"interval": 0}, "interval must be a whole number from 1 to 50; got 0"),
        ({"depth": "40"}, "depth must be a whole number from 0 to 11; got '40'"),
        ({"schedule": "random"}, "schedule must be one of auto, uniform, non-uniform, list; got 'random'"),
        ({"steps": "1, x"}, "steps must be a list of evaluations from 0 to 9999"),
        ({"center": float("nan")}, "center must be a whole number from -1000 to 1000; got nan"),
        ({"inner": "perhaps"}, "inner must be true or false; got 'perhaps'"),
        ({"hires_depth": None}, "hires_depth must be a whole number from 0 to 11; got None"),
        ({"preset": "Best"}, "preset must be one of Quality, Balanced, Fast, Custom; got 'Best'"),
        ({"intervall": 3}, "'intervall' is no setting of DeepCache; did you mean interval?"),
        ({"seed": 3}, "'seed' is no setting of DeepCache; its schema names them all"),
        ({"start": 0.5, "end": 0.1}, "start must be a number from 0 to end, which is 0.1; got 0.5"),
        ({"schedule": "list"}, "steps must name at least one evaluation"),
    ],
    ids=str,
)
def test_a_bad_value_is_named_with_what_is_allowed(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        options({"enabled": True} | value)


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_a_presets_depth_goes_with_its_schedule_only(family):
    depth = PRESETS["Balanced"][family]["depth"]
    assert options({"enabled": True, "speed_up": 3}, family=family).base.depth == depth
    assert options({"enabled": True, "interval": 3}, family=family).base == Settings(interval=3)


def test_an_unreadable_tick_is_named_too():
    with pytest.raises(ValueError, match="enabled must be true or false; got 'maybe'"):
        given(["maybe"])


def test_single_values_of_an_xyz_plot_go_over_the_rest():
    values = given([{"enabled": True, "interval": 5, "start": 0.2}])
    assert resolved(overridden(values, {"depth": "2"}), "SD1").base == Settings(interval=5, depth=2, start=0.2)
    quality = resolved(overridden(values, {"preset": "Quality"}), "SD1").base
    assert quality == Settings(schedule="auto", speed_up=1.5, interval=5, depth=0, start=0.2)
    assert resolved(overridden(values, {"speed_up": "3"}), "SD1").base.schedule == "auto"
    assert overridden(values, {"enabled": "False"})["enabled"] is False


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"preset": "Fast", "inner": False},
        {"schedule": "list", "steps": "0, 5, 9-11", "start": 0.1, "end": 0.9},
        {"schedule": "non-uniform", "center": -3, "power": 2.5, "hires": "own", "hires_interval": 7, "hires_depth": 2},
        {"hires": "off"},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_infotext_brings_the_same_settings_back(value, family):
    before = options({"enabled": True} | value, family=family)
    text = {key: str(entry) for key, entry in before.infotext().items()}
    assert text["DeepCache enabled"] == "True"
    components = list(CONTROLS)
    pasted = {name: read(text) for name, read in infotext.fields(components)}
    after = options(*pasted.values(), family=family)
    assert (after.base, after.hires, after.inner) == (before.base, before.hires, before.inner)


def test_infotext_names_only_what_differs_from_the_defaults():
    always = {"DeepCache enabled": True, "DeepCache correction": "on"}
    assert options(True).infotext() == always | {"DeepCache schedule": "auto", "DeepCache depth": 0}
    unused = {"schedule": "uniform", "steps": "1", "center": 3}
    panel = [unused.get(name, written(control.default)) for name, control in CONTROLS.items()]
    assert options(True, "Custom", *panel[2:]).infotext() == always | {"DeepCache preset": "Custom"}
    assert "DeepCache correction" not in options({"enabled": True, "correction": "off"}).infotext()


def test_naming_a_value_implies_what_it_needs_to_have_an_effect():
    assert options({"enabled": True, "steps": "0, 5"}).base.schedule == "list"
    assert options({"enabled": True, "power": 2}).base.schedule == "non-uniform"
    assert options({"enabled": True, "interval": 4}).base.schedule == "uniform"
    assert options({"enabled": True, "interval": 4, "center": 3}).base.schedule == "non-uniform"
    panel = given([True, "Custom", "uniform", 2, 4])
    assert resolved(overridden(panel, {"hires_interval": 7}), "SD1").hires.interval == 7
    assert resolved(overridden(panel, {"steps": "0, 3"}), "SD1").base.steps == (0, 3)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"hires": "own", "hires_interval": 5}, "hires_interval has no effect with the schedule auto, only with unif"),
        ({"hires_speed_up": 3, "hires_interval": 5}, "hires_speed_up has no effect where hires is uniform"),
        ({"interval": 4, "hires_speed_up": 3}, "hires_speed_up has no effect with the schedule uniform"),
        ({"hires_depth": 2, "hires": "same"}, "hires_depth has no effect where hires is same, only where it is own"),
        ({"hires_depth": 2, "hires": "off"}, "hires_depth has no effect where hires is off"),
        ({"power": 2, "schedule": "uniform"}, "power has no effect with the schedule uniform, only with non-uniform"),
        ({"interval": 4, "speed_up": 3}, "interval has no effect with the schedule"),
        ({"schedule": "auto", "steps": "3"}, "steps has no effect with the schedule auto, only with list"),
    ],
    ids=str,
)
def test_a_value_that_can_have_no_effect_is_named(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        options({"enabled": True} | value)
    assert given([{"enabled": False} | value]) == {"enabled": False}
    panel = given([True, "Custom", "uniform", 2, 4])
    if "hires_interval" not in value and set(value) != {"interval", "hires_speed_up"}:
        with pytest.raises(ValueError, match=sentence.split(" with ", maxsplit=1)[0]):
            overridden(panel, value)


NAMED = {
    "preset": "Fast",
    "schedule": "non-uniform",
    "speed_up": 2.5,
    "interval": 4,
    "depth": 2,
    "center": 3,
    "power": 2.0,
    "steps": (0, 5, 7),
    "start": 0.25,
    "end": 0.75,
    "forecast": "off",
    "hires": "uniform",
    "hires_speed_up": 3.5,
    "hires_interval": 5,
    "hires_depth": 3,
    "inner": False,
}
"""A value other than the default for every control."""
EXCLUDE_EACH_OTHER = {
    frozenset(pair)
    for pair in (
        ("schedule", "speed_up"),
        ("schedule", "steps"),
        ("schedule", "hires_speed_up"),
        ("speed_up", "interval"),
        ("speed_up", "center"),
        ("speed_up", "power"),
        ("speed_up", "steps"),
        ("interval", "steps"),
        ("center", "steps"),
        ("power", "steps"),
        ("interval", "hires_speed_up"),
        ("center", "hires_speed_up"),
        ("power", "hires_speed_up"),
        ("hires", "hires_speed_up"),
        ("hires_speed_up", "hires_interval"),
    )
}
"""Pairs of which one can have no effect beside the other; a sentence says so."""


def pasted(found, family):
    """Return the options that the panel has after reading the infotext."""
    text = {key: str(value) for key, value in found.infotext().items()}
    return options(*(read(text) for _, read in infotext.fields(list(CONTROLS))), family=family)


def effect(found):
    """Return all that passes are decided by."""
    passes = [
        None if one is None else (Schedule(one, 20).actions(), one.depth, one.forecast)
        for one in (found.base, found.hires, found.others)
    ]
    return passes, found.inner, found.values["preset"]


def is_in_force(name, value, found, beside):
    if name == "preset":
        replaced = {"schedule", "speed_up", "interval", "depth", "center", "power"}
        return found.values["preset"] == value or beside in replaced
    if name == "inner":
        return found.inner is value
    if name == "hires":
        return found.values["hires"] == value
    of_hires = name.startswith("hires_")
    settings, setting = (found.hires, name.removeprefix("hires_")) if of_hires else (found.base, name)
    return getattr(settings, setting) == value and has_effect(setting, settings.schedule, "same")


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
@pytest.mark.parametrize("pair", [*itertools.combinations(NAMED, 2)], ids="+".join)
def test_what_is_named_goes_over_the_preset_by_every_way(pair, family):
    """As an object, as a list, as the panel that infotext fills, and as two axes of a plot."""
    named = {name: NAMED[name] for name in pair}
    panel = {name: written(control.default) for name, control in CONTROLS.items()} | {"enabled": True}
    if frozenset(pair) in EXCLUDE_EACH_OTHER:
        for ask in (lambda: given([{"enabled": True} | named]), lambda: overridden(given([*panel.values()]), named)):
            with pytest.raises(ValueError, match="|".join(f"^{name} has no effect" for name in pair)):
                ask()
        return
    found = options({"enabled": True} | named, family=family)
    assert all(is_in_force(one, named[one], found, other) for one, other in (pair, pair[::-1]))
    of_hires = {"hires": found.values["hires"]}
    placed = options(*(panel | {n: written(v) for n, v in named.items()} | of_hires).values(), family=family)
    plotted = resolved(overridden(given([*panel.values()]), named), family)
    for other in (placed, pasted(found, family), plotted):
        assert effect(other) == effect(found)


def test_a_list_of_values_that_the_host_has_filled_up_names_what_differs():
    assert options(True, "Balanced", "uniform", 2.0, 4, 1).base == Settings(interval=4)
    assert options(True, "Balanced", "uniform", 2.0, 3, 1).base == options(True).base
    assert options(True, "Balanced", "auto", 2.0, 4, 0).base.schedule == "auto"  # a panel
    assert options(True, "Custom", "uniform", 3.0, 3, 1).base == Settings(speed_up=3)


@pytest.mark.parametrize("preset", ["Balanced", "Custom"])
@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_without_a_forecast_the_depth_is_one_at_least_and_infotext_says_so(preset, family):
    named = {"enabled": True, "preset": preset, "depth": 0, "forecast": "off", "hires_depth": 0}
    found = options(named, family=family)
    assert (found.base.depth, found.hires.depth, found.values["depth"], found.values["hires_depth"]) == (1, 1, 1, 1)
    assert not {"DeepCache depth", "DeepCache hires depth"} & found.infotext().keys()
    assert effect(pasted(found, family)) == effect(found)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("family", ["SD1", "SDXL"])
@pytest.mark.parametrize("schedule", [{"steps": "0, 5"}, {"interval": 4}], ids=str)
def test_a_depth_beside_another_schedule_than_the_presets_comes_back(schedule, depth, family):
    found = options({"enabled": True, "preset": "Fast", "depth": depth} | schedule, family=family)
    assert (found.base.depth, effect(pasted(found, family))) == (depth, effect(found))


def test_a_list_beside_a_preset_is_for_the_first_pass():
    found = options({"enabled": True, "preset": "Fast", "steps": "0, 5", "forecast": "off"})
    fast = options({"enabled": True, "preset": "Fast"}).base
    assert (found.base.steps, found.base.forecast) == ((0, 5), "off")
    assert found.hires == found.others == fast
    assert [found.are_presets(settings) for settings in (found.base, found.hires)] == [False, True]
    own = options({"enabled": True, "preset": "Fast", "steps": "0, 5", "hires_depth": 2, "hires_speed_up": 1.5}).hires
    assert own == dataclasses.replace(fast, depth=2, speed_up=1.5)
    custom = options({"enabled": True, "preset": "Custom", "steps": "0, 5"})
    assert custom.base == custom.hires == custom.others


@pytest.mark.parametrize("after", [[True, "Fast"], ["Fast"], [None], [{"interval": 3}]], ids=str)
def test_values_after_an_object_are_refused(after):
    with pytest.raises(ValueError, match=re.escape(f"an object of settings comes alone; got {after[0]!r} after it")):
        given([{"enabled": True}, *after])


def test_values_of_a_caller_that_the_host_fills_up_are_refused_after_an_object():
    filled = [written(control.default) for control in CONTROLS.values()]
    for sent in ([True, "Fast"], ["Fast"], ["Fast", "uniform", 3]):
        with pytest.raises(ValueError, match=f"comes alone; got {sent[0]!r} after it"):
            given([{"enabled": True}, *sent, *filled[1 + len(sent) :]])


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
@pytest.mark.parametrize(
    ("picture", "named", "expected"),
    [
        *((preset, {}, {"preset": preset}) for preset in PRESETS),
        ("Balanced", {"preset": "Fast"}, {"preset": "Fast"}),
        ("Fast", {"interval": 4}, {"interval": 4}),
        ({"interval": 5, "start": 0.2}, {"preset": "Quality"}, {"preset": "Quality", "start": 0.2}),
        ({"interval": 5}, {"start": 0.2}, {"interval": 5, "start": 0.2}),
        ({"preset": "Fast", "steps": "0-9"}, {"end": 0.8}, {"preset": "Fast", "steps": "0-9", "end": 0.8}),
        ({"preset": "Fast", "hires": "off"}, {"inner": False}, {"preset": "Fast", "hires": "off", "inner": False}),
    ],
    ids=str,
)
def test_an_object_goes_over_the_infotext_that_the_hosts_api_reads_into_the_other_places(
    family, picture, named, expected
):
    picture = {"preset": picture} if isinstance(picture, str) else picture
    text = {key: str(v) for key, v in options({"enabled": True} | picture, family=family).infotext().items()}
    read = [reader(text) for _, reader in infotext.fields(list(CONTROLS))]
    found = options({"enabled": True} | named, *read[1:], family=family)
    assert found.infotext() == options({"enabled": True} | expected, family=family).infotext()


def test_the_defaults_that_the_host_puts_after_an_object_are_none():
    filled = [written(control.default) for control in CONTROLS.values()]
    assert given([{"enabled": True, "interval": 4}, *filled[1:]])["interval"] == 4


def test_all_that_the_schema_has_may_be_named_at_once():
    defaults = {name: written(control.default) for name, control in CONTROLS.items()}
    assert options(defaults | {"enabled": True}).base == Settings()
    assert options(defaults | {"enabled": True, "interval": 5}).base == Settings(interval=5)


def test_more_values_than_there_are_controls_are_refused():
    panel = [written(control.default) for control in CONTROLS.values()]
    assert options(True, *panel[1:]).base == options(True).base
    with pytest.raises(ValueError, match=f"at most {len(CONTROLS)} values are taken; got {len(CONTROLS) + 1}"):
        options(True, *panel[1:], 0)


def test_an_axis_leaves_the_panels_schedule_where_it_has_an_effect_there():
    panel = given([True, "Custom", "non-uniform", 2, 4])
    assert resolved(overridden(panel, {"interval": "5"}), "SD1").base.schedule == "non-uniform"
    assert resolved(overridden(panel, {"speed_up": "3"}), "SD1").base.schedule == "auto"


def test_a_plot_that_enables_keeps_the_rest_of_the_panel():
    panel = [False, "Custom", "uniform", 2, 7]
    assert resolved(given(panel, enabled="True"), "SD1").base.interval == 7
    assert given(panel, enabled="False") == {"enabled": False}


def test_infotext_without_deepcache_turns_it_off_and_leaves_the_rest():
    pasted = {name: read({"Steps": "20"}) for name, read in infotext.fields(list(CONTROLS))}
    assert pasted.pop("enabled") is False
    assert set(pasted.values()) == {None}


def test_a_damaged_value_in_infotext_is_read_as_the_default():
    text = {"DeepCache enabled": "True", "DeepCache interval": "many"}
    assert {name: read(text) for name, read in infotext.fields(list(CONTROLS))}["interval"] == 3


@pytest.mark.parametrize(
    ("hires", "preset"),
    [({}, True), ({"hires_interval": 2}, False), ({"hires_speed_up": 3}, False), ({"hires": "same"}, True)],
)
def test_a_hires_pass_with_settings_of_its_own_is_not_the_presets(hires, preset):
    found = options({"enabled": True, "preset": "Balanced", **hires})
    assert [found.are_presets(settings) for settings in (found.base, found.hires, found.others)] == [True, preset, True]
