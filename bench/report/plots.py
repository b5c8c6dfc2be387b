# SPDX-License-Identifier: Apache-2.0
"""What all pictures share: matplotlib (imported lazily), colours and marks of targets, SVG that follows a page's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from bench.report.terminal import library
from bench.results import text
from bench.results.results import Results

Drawing = Any  # a matplotlib figure, axes or ticker: its types are those of an optional library
# Okabe and Ito's colours, which the colour-blind can tell apart, and two more. As many marks as are coprime to the
# colours: a pair comes again after 99 targets only.
COLOURS = ("#1f1f1f", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7b4fa3", "#7a7a7a")
_VARIANTS = frozenset({"rootless", "userxattr", "nopassthrough", "pyfuse3"})
MARKS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h")
MARK_TEXTS = "●■◆▲▼✚✖◀▶⬟⬢"
INK, MUTED, GRID, BAND, PAPER, ALARM = "#1a1a1b", "#66666a", "#dddde1", "#f4f4f6", "#fffffe", "#b3261e"
# In a page these follow its theme; elsewhere they are the colours themselves.
_THEMED = {INK: "ink", MUTED: "muted", GRID: "grid", BAND: "band", PAPER: "paper", ALARM: "alarm"} | {
    colour: f"c{number}" for number, colour in enumerate(COLOURS)
}
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": INK, "axes.edgecolor": MUTED,
    "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
    "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip
_IDS = re.compile(
    r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|legend|matplotlib\.axis|\w*Collection)_[^"]*"'
)
# The page's font is narrower than the one measured with; indentation and rotations by nothing are a third of the text.
_WASTE = re.compile(r" font-family: [^;\"]*;| transform=\"rotate\(-?0 [^)]*\)\"|^ +", re.MULTILINE)
_TAG = re.compile(r"<[^>]*>")
_LONG_NUMBER = re.compile(r"(\d\.\d)\d+")
_COLOUR = re.compile("|".join(_THEMED))


def styles(results: Results) -> dict[str, tuple[str, str]]:
    """Return a colour and a mark for each target, the same in all pictures of a report; variants share a colour."""
    families = list(dict.fromkeys(map(family, results.targets)))
    return {
        name: (COLOURS[families.index(family(name)) % len(COLOURS)], MARKS[number % len(MARKS)])
        for number, name in enumerate(results.targets)
    }


def family(target: str) -> str:
    """Return what a target is a variant of: `unionfs-pyfuse3-rootless` is `unionfs`, `unionfs-fuse` itself."""
    words = target.partition(":")[0].split("-")
    while len(words) > 1 and words[-1] in _VARIANTS:
        words.pop()
    return "-".join(words)


def styled() -> Drawing:
    """Return a context in which drawings are made."""
    return library("matplotlib").rc_context(_STYLE)


def blank(width: float, height: float) -> Drawing:
    """Return an empty drawing of a size in inches; call it, and draw, inside `styled()`."""
    library("matplotlib")
    figure = library("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    library("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def mark_target(artist: Drawing, results: Results, target: str) -> None:
    """Let a page hide this part of a drawing together with its target."""
    artist.set_gid(f"target-{results.targets.index(target)}")


def svg(drawing: Drawing, name: str) -> str:
    """Return a drawing as an SVG element for a page, in which no other drawing has this `name`."""
    stream = io.StringIO()
    with library("matplotlib").rc_context(_STYLE | {"svg.hashsalt": name}):
        drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    code = stream.getvalue()
    code = _IDS.sub("", code[code.index("<svg") :])
    code = re.sub(r'id="target-(\d+)"', r'class="t\1"', code)
    code = _COLOUR.sub(lambda found: f"var(--{_THEMED[found[0]]})", code)
    code = re.sub(r"<metadata>.*?</metadata>\s*", "", code, flags=re.DOTALL)
    # Coordinates, that is; what is written stays as it is.
    return _TAG.sub(lambda tag: _LONG_NUMBER.sub(r"\1", tag[0]), _WASTE.sub("", code)).strip()


def png(drawing: Drawing) -> bytes:
    """Return a drawing as a PNG picture."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=110, facecolor="white")
    return stream.getvalue()


def log_axis(axis: Drawing, write: text.Writer, decades: float, ticks: float = 6) -> None:
    """Give a logarithmic axis ticks that people read, not many more than `ticks`: 1, 2, 5 or powers of ten."""
    ticker = library("matplotlib.ticker")
    subs: Sequence[float] = (1, 2, 5) if decades * 3 <= ticks else (1, 3) if decades * 2 <= ticks else (1,)
    axis.set_major_locator(ticker.LogLocator(base=10, subs=subs, numticks=max(3, round(ticks))))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_locator(ticker.NullLocator())
