"""The page in a real browser: nothing complains, nothing is fetched, nothing sticks out."""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sapling.report import write_report
from tests.report.browser import CHROMIUM, Browser
from tests.report.conftest import Runs
from tests.report.evidence import add_evidence
from tests.report.synthetic import make_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")

STICKS_OUT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Words that end outside the window, other than in a region that scrolls.
CUT = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, .hidden, details:not([open])')
  && e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > innerWidth + 1).length"""
CONTRAST = """(() => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const rgb = s => s.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const paper = light(rgb(getComputedStyle(document.body).backgroundColor));
  const worst = {};
  for (const e of document.querySelectorAll('p, dt, dd, th, td, h1, h2, figcaption, a, .badge')) {
    const ink = light(rgb(getComputedStyle(e).color));
    worst[e.tagName] = Math.min(worst[e.tagName] ?? 99, (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05));
  }
  return Math.min(...Object.values(worst)); })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("name", ["better", "worse", "none", "hostile", "one_seed", "train"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_complains_is_fetched_or_sticks_out(browser: Browser, runs: Runs, name: str, width: int) -> None:
    browser.open(runs[name] / "report.html", width=width)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.ask(STICKS_OUT) == 0
    assert browser.ask(CUT) == 0
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.ask(STICKS_OUT) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_and_costs_fit_and_can_be_read(browser: Browser, tmp_path: Path, dark: bool) -> None:
    run = make_run(tmp_path / "run", classes=12, hostile=True, epochs=2)
    add_evidence(run)
    write_report(run)
    for width in (320, 390, 1280):
        browser.open(run / "report.html", width=width, dark=dark)
        assert browser.complaints() == []
        assert [r for r in browser.requests() if not r.startswith("data:image/jpeg;base64,")] == []
        assert browser.ask("[...document.images].every(i => i.complete && i.naturalWidth === 96 && i.alt)")
        browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.ask(STICKS_OUT) == 0
        assert browser.ask(CUT) == 0
    assert browser.ask(CONTRAST) >= 4.5


def test_the_browser_sees_what_the_checks_look_for(browser: Browser, tmp_path: Path) -> None:
    """The checks themselves: a page with every mistake is caught."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><main><p style='width: 3000px'>wide</p></main><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('oh')</script>"
    )
    browser.open(page)
    assert browser.requests() == ["http://127.0.0.1:9/x.png"]
    assert len(browser.complaints()) >= 1
    assert browser.ask(STICKS_OUT) > 0
    assert browser.ask(CUT) > 0


def test_hostile_names_run_nothing(browser: Browser, runs: Runs, tmp_path: Path) -> None:
    # without the content policy, so that escaping alone must hold
    page = tmp_path / "page.html"
    text = (runs["hostile"] / "report.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    page.write_text(text.replace("Content-Security-Policy", "X-Nothing"), encoding="utf-8")
    browser.open(page)
    assert browser.ask("document.querySelectorAll('script, img, b, iframe').length") == 0
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_in_light_and_dark(browser: Browser, runs: Runs, dark: bool) -> None:
    browser.open(runs["better"] / "report.html", dark=dark)
    assert browser.ask(CONTRAST) >= 4.5
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    ink = browser.ask("getComputedStyle(document.querySelector('.drawing text')).fill")
    assert (paper == "rgb(21, 24, 27)") == dark
    assert ink != paper


def test_keys_reach_what_scrolls_and_what_opens(browser: Browser, runs: Runs) -> None:
    browser.open(runs["better"] / "report.html", width=390)
    reachable = "[...document.querySelectorAll('.scroll, pre')].every(e => e.tabIndex === 0)"
    assert browser.ask(reachable)
    assert browser.ask("document.querySelectorAll('summary').length") >= 4


@pytest.mark.parametrize("dark", [False, True])
def test_a_table_that_is_cut_shows_that_there_is_more(browser: Browser, runs: Runs, tmp_path: Path, dark: bool) -> None:
    """The right edge is shaded as long as the table goes on there, and no longer once it has been scrolled there."""
    browser.open(runs["none"] / "report.html", width=390, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.ask("(window.region = document.querySelector('.scroll:has(.classes)')).scrollLeft === 0")
    assert browser.ask("region.scrollWidth > region.clientWidth")

    def shading(left: int, edge: str) -> int:
        """How far the paper beside a row's words differs from the page, in grey values."""
        browser.ask(f"region.scrollLeft = {left}; region.scrollIntoView()")
        # nothing is drawn but the region's own background
        browser.ask("region.querySelector('table').style.visibility = 'hidden'")
        x = browser.ask(f"region.getBoundingClientRect().{edge}") + (1 if edge == "left" else -2)
        clip = {"x": x, "y": browser.ask("region.getBoundingClientRect().top + scrollY + 60"), "width": 1, "height": 1,
                "scale": 1}  # fmt: skip
        data = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        pixel = Image.open(io.BytesIO(base64.b64decode(data))).convert("L").getpixel((0, 0))
        return abs(pixel - (23 if dark else 254))

    assert shading(0, "right") > 30
    assert shading(0, "left") < 5
    assert shading(9999, "right") < 5
    assert shading(9999, "left") > 30


def test_it_prints(browser: Browser, runs: Runs, tmp_path: Path) -> None:
    browser.open(runs["none"] / "report.html", dark=True)
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(254, 254, 254)"
    assert browser.ask("document.querySelector('.classes').getBoundingClientRect().height") > 1000
    # no heading ends a sheet without what it heads, and no figure is cut
    for tag, key in (("section > header", "breakAfter"), ("section > header", "breakInside"), ("h3", "breakAfter"),
                     ("figure", "breakInside"), ("tr", "breakInside"), ("details", "breakInside"),
                     (".results", "breakInside"), ("thead", "breakAfter"), ("summary", "breakAfter")):  # fmt: skip
        styles = f"[...new Set([...document.querySelectorAll('{tag}')].map(e => getComputedStyle(e).{key}))].join()"
        assert browser.ask(styles) == "avoid", (tag, key)
    browser.call("Emulation.setEmulatedMedia", media="")


def test_the_browser_is_gone_afterwards(tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as opened:
        process = opened._process
    assert process.returncode is not None
    assert isinstance(process, subprocess.Popen)
