"""Numbers and names as the page says them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.report import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.021, "+2.1"), (-0.004, "\u22120.4"), (0.0, "0.0"), (-0.0001, "0.0"), (0.0004, "0.0"), (None, "–")],
)
def test_signed(value: float | None, text: str) -> None:
    assert wording.signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(94_762, "94,762"), (11_181_642, "11.2 million"), (1.5e9, "1.5 billion"), (999_900, "1 million"), (None, "–")],
)
def test_amount(value: float | None, text: str) -> None:
    assert wording.amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.4, "59 s"), (61, "1 min 1 s"), (600, "10 min"), (3725, "1 h 2 min"), (None, "–")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from -0.7 to +1.1; 95 % of", "from \u22120.7 to +1.1; 95\u202f% of"),
        ("top-1 and 2020-01-02 and resnet-18 --seeds", "top-1 and 2020-01-02 and resnet-18 --seeds"),
    ],
)
def test_sentence(text: str, shown: str) -> None:
    assert wording.sentence(text) == shown


def test_shorten_counts_wide_signs_twice() -> None:
    assert wording.shorten("abcdefgh", 8) == "abcdefgh"
    assert wording.shorten("abcdefghi", 8) == "abcdefg…"
    assert wording.shorten("黄山栾树二三", 8) == "黄山栾…"


@given(st.text(max_size=60), st.integers(2, 30))
def test_any_text_becomes_one_short_line(text: str, width: int) -> None:
    short = wording.shorten(text, width)
    assert short
    assert short.isprintable()
    assert len([c for c in short if not wording.unicodedata.combining(c)]) <= max(width, len("(no name)"))
    assert wording.file_stem(text).replace("-", "").replace("_", "x").isalnum()


def test_names_that_are_cut_alike_are_cut_before_they_differ() -> None:
    names = ["Ligustrum lucidum", "Quercus robur, young tree", "Quercus robur, old tree", "oak"]
    assert wording.short_names(names, 10) == {
        "Ligustrum lucidum": "Ligustrum…",
        "Quercus robur, young tree": "Quercu…you",
        "Quercus robur, old tree": "Quercu…old",
        "oak": "oak",
    }
    assert all(wording.width(short) <= 10 for short in wording.short_names(names, 10).values())
