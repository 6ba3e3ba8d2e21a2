"""The page of a dataset card: what it says, that nothing in it is taken for markup, and that it fits a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sapling.report.inspection import write_inspection
from tests.report.browser import CHROMIUM, Browser
from tests.report.test_browser import CONTRAST, CUT, STICKS_OUT

GIF = "data:image/gif;base64,R0lGODlhAQABAIAAAMLCwgAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="
HOSTILE = "<img src=x onerror=alert(1)>&\"'</script><b>枫树\u202e"


def card(*, classes: int = 10, hostile: bool = False, worst: str = "leak") -> dict[str, Any]:
    """A card with something of everything."""
    names = [f"{HOSTILE} {k}" if hostile else f"class {k}" for k in range(classes)]
    key = f"{HOSTILE}.png" if hostile else "oak/1.png"
    kinds = ["leak", "error", "warning", "note"]
    findings = [
        {"severity": kind, "code": kind, "text": f"{key} is a {kind}.", "remedy": f"do {key}", "examples": [key] * 3}
        for kind in kinds[kinds.index(worst) :]
    ]
    pair = {"images": [key, "b.png"], "classes": names[:2], "parts": ["train", "test"], "kind": "near"}
    return {
        "version": 1,
        "name": key,
        "source": key,
        "kind": "folder",
        "num_images": 12345,
        "num_groups": 7,
        "classes": names,
        "counts": {"train": [70 + k for k in range(classes)], "val": [15] * classes, "test": [15] * classes},
        "split": "given",
        "notes": [f"Note on {key}."],
        "sizes": {
            "short_side": {"smallest": 10, "median": 64.0, "largest": 512},
            "long_side": {"smallest": 10, "median": 64.0, "largest": 512},
            "common": [[64, 64, 12000], [10, 10, 345]],
            "num_different": 2,
            "smallest": [[key, 10, 10]],
        },
        "formats": {"JPEG": 12000, "PNG": 345},
        "modes": {"RGB": 12345},
        "num_rotated": 3,
        "wrong_suffixes": [{"key": key, "format": "PNG"}],
        "broken": [{"key": key, "reason": f"bad {key}", "is_lasting": True}] * 250,
        "imbalance": 2.5,
        "duplicates": {
            "num_exact": 1,
            "num_near": 99,
            "num_transformed": 40,
            "num_crossing": 50,
            "num_conflicting": 2,
            "num_images": 200,
            "pairs": [{**pair, "transform": t, "distance": 0.1} for t in ("none", "mirrored", "rotated 90")] * 30,
        },
        "torn_groups": [key],
        "pattern": {"pattern": "(.+)_", "num_groups": 5},
        "channels": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.1, 0.1, 0.1],
            "num_images": 9000,
            "grey_share": 0.0,
            "num_flat": 0,
            "flat": [],
        },
        "img_size": 64,
        "store_size": 74,
        "findings": findings,
        "commands": [["Distil", f"sapling distill {key}"]],
        "seconds": 12.3,
        "fingerprint": "a" * 64,
        "created": "2026-01-02T03:04:05Z",
        "sapling_version": "0.1.0",
    }


def page(folder: Path, content: dict[str, Any], each: int = 3) -> Path:
    sheet = [[f"{k}/{n}.png" for n in range(each)] for k in range(len(content["classes"]))]
    pictures = {key: GIF for keys in sheet for key in keys} | {"b.png": GIF, "oak/1.png": GIF}
    return write_inspection(folder / "inspect.html", content, sheet=sheet, pictures=pictures)


def text_of(path: Path) -> str:
    class Words(HTMLParser):
        found = ""

        def handle_data(self, data: str) -> None:
            self.found += data + " "

    words = Words()
    words.feed(re.sub(r"(?s)<style>.*?</style>", "", path.read_text(encoding="utf-8")))
    return " ".join(words.found.split())


@pytest.mark.parametrize(
    ("worst", "badge"),
    [("leak", "A run would stop: leak"), ("error", "A run would stop"), ("warning", "Worth a look")],
)
def test_the_headline_says_what_is_wrong(tmp_path, worst, badge):
    said = text_of(page(tmp_path, card(worst=worst)))
    assert badge in said
    assert f"oak/1.png is a {worst}." in said


def test_the_headline_says_that_nothing_is_wrong(tmp_path):
    said = text_of(page(tmp_path, card(worst="note")))
    assert "Nothing wrong was found in 12,345 images of 10 classes." in said


def test_everything_is_on_the_page(tmp_path):
    said = text_of(page(tmp_path, card()))
    for words in (
        "100 pairs of images: 1 exact, 99 nearly the same, 40 mirrored or turned, 50 across splits, 2 with two labels.",
        "Nearly the same, rotated 90° · across splits · two labels",
        "Files that cannot be used (250)",
        "50 more stand in inspect.json.",
        "Files with a wrong ending (1)",
        "Groups that the split parts (1)",
        "40 more pairs; inspect.json lists them.",
        "Red 0.100 0.100",
        "10 to 512 pixels, median 64",
        "sapling distill oak/1.png",
        "2.5 : 1",
    ):
        assert words in said, words


def test_names_are_never_markup(tmp_path):
    text = page(tmp_path, card(hostile=True)).read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "<b>" not in text
    assert "</script>" not in text
    assert "\u202e" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_an_empty_card_makes_a_page(tmp_path):
    bare = {"classes": ["a", "b"], "findings": [], "duplicates": {"pairs": []}}
    path = write_inspection(tmp_path / "x" / "inspect.html", bare, sheet=[[], []], pictures={})
    assert "Nothing wrong was found" in text_of(path)


def test_many_classes_are_folded(tmp_path):
    text = page(tmp_path, card(classes=200), each=2).read_text(encoding="utf-8")
    assert "The other 160 classes" in text
    assert text.count("<img ") > 400


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("content", [card(), card(classes=2), card(classes=200), card(hostile=True)])
def test_it_fits_the_screen_and_fetches_nothing(browser, tmp_path, width, content):
    browser.open(page(tmp_path, content), width=width)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.ask(STICKS_OUT) == 0
    assert browser.ask(CUT) == 0
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.ask(STICKS_OUT) == 0
    assert browser.ask("document.querySelectorAll('script, b, iframe').length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_in_light_and_dark(browser, tmp_path, dark):
    browser.open(page(tmp_path, card()), dark=dark)
    assert browser.ask(CONTRAST) >= 4.5
    severities = CONTRAST.replace("p, dt, dd, th, td, h1, h2, figcaption, a, .badge", ".severity, .how, summary")
    assert browser.ask(severities) >= 4.5
