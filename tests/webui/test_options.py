"""From what the panel, the API, infotext or the X/Y/Z plot say to the settings in force."""

import dataclasses

import pytest

from deepcache_ext import Settings
from deepcache_ext.webui import infotext
from deepcache_ext.webui.options import CONTROLS, given, overridden, resolved, written
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
    balanced = {"DeepCache enabled": True, "DeepCache schedule": "auto", "DeepCache depth": 0}
    assert options(True).infotext() == balanced
    unused = {"schedule": "uniform", "steps": "1", "center": 3}
    panel = [unused.get(name, written(control.default)) for name, control in CONTROLS.items()]
    assert options(True, "Custom", *panel[2:]).infotext() == {"DeepCache enabled": True, "DeepCache preset": "Custom"}


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
        ({"hires_interval": 5}, "hires_interval has no effect with the schedule auto, only with uniform and non-unif"),
        ({"hires_interval": 3}, "hires_interval has no effect with the schedule auto"),
        ({"interval": 4, "hires_speed_up": 3}, "hires_speed_up has no effect with the schedule uniform"),
        ({"hires_depth": 2, "hires": "same"}, "hires_depth has no effect where hires is same, only where it is own"),
        ({"hires_depth": 2, "hires": "off"}, "hires_depth has no effect where hires is off"),
        ({"power": 2, "schedule": "uniform"}, "power has no effect with the schedule uniform, only with non-uniform"),
        ({"interval": 4, "speed_up": 3}, "interval has no effect with the schedule"),
        ({"schedule": "auto", "steps": "3"}, "steps has no effect with the schedule auto, only with list"),
        ({"preset": "Fast", "interval": 4}, "preset has no effect with the schedule uniform, only with auto"),
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
