from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sapling import methods
from sapling.errors import ConfigError
from sapling.methods.validate import check_config, check_options
from tests.methods.toys import pair_info


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("kd", {"temprature": 3}, "temprature: unknown setting of method 'kd'; did you mean 'temperature'?"),
        ("kd", {"temperature": 0}, "temperature: 0 is not allowed; must be above 0"),
        ("kd", {"temperature": -2.5}, "temperature: -2.5 is not allowed; must be above 0"),
        ("kd", {"temperature": "hot"}, "temperature: 'hot' is not allowed; must be a number"),
        ("kd", {"temperature": True}, "temperature: True is not allowed; must be a number"),
        ("kd", {"temperature": float("nan")}, "temperature: nan is not allowed; must be a finite number"),
        ("kd", {"alpha": 10**400}, f"alpha: {10**400} is not allowed; must be a finite number"),
        ("kd", {"temperature": [4]}, "temperature: [4] is not allowed; must be a number"),
        ("kd", {"standardize": "maybe"}, "standardize: 'maybe' is not allowed; must be true or false"),
        ("kd", {"alpha": 2}, "alpha: 2 is not allowed; must be"),
        ("kd", {"alpha": 0.5, "weights": {"kd": 1}}, "alpha: given together with weights"),
        ("kd", {"weights": {"kd": "much"}}, "weights.kd: 'much' is not allowed; must be a number"),
        ("kd", {"weights": 3}, "weights: 3 is not allowed; must be a mapping"),
        ("kd", {"weights": {"kdd": 1}}, "weights.kdd: unknown term; did you mean 'kd'?"),
        ("dkd", {"warmup_share": 1.5}, "warmup_share: 1.5 is not allowed; must be 0 or more and 1 or less"),
        ("none", {"temperature": 4}, "temperature: unknown setting of method 'none'; allowed: weights, alpha"),
        ("kdd", {}, "name: unknown method 'kdd'; did you mean 'kd'? allowed: "),
        ("KD", {}, "name: unknown method 'KD'; did you mean 'kd'? allowed: "),
        ("zzzz", {}, "name: unknown method 'zzzz'; allowed: "),
    ],
)
def test_wrong_settings(name, options, expected):
    problems = check_config(name, options)
    assert len(problems) == 1
    assert problems[0].startswith(expected)
    with pytest.raises(Exception, match="unknown method" if name in ("kdd", "KD", "zzzz") else "settings of method"):
        methods.build(name, pair_info(), **options)


def test_all_errors_come_at_once():
    problems = check_config("dkd", {"temprature": 1, "temperature": -1, "warmup_share": 9, "weights": {"nckd": "x"}})
    assert [p.partition(":")[0] for p in problems] == ["temprature", "temperature", "warmup_share", "weights.nckd"]
    with pytest.raises(ConfigError, match=r"temprature[\s\S]*warmup_share"):
        methods.build("dkd", pair_info(), temprature=1, warmup_share=9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kd", {}),
        ("kd", {"temperature": 4}),
        ("kd", {"temperature": "1e0"}),  # YAML reads 1e0 as a text
        ("kd", {"alpha": None, "weights": None}),
        ("kd", {"alpha": None, "weights": {"kd": 2}}),
        ("dkd", {"warmup_share": 0, "standardize": True}),
        ("anything/my_method.py", {"whatever": 1}),  # checked when it is built: that imports it
    ],
)
def test_right_settings(name, options):
    assert check_config(name, options) == []
    if not name.endswith(".py"):
        methods.build(name, pair_info(), **options)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 1000, 1000.5, -1, 0.5, 4]),
    st.floats(allow_nan=True),
    st.text(max_size=3),
    st.dictionaries(st.sampled_from(["ce", "kd", "nckd", "x"]), st.floats(-1, 2), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["none", "kd", "dkd", "dist"]),
    st.dictionaries(
        st.sampled_from(["temperature", "standardize", "warmup_share", "alpha", "weights", "color"]), values, max_size=3
    ),
)
def test_agrees_with_the_class(name, options):
    """What the check (without torch) lets pass, the class takes; what the class refuses, the check had refused."""
    method = methods.load_class(name)
    try:
        method(method.Config.model_validate(options), pair_info())
        accepted = True
    except (ValidationError, ConfigError):
        accepted = False
    problems = check_config(name, options)
    assert problems or accepted
    # the check is stricter in one thing only: true is no number, and 1 is no flag
    if problems and accepted:
        flags = [v for k, v in options.items() if isinstance(v, bool) or k == "standardize"]
        assert flags


def test_agrees_at_the_bounds():
    for value, good in ((0, True), (1, True), (-0.001, False), (1.001, False)):
        assert (check_config("dkd", {"warmup_share": value}) == []) is good
    for value, good in ((0, False), (1000, True), (1000.1, False)):
        assert (check_config("kd", {"temperature": value}) == []) is good


FIELDS = {
    "name": "made-up",
    "terms": ["ce", "x"],
    "default_weights": {"ce": 1.0, "x": 1.0},
    "fields": {
        "weights": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]},
        "alpha": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "steps": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10},
        "mode": {"enum": ["channel", "spatial"], "type": "string"},
        "only": {"const": "this"},
        "stages": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
        "free": {},
    },
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 5, "mode": "channel", "only": "this", "stages": ["stage1"], "free": object()}, []),
        ({"steps": 5.0}, []),
        ({"steps": "5"}, []),
        ({"steps": "5.0"}, ["steps: '5.0' is not allowed; must be a whole number"]),
        ({"alpha": "١"}, ["alpha: '١' is not allowed; must be a number"]),
        ({"steps": 5.5}, ["steps: 5.5 is not allowed; must be a whole number"]),
        ({"steps": 10}, ["steps: 10 is not allowed; must be 1 or more and below 10"]),
        ({"mode": "chanel"}, ["mode: 'chanel' is not allowed; allowed: channel, spatial. did you mean 'channel'?"]),
        ({"mode": ["channel"]}, ["mode: ['channel'] is not allowed; allowed: channel, spatial"]),
        ({"only": "that"}, ["only: 'that' is not allowed; allowed: this"]),
        ({"stages": "stage1"}, ["stages: 'stage1' is not allowed; must be a list"]),
        ({"stages": []}, ["stages: has 0 values; allowed: 1 to 2"]),
        ({"stages": ["a", 3]}, ["stages[1]: 3 is not allowed; must be a text"]),
    ],
)
def test_kinds_that_later_methods_need(options, expected):
    problems = check_options(FIELDS, options)
    assert len(problems) == len(expected)
    for got, start in zip(problems, expected, strict=True):
        assert got.startswith(start)
