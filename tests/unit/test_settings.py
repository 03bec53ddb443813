"""What a user may ask for, and the sentence that answers anything else."""

import dataclasses
import math

import pytest

from deepcache_ext import Settings


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("interval", 0, "from 1 to 50"),
        ("interval", 2.5, "a whole number"),
        ("interval", True, "a whole number"),
        ("interval", None, "a whole number"),
        ("depth", 40, "from 0 to 11"),
        ("depth", "deep", "from 0 to 11"),
        ("schedule", "quadratic", "one of auto, uniform, non-uniform, list"),
        ("center", math.nan, "from -1000 to 1000"),
        ("center", math.inf, "from -1000 to 1000"),
        ("power", 0.5, "from 1 to 5"),
        ("power", "1.4.1", "from 1 to 5"),
        ("steps", "0, five, 9", "from 0 to 9999"),
        ("steps", "9-5", "from 0 to 9999"),
        ("steps", "0, 10000", "from 0 to 9999"),
        ("steps", [0, -1], "from 0 to 9999"),
        ("steps", 5, "from 0 to 9999"),
        ("start", -0.1, "from 0 to 1"),
        ("end", "1.1", "from 0 to 1"),
    ],
)
def test_a_bad_value_is_answered_with_field_value_and_range(field, value, allowed):
    with pytest.raises(ValueError, match=f"^{field} must be ") as error:
        Settings(**{field: value})
    assert allowed in str(error.value)
    assert repr(value) in str(error.value)


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"start must be a number from 0 to end, which is 0\.3; got 0\.5"):
        Settings(start=0.5, end=0.3)
    with pytest.raises(ValueError, match="steps must name at least one"):
        Settings(schedule="list")


@pytest.mark.parametrize(
    ("field", "given", "read"),
    [
        ("interval", "3", 3),
        ("interval", 3.0, 3),
        ("depth", "11", 11),
        ("power", "1.2", 1.2),
        ("end", 1, 1.0),
        ("steps", "13, 0, 5,9, 5,", (0, 5, 9, 13)),
        ("steps", "0 - 2, 7", (0, 1, 2, 7)),
        ("steps", [9, "5", 0.0], (0, 5, 9)),
        ("steps", "", ()),
    ],
)
def test_values_are_read_as_the_settings_own_type(field, given, read):
    value = getattr(Settings(**{field: given}), field)
    assert value == read
    assert type(value) is type(read)


def test_every_setting_explains_itself():
    for field in dataclasses.fields(Settings):
        assert field.metadata["label"]
        assert field.metadata["help"].endswith((".", '".'))
        assert field.metadata["kind"].read(field.default) == field.default
