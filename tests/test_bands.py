"""Settings of bands: what may be written, and what it settles."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.bands import Bands, bands_from, choose, parse_bands, parse_range, positions, rgb_bands
from sapling.config import build
from sapling.errors import ConfigError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("4,3,2", (4, 3, 2)), (" 4, 3 ", (4, 3)), ([8], (8,)), (7, (7,)), ("rgb", "rgb"), (None, None), ("1,1", (1, 1))],
)
def test_bands_may_be_written_in_several_ways(given, expected):
    assert parse_bands(given) == expected


@pytest.mark.parametrize(
    "given", ["", "0", "4;3", "rgbn", "1,,2", [], [0], [True], True, 1.5, [1.5], {"a": 1}, "-1", "600"]
)
def test_bands_that_cannot_be(given):
    with pytest.raises(ValueError, match="is not allowed"):
        parse_bands(given)


@pytest.mark.parametrize(
    ("given", "expected"), [("0,3000", (0, 3000)), ("-1,1", (-1, 1)), ([0, 0.5], (0, 0.5)), (None, None)]
)
def test_ranges_may_be_written_in_several_ways(given, expected):
    assert parse_range(given) == expected


@pytest.mark.parametrize(
    "given", ["", "5", "3,2", "2,2", "nan,1", "0,inf", "a,b", [1], [1, 2, 3], [True, 2], 5, {"a": 1}]
)
def test_ranges_that_cannot_be(given):
    with pytest.raises(ValueError, match="is not allowed"):
        parse_range(given)


@settings(max_examples=40)
@given(ANYTHING)
def test_parsers_refuse_or_give_what_fits(content):
    for parse, fits in ((parse_bands, (tuple, str)), (parse_range, (tuple,))):
        try:
            found = parse(content)
        except ValueError:
            continue
        assert found is None or isinstance(found, fits)
    with pytest.raises(ConfigError):
        bands_from(content)


def test_what_is_settled_survives_json():
    bands = Bands(13, (4, 3, 2), (0.0, 1.5, 2.0), (3000.0, 4000.25, 1e4))
    assert bands_from(json.loads(json.dumps(bands.as_dict()))) == bands


@pytest.mark.parametrize(
    "change",
    [{"chosen": [14, 1]}, {"low": [0.0]}, {"high": [0, 0]}, {"num_bands": 0}, {"chosen": [True, 1]}, {"low": "ab"}],
)
def test_a_damaged_record_is_refused(change):
    with pytest.raises(ConfigError):
        bands_from({**Bands(13, (4, 3), (0.0, 0.0), (1.0, 1.0)).as_dict(), **change})


def test_what_is_chosen():
    assert choose(None, 13) == tuple(range(1, 14))
    assert choose(None, 1) == (1, 1, 1), "one band is shown as grey, and any network for colours reads it"
    assert choose((1,), 1) == (1,)
    assert choose("rgb", 13) == choose("rgb", 12) == rgb_bands(13) == (4, 3, 2)
    assert choose("rgb", 4) == (1, 2, 3)
    with pytest.raises(ConfigError, match="red, green and blue"):
        choose("rgb", 7)
    with pytest.raises(ConfigError, match="no band 14"):
        choose((4, 14), 13)
    with pytest.raises(ConfigError, match="not allowed"):
        choose("4,x", 13)


def test_settings_are_read_and_old_runs_keep_their_fingerprint():
    plain = build({"data": "photos"})
    assert "bands" in plain.model_dump()["data"]
    same = build({"data": {"source": "photos", "bands": None, "value_range": None}})
    chosen = build({"data": {"source": "photos", "bands": "4,3,2", "value_range": "0,3000"}})
    listed = build({"data": {"source": "photos", "bands": [4, 3, 2], "value_range": [0, 3000]}})
    assert plain.fingerprint() == same.fingerprint() != chosen.fingerprint() == listed.fingerprint()
    assert chosen.data.bands == (4, 3, 2)
    assert chosen.data.value_range == (0, 3000)
    with pytest.raises(ConfigError, match=r"data\.bands.*\n.*data\.value_range: '9,1' is not allowed"):
        build({"data": {"source": "photos", "bands": "4;3", "value_range": "9,1"}})


def test_a_description_for_people():
    assert str(Bands(13, (4, 3, 2), (0.0,) * 3, (3e3,) * 3)) == "bands 4, 3, 2 of 13, values 0 to 3000"
    assert str(Bands(2, (1, 2), (0.0, 1.0), (3.0, 4.0))) == "all 2 bands, values a range per band"
    assert str(Bands(1, (1, 1, 1), (0.0,) * 3, (1.0,) * 3)) == "its band as 3 equal channels, values 0 to 1"


def test_positions_of_bands_among_others():
    def bands(*chosen, high=100.0):
        return Bands(5, chosen, (0.0,) * len(chosen), (high,) * len(chosen))

    assert positions(bands(4, 2), bands(1, 2, 3, 4)) == (3, 1)
    assert positions(bands(2, 2), bands(2)) == (0, 0)
    assert positions(bands(5), bands(1, 2)) is None
    assert positions(bands(1, high=50.0), bands(1, 2)) is None, "the same band, read otherwise"
    assert positions(Bands(6, (1,), (0.0,), (100.0,)), bands(1, 2)) is None
