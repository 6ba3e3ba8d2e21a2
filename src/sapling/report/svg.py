"""From a matplotlib figure to two kinds of SVG: a file for papers, and one for the page that follows its colours.

The figures are drawn in the colours of ``COLOURS``. In the page each of them becomes a CSS variable, so that one
drawing serves light, dark and paper. Text stays text: the reader's fonts show any script.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape, unescape

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sapling.report.wording import shorten

WIDTH = 440  # of every figure, in CSS pixels: on a phone it is shown nearly as large as it was drawn
FONT, SMALL = 13.0, 12.0
MOST_LETTERS = 200  # of a name in full
COLOURS = {  # names are the CSS variables of the page; after Okabe and Ito (2008), safe for the colour-blind
    "ink": "#1d2126",
    "muted": "#626a73",
    "grid": "#e3e5e8",
    "paper": "#fefefe",
    "method": "#0072b2",
    "control": "#d55e00",
    "teacher": "#7b8087",
    "method2": "#009e73",
    "method3": "#b0579a",
    "method4": "#8a7400",
    "leaf": "#2f8f5b",
}
_STACK = "Inter, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "text.usetex": False,
    "axes.unicode_minus": True,
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.linewidth": 1.0,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.major.pad": 6.0,
    "ytick.major.pad": 6.0,
    "text.color": COLOURS["ink"],
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: file name without ending.
        description: what a reader who cannot see it should know.
        file: SVG document with fixed colours.
        inline: SVG element for the page.
        in_full: names that had to be cut in the figure.
    """

    name: str
    description: str
    file: str
    inline: str
    in_full: tuple[str, ...] = ()


def settings() -> AbstractContextManager[None]:
    """Context in which figures must be drawn and rendered."""
    return mpl.rc_context(_SETTINGS)


def new_figure(height: float) -> Figure:
    """An empty figure of the common width; ``height`` in CSS pixels."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    return figure


def render(figure: Figure, name: str, description: str, names: Mapping[str, str] | None = None) -> Drawing:
    """Make both SVGs of ``figure``; ``names`` in full to what is shown of them: on pointing at it the whole shows."""
    buffer = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # matplotlib measures with its own font, which lacks many scripts; the reader's fonts have them.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": "Sapling"})
    text = buffer.getvalue().replace("'DejaVu Sans', sans-serif", _STACK).replace("'DejaVu Sans'", _STACK)
    cut = {short: shorten(full, MOST_LETTERS) for full, short in (names or {}).items() if short != full}
    text = re.sub(r"(<text [^>]*>)([^<]*)(?=</text>)", lambda m: m[0] + _title(cut.get(unescape(m[2]), "")), text)
    file, inline = _labelled(text, description), _inline(text, name, description)
    return Drawing(name, description, file, inline, tuple(cut.values()))


def _title(full: str) -> str:
    return f"<title>{escape(full)}</title>" if full else ""


def _labelled(text: str, description: str) -> str:
    return re.sub(r"(<svg [^>]*>)", lambda m: f"{m[1]}\n <title>{escape(description)}</title>", text, count=1)


def _inline(text: str, name: str, description: str) -> str:
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    # This style would apply to the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    viewbox = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg class="drawing" role="img" aria-label="{escape(description)}" {viewbox[0] if viewbox else ""}>'
    body = body[body.index(">") + 1 :]
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    # Only inside tags: a class may be called anything, and its name is text.
    body = re.sub(r"<[^<>]*>", lambda m: _tag(m[0], name, used), body)
    body = re.sub(r"\s*<g/>", "", body)
    return head + re.sub(r"\n\s*", "\n", body).rstrip()


def _tag(tag: str, name: str, used: set[str]) -> str:
    tag = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'(url\(#|href="#)([\w.-]+)', lambda m: f"{m[1]}{name}-{m[2]}", tag)
    tag = re.sub(r' (d|x|y|cx|cy)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    return re.sub(r'style="([^"]*)"', _style, tag).replace("xlink:href=", "href=")


_VARIABLES = {value: f"var(--{name})" for name, value in COLOURS.items()}


def _style(match: re.Match[str]) -> str:
    style = re.sub(r"#[0-9a-f]{6}", lambda m: _VARIABLES.get(m[0], m[0]), match[1])
    style = re.sub(r"font-family: [^;]*(; |$)", "", style)
    # Matplotlib before 3.10 writes the shorthand: [weight] size family.
    style = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;]*", _longhand, style)
    return f'style="{style}"'


def _longhand(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"
