from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.data.sources import VIEW_PRESETS
from sapling.data.viewspec import LIMITS, PRESETS, checked_options, preset
from sapling.errors import ConfigError


def test_presets_are_those_that_can_be_asked_for():
    assert tuple(PRESETS) == VIEW_PRESETS
    assert preset("photo") is PRESETS["photo"]


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'aerial'"):
        preset("ariel")


def test_options_change_a_preset():
    spec = preset("photo", {"flip": False, "scale": [0.5, 1], "operations": 1, "omit": ["equalize"]})
    expected = replace(PRESETS["photo"], flip=False, scale=(0.5, 1.0), operations=1, omit=("equalize",))
    assert spec == expected
    assert isinstance(spec.scale[1], float)
    assert preset("photo", {"scale": None}).scale is None
    assert preset("photo", {}) is PRESETS["photo"]


def test_all_wrong_options_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        preset("light", {"flipp": True, "scale": [0.5], "hue": 0.6, "shift": 0.1})
    text = str(caught.value)
    assert "flipp: unknown; did you mean 'flip'?" in text
    assert "scale is [0.5]" in text
    assert "hue is 0.6; allowed: a number from 0 to 0.5" in text
    assert "shift" not in text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shift", -0.1, "shift is -0.1"),
        ("shift", 0.6, "shift is 0.6"),
        ("shift", float("nan"), "shift is nan"),
        ("flip", 1, "true, false"),
        ("scale", [1, 0.5], "the smaller first"),
        ("scale", [0, 1], "0.01 to 1"),
        ("scale", 0.5, "a list of two numbers"),
        ("ratio", None, "a list of two numbers"),
        ("brightness", True, "a number"),
        ("brightness", "0.5", "a number"),
        ("operations", 1.5, "a whole number from 0 to 14"),
        ("operations", 15, "a whole number from 0 to 14"),
        ("omit", "equalize", "a list of"),
        ("omit", ["equalise"], "did you mean 'equalize'"),
        ("erase_fill", "black", "noise, grey"),
        ("blur_sigma", [0.1, 9], "two numbers, the smaller first, each from 0.1 to 2"),
    ],
)
def test_an_option_out_of_range_says_what_is_allowed(name, value, message):
    with pytest.raises(ConfigError, match=message):
        checked_options({name: value})


def test_more_operations_than_are_left():
    with pytest.raises(ConfigError, match="omit leaves 11"):
        preset("aerial_strong", {"operations": 12})


@given(st.dictionaries(st.sampled_from([*LIMITS, "flip", "omit", "erase_fill", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3), max_leaves=4,
)))  # fmt: skip
def test_any_options_are_taken_or_refused_and_never_crash(options):
    try:
        found = checked_options(options)
    except ConfigError:
        return
    assert checked_options(found) == found
    assert asdict(preset("none", options)) == {**asdict(PRESETS["none"]), **found}


@pytest.mark.parametrize("name", ["none", "shift", "light", "aerial"])
def test_the_old_presets_only_move_pixels(name):
    assert not PRESETS[name].changes_pixels
    PRESETS[name].check_channels(13)


def test_what_changes_colours_is_for_three_channels():
    for options in ({"brightness": 0.1}, {"hue": 0.1}, {"operations": 1}, {"grayscale": 0.1}):
        with pytest.raises(ConfigError, match="the pictures have 13 channels"):
            preset("light", options).check_channels(13)
        preset("light", options).check_channels(3)
    preset("light", {"scale": [0.5, 1], "rotate": 9, "erase": 0.5, "blur": 0.5, "shear": 0.1}).check_channels(13)
