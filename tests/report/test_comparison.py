"""The page of a comparison: true, escaped, one file; and nothing of a user's is replaced by it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import sapling
from sapling.errors import UsageError
from sapling.report.comparison import page_path
from tests.report.browser import CHROMIUM, Browser
from tests.report.test_browser import CONTRAST, CUT, STICKS_OUT
from tests.workflows.stored_runs import change, store_run

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\u202e'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    runs = [store_run(root / "kd", gain=0.1), store_run(root / "dkd", method="dkd", gain=-0.15)]
    runs.append(store_run(root / "hostile", method="dist", own_control=1, views=HOSTILE, method_config={"x": HOSTILE}))
    change(runs[2], command=HOSTILE, teacher__model=HOSTILE, teacher__gate={"passed": False}, sapling_version=HOSTILE)
    found = sapling.compare(runs, allow=["recipe"], output=root / "out")
    assert found.page == root / "out" / "compare.html"
    return found.page


def test_what_was_allowed_and_found_stands_on_the_page(page):
    text = page.read_text(encoding="utf-8")
    visible = re.sub(r"<[^>]*>", "", text)
    assert "Not alike, and allowed (--allow recipe): views is shift in kd, dkd" in visible
    assert "kd is better than the same student trained alone; dkd is worse" in visible
    assert "The controls were trained apart" in visible
    assert "The teacher of dist did not pass its check" in visible
    assert "one split: other teachers or splits may give another answer" in visible
    assert re.search(r"budget\s*the same", visible, re.IGNORECASE)
    assert re.search(r"recipe\s*not alike", visible, re.IGNORECASE)
    # nobody checked what was declared before
    assert "runs that were left out are not counted" in visible
    assert "declared beforehand" not in visible


def test_the_table_holds_the_figures_of_the_comparison(tmp_path):
    """Row by row: gain, p after Holm, and what could have been shown, each its own."""
    runs = [store_run(tmp_path / m, method=m, gain=g) for m, g in (("kd", 0.1), ("dkd", -0.15), ("dist", 0.0))]
    found = sapling.compare(runs, output=tmp_path / "out")
    table = (
        found.page.read_text(encoding="utf-8").partition("Every method against its control")[2].partition("</table>")[0]
    )
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    assert rows[0][-2:] == ["Can show", "Verdict"]
    shown = {re.sub(r"<[^>]*>", "", row[0]): row for row in rows[2:]}
    limits = [m.verdict.detectable["now"] for m in found.methods]
    assert len({round(1000 * limit) for limit in limits}) > 1
    for m, limit in zip(found.methods, limits, strict=True):
        assert shown[m.name][-2] == f"{math.ceil(round(1000 * limit, 6)) / 10:.1f} points"
        assert shown[m.name][2].startswith(f"{100 * m.verdict.difference:+.1f}".replace("-", "\u2212"))
        assert shown[m.name][-1].startswith(m.outcome)


def test_hostile_runs_are_text_and_nothing_is_asked_of_a_network(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "\u202e" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_page_replaces_pages_only(tmp_path):
    assert page_path(tmp_path) == tmp_path / "compare.html"
    assert page_path(tmp_path / "new" / "x.html") == tmp_path / "new" / "x.html"
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="the output is a file"):
        page_path(tmp_path / "notes")
    (tmp_path / "compare.html").write_text("mine")
    with pytest.raises(UsageError, match="no page of Sapling"):
        page_path(tmp_path)
    (tmp_path / "compare.html").write_text('<meta name="generator" content="Sapling 0.1.0">')
    assert page_path(tmp_path) == tmp_path / "compare.html"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_it_fits_every_screen_and_can_be_read(page, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        for width, dark in ((390, False), (1280, True)):
            browser.open(page, width=width, dark=dark)
            assert browser.complaints() == []
            assert browser.requests() == []
            assert browser.ask(STICKS_OUT) == 0
            assert browser.ask(CUT) == 0
            assert browser.ask(CONTRAST) >= 4.5
        assert browser.ask("[...document.querySelectorAll('.scroll, pre')].every(e => e.tabIndex === 0)")
        # what is no finding is written in ink, not in the colour of what is worse
        ink, text = (browser.ask(f"getComputedStyle(document.querySelector('{e}')).color") for e in ("body", "h1"))
        assert ink == text
