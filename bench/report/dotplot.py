# SPDX-License-Identifier: Apache-2.0
"""Pictures with a row for each figure and a panel for each target, on one logarithmic axis: ratios, and latencies.

A panel for each target stays readable where a dozen targets in one row would cover each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.machine.client import QUANTILES
from bench.report.plots import (
    ALARM,
    BAND,
    INK,
    MUTED,
    PAPER,
    Drawing,
    blank,
    log_axis,
    mark_target,
    styled,
    styles,
)
from bench.results import text
from bench.results.results import Cell, Results
from bench.workloads.model import Figure

_ROW = 0.21  # inches
_LABEL = 3.4
_LONGEST = 54  # letters of a title
_STRIP = 8  # targets beside each other in one picture
_AT = {q: number for number, q in enumerate(QUANTILES)}
Range = tuple[float, float]
Quantiles = dict[tuple[str, str], list[float]]


def compared_targets(results: Results, rows: list[list[Cell]]) -> list[str]:
    """Return the targets that have a ratio in these rows."""
    return [n for n in results.targets if any(c.ratio for row in rows for c in row if c.target == n)]


def strips(names: Sequence[str]) -> list[list[str]]:
    """Divide targets into as few strips as fit a page, of one width: shorter ones are filled up with empty names."""
    count = math.ceil(len(names) / _STRIP)
    each = math.ceil(len(names) / count) if count else 1
    padded = [*names, *[""] * (count * each - len(names))]
    return [padded[start : start + each] for start in range(0, len(padded), each)]


def ratios(
    results: Results, rows: list[list[Cell]], only: Sequence[str] = (), panel: float = 1.15
) -> Drawing | None:
    """Draw each figure's ratio to the baseline as a dot with its interval.

    `only` is one of the strips; the axis is that of all targets. `panel` is the width of a target in inches.
    """
    rows = [row for row in rows if any(cell.ratio for cell in row)]
    names = only or compared_targets(results, rows)
    if not rows or not names:
        return None
    limits = _limits([(c.ratio.low, c.ratio.high) for row in rows for c in row if c.ratio])
    with styled():
        drawing, panels = _panels(_titles([row[0].figure for row in rows]), names, results, panel)
        for name, axes in panels.items():
            cells = [next(cell for cell in row if cell.target == name) for row in rows]
            _draw_ratios(axes, cells, results, limits)
            _finish(axes, limits, lambda value: f"×{value:g}", panel)
            axes.axvline(1, color=INK, linewidth=0.9)
        baselines = dict.fromkeys(c.baseline for row in rows for c in row if c.ratio)
        much = " (or as much)" if any(row[0].figure.unit in ("B", "%") for row in rows) else ""
        drawing.supxlabel(
            f"times as slow{much} as {' or '.join(baselines)}; left of ×1 is better", fontsize=9.5
        )
        return drawing


def _titles(figures: Sequence[Figure]) -> list[str]:
    """Return what stands beside each row; figures of one title are told apart by their states."""
    titles = [figure.title for figure in figures]
    shown = [f"{f.title}, {f.state}" if titles.count(f.title) > 1 and f.state else f.title for f in figures]
    return [title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…" for title in shown]


def _limits(spans: Sequence[Range]) -> Range:
    """Return an axis over all spans, and at least a factor of two to each side of 1; single wild ends are cut."""
    low = min(0.5, *(low for low, _ in spans))
    high = max(2.0, *(high for _, high in spans))
    return max(low, 0.01) / 1.3, min(high, 10_000) * 1.3


def _panels(
    titles: list[str], names: Sequence[str], results: Results, panel: float
) -> tuple[Drawing, dict[str, Drawing]]:
    """Return a drawing and the axes of each target; an empty name leaves its place free."""
    drawing = blank(_LABEL + panel * len(names), 0.85 + _ROW * len(titles))
    panels = drawing.subplots(1, len(names), sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(titles)), titles)
    panels[0].set_ylim(len(titles) - 0.5, -0.5)
    for name, axes in zip(names, panels, strict=True):
        if not name:
            axes.set_axis_off()
            continue
        shown = name.replace("-", "-\n", 1) if len(name) > panel * 10 else name
        axes.set_title(shown, fontsize=8.5, color=styles(results)[name][0])
        for position in range(1, len(titles), 2):
            axes.axhspan(position - 0.5, position + 0.5, color=BAND, zorder=0, linewidth=0)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
    return drawing, {name: axes for name, axes in zip(names, panels, strict=True) if name}


def _draw_ratios(axes: Drawing, cells: list[Cell], results: Results, limits: Range) -> None:
    """An unstable one is hollow: its interval counts, not its middle."""
    colour, mark = styles(results)[cells[0].target]
    found = [(position, cell.ratio) for position, cell in enumerate(cells) if cell.ratio]
    lines = axes.hlines(
        [p for p, _ in found],
        [r.low for _, r in found],
        [r.high for _, r in found],
        color=colour,
        linewidth=1.5,
    )
    mark_target(lines, results, cells[0].target)
    for stable in (True, False):
        some = [(p, r.median) for p, r in found if r.stable == stable]
        dots = axes.plot(
            [x for _, x in some], [p for p, _ in some], mark, color=colour, markersize=4.6, linestyle="none",
            markerfacecolor=colour if stable else PAPER, markeredgewidth=1.1,
        )  # fmt: skip
        mark_target(dots[0], results, cells[0].target)
    for position, cell in enumerate(cells):
        if cell.problem:
            word = text.PROBLEMS.get(cell.problem, cell.problem)
            colour = MUTED if cell.problem == "unsupported" else ALARM
            middle = math.sqrt(limits[0] * limits[1])
            axes.text(middle, position, word, fontsize=7, color=colour, ha="center", va="center")


def _finish(axes: Drawing, limits: Range, write: text.Writer, panel: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    log_axis(axes.xaxis, write, math.log10(limits[1] / limits[0]), panel * 2.6)
    axes.tick_params(axis="x", labelsize=7.5)


def latencies(results: Results, names: Sequence[str], quantiles: Quantiles, only: Sequence[str]) -> Drawing:
    """Draw, for the figures `names`, the middle half of the operations thick, 1 to 99 % thin, a mark for the median.

    `only` is one of the strips of targets.
    """
    figures = {figure.name: figure for figure in results.figures}
    every = [v for (name, _), v in quantiles.items() if name in names]
    limits = (min(v[_AT[0.01]] for v in every) / 1.2, max(v[_AT[0.999]] for v in every) * 1.2)
    with styled():
        drawing, panels = _panels(_titles([figures[name] for name in names]), only, results, 1.15)
        for target, axes in panels.items():
            some = {p: quantiles[name, target] for p, name in enumerate(names) if (name, target) in quantiles}
            _draw_latencies(axes, some, results, target)
            _finish(axes, limits, lambda value: text.short_quantity(value, "s"), 1.0)
        drawing.supxlabel(
            "time of one operation; thick: middle half, thin: 1 % to 99 %, tick: 99.9 %", fontsize=9.5
        )
        return drawing


def _draw_latencies(axes: Drawing, some: dict[int, list[float]], results: Results, target: str) -> None:
    colour, mark = styles(results)[target]
    for low, high, width in ((0.01, 0.99, 1.0), (0.25, 0.75, 4.0)):
        ends = ([v[_AT[low]] for v in some.values()], [v[_AT[high]] for v in some.values()])
        mark_target(
            axes.hlines(list(some), *ends, color=colour, linewidth=width, alpha=0.75), results, target
        )
    for quantile, shape, fill in ((0.5, mark, PAPER), (0.999, "|", colour)):
        dots = axes.plot(
            [v[_AT[quantile]] for v in some.values()], list(some), shape, color=colour, markersize=4,
            linestyle="none", markerfacecolor=fill,
        )  # fmt: skip
        mark_target(dots[0], results, target)
