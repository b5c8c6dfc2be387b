# SPDX-License-Identifier: Apache-2.0
"""The pictures: ratios as dots with intervals, latency distributions, scaling curves. Matplotlib, imported lazily."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import Any

from bench import text
from bench.client import QUANTILES
from bench.results import Cell, Results, summarize
from bench.terminal import library

Drawing = Any  # a matplotlib figure: its types are those of an optional library
# Okabe and Ito's colours, which the colour-blind can tell apart; the marks differ as well.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#cc79a7", "#009e73", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
_MARKS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "unionbench", "font.family": "sans-serif", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e3e3", "axes.axisbelow": True,
}  # fmt: skip


def styles(results: Results) -> dict[str, tuple[str, str]]:
    """Return a colour and a mark for each target, the same in all pictures of a report."""
    names = results.targets
    return {n: (_COLOURS[i % len(_COLOURS)], _MARKS[i % len(_MARKS)]) for i, n in enumerate(names)}


def _drawing(width: float, height: float) -> Drawing:
    library("matplotlib")
    figure = library("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    library("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def svg(drawing: Drawing) -> str:
    """Return a drawing as an SVG element for a page."""
    stream = io.StringIO()
    with library("matplotlib").rc_context(_STYLE):
        drawing.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    code = stream.getvalue()
    return code[code.index("<svg") :]


def png(drawing: Drawing) -> bytes:
    """Return a drawing as a PNG picture."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def ratios(results: Results) -> Drawing | None:
    """Draw each figure's ratio to the baseline, a row each, a dot with an interval for each target."""
    rows = [
        row
        for row in summarize(results)
        if any(cell.ratio for cell in row) and row[0].figure.curve != "mount"
    ]
    if not rows:
        return None
    with library("matplotlib").rc_context(_STYLE):
        drawing = _drawing(9.5, 1.4 + 0.52 * len(rows))
        axes = drawing.subplots()
        looks = styles(results)
        shown = [
            name for name in results.targets if any(c.ratio for row in rows for c in row if c.target == name)
        ]
        for position, row in enumerate(rows):
            if position % 2:
                axes.axhspan(position - 0.5, position + 0.5, color="#f6f6f6", zorder=0, linewidth=0)
            for cell in row:
                if cell.ratio:
                    offset = (shown.index(cell.target) - (len(shown) - 1) / 2) * 0.8 / max(len(shown), 1)
                    _dot(axes, cell, position + offset, looks[cell.target])
        _finish_ratios(axes, rows, results.baseline, shown, looks)
        return drawing


def _dot(axes: Drawing, cell: Cell, position: float, look: tuple[str, str]) -> None:
    """An unstable one is hollow: its interval counts, not its middle."""
    ratio = cell.ratio
    assert ratio is not None
    colour, mark = look
    axes.plot(
        [ratio.low, ratio.high], [position, position], color=colour, linewidth=1.4, solid_capstyle="butt"
    )
    axes.plot(
        ratio.median,
        position,
        mark,
        color=colour,
        markersize=5,
        markerfacecolor=colour if ratio.stable else "white",
    )


def _finish_ratios(
    axes: Drawing, rows: list[list[Cell]], baseline: str, shown: list[str], looks: dict[str, tuple[str, str]]
) -> None:
    axes.set_xscale("log")
    ticker = library("matplotlib.ticker")
    left, right = axes.get_xlim()
    axes.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5) if right / left < 2000 else (1,)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"×{value:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_yticks(range(len(rows)), [row[0].figure.title for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(
        f"times as slow as {baseline}   (left of ×1 is faster; hollow: unstable; bars: 95 % intervals)"
    )
    handles = [_key(name, looks[name]) for name in shown]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _key(name: str, look: tuple[str, str]) -> Drawing:
    return library("matplotlib.lines").Line2D([], [], color=look[0], marker=look[1], markersize=5, label=name)


def latencies(results: Results) -> list[tuple[str, Drawing]]:
    """Draw, for each figure with latencies, how many operations took at most how long."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for sample in results.samples:
        if sample["latency"]:
            found[sample["figure"]][sample["target"]].append(sample["latency"])
    titles = {figure.name: figure.title for figure in results.figures}
    looks = styles(results)
    return [(titles[name], _latency(titles[name], targets, looks)) for name, targets in found.items()]


def _latency(title: str, targets: dict[str, list[list[float]]], looks: dict[str, tuple[str, str]]) -> Drawing:
    with library("matplotlib").rc_context(_STYLE):
        drawing = _drawing(4.7, 3.3)
        axes = drawing.subplots()
        levels = [-_log10(1 - min(q, 0.9999)) for q in QUANTILES]
        for name, (colour, mark) in looks.items():
            if name in targets:
                curve = [
                    _median([sample[i] for sample in targets[name]]) * 1e6 for i in range(len(QUANTILES))
                ]
                axes.plot(curve, levels, color=colour, marker=mark, markersize=3, linewidth=1.2, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("µs")
        shown = ((0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "all"))
        axes.set_yticks([-_log10(1 - q) for q, _ in shown], [label for _, label in shown])
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=7, frameon=False)
        return drawing


def _log10(value: float) -> float:
    import math

    return math.log10(value)


def _median(values: list[float]) -> float:
    import statistics

    return statistics.median(values)


def curves(results: Results) -> list[tuple[str, Drawing]]:
    """Draw the figures of a scaling curve over what they scale with; a curve needs three points."""
    found: dict[str, list[list[Cell]]] = defaultdict(list)
    for row in summarize(results):
        if row[0].figure.curve:
            found[row[0].figure.curve].append(row)
    looks = styles(results)
    return [(name, _curve(name, rows, looks)) for name, rows in found.items() if len(rows) >= 3]


def _curve(name: str, rows: list[list[Cell]], looks: dict[str, tuple[str, str]]) -> Drawing:
    with library("matplotlib").rc_context(_STYLE):
        drawing = _drawing(4.7, 3.3)
        axes = drawing.subplots()
        rows = sorted(rows, key=lambda row: row[0].figure.x)
        for column, cell in enumerate(rows[0]):
            points = [(row[column].figure.x, row[column].value) for row in rows]
            known = [(x, value) for x, value in points if value is not None]
            if known:
                colour, mark = looks[cell.target]
                below = [value.median - value.low for _, value in known]
                above = [value.high - value.median for _, value in known]
                axes.errorbar(
                    [x for x, _ in known], [value.median for _, value in known], yerr=[below, above], color=colour,
                    marker=mark, markersize=4, linewidth=1.2, elinewidth=0.8, label=cell.target,
                )  # fmt: skip
        _finish_curve(axes, name, rows[0][0].figure.unit)
        return drawing


def _finish_curve(axes: Drawing, name: str, unit: str) -> None:
    ticker = library("matplotlib.ticker")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: text.quantity(value, unit)))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_title(name, fontsize=10)
    axes.legend(fontsize=7, frameon=False)
