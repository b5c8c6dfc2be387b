# SPDX-License-Identifier: Apache-2.0
"""Pictures with a line for each target: scaling curves over layers, entries, sizes or clients, and latency distributions."""

from __future__ import annotations

import math
from collections import defaultdict

from bench.machine.client import QUANTILES
from bench.report.plots import Drawing, blank, log_axis, mark_target, styled, styles
from bench.report.terminal import library
from bench.results import text
from bench.results.estimate import Estimate
from bench.results.results import Cell, Results

_SIZE = (4.9, 3.5)
_MARKED = [QUANTILES.index(q) for q in (0.5, 0.99)]
_LEVELS = ((0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "all"))


def curves(results: Results, rows: list[list[Cell]]) -> list[tuple[str, Drawing]]:
    """Draw the figures of a curve over what they scale with, both axes logarithmic."""
    drawings: list[tuple[str, Drawing]] = []
    for name, some in by_curve(rows).items():
        with styled():
            drawing = blank(*_SIZE)
            _draw_curve(drawing.subplots(), results, name, some)
            drawings.append((name, drawing))
    return drawings


def sheet(results: Results, rows: list[list[Cell]]) -> Drawing | None:
    """Draw all curves of these rows into one picture with a legend, or nothing when there are none."""
    found = by_curve(rows)
    if not found:
        return None
    columns = min(2, len(found))
    lines = math.ceil(len(found) / columns)
    with styled():
        drawing = blank(_SIZE[0] * columns, _SIZE[1] * lines + 1.2)
        places = drawing.subplots(lines, columns, squeeze=False).flatten()
        for axes in places[len(found) :]:
            axes.set_axis_off()
        for axes, (name, some) in zip(places, found.items(), strict=False):
            _draw_curve(axes, results, name, some)
        shown = dict.fromkeys(c.target for some in found.values() for row in some for c in row if c.value)
        line = library("matplotlib.lines").Line2D
        looks = styles(results)
        keys = [line([], [], color=looks[n][0], marker=looks[n][1], markersize=5, label=n) for n in shown]
        drawing.legend(handles=keys, loc="outside lower center", ncols=4 if columns > 1 else 2, fontsize=8.5)
        return drawing


def by_curve(rows: list[list[Cell]]) -> dict[str, list[list[Cell]]]:
    """Return the rows of each curve in its order; a curve needs three points."""
    found: dict[str, list[list[Cell]]] = defaultdict(list)
    for row in rows:
        if row[0].figure.curve:
            found[row[0].figure.curve].append(row)
    return {
        name: sorted(some, key=lambda row: row[0].figure.x)
        for name, some in found.items()
        if len({row[0].figure.x for row in some}) >= 3
    }


def _draw_curve(axes: Drawing, results: Results, name: str, rows: list[list[Cell]]) -> None:
    for column, cell in enumerate(rows[0]):
        points = [(row[column].figure.x, row[column].value) for row in rows]
        known = [(x, value) for x, value in points if value is not None]
        if known:
            _line(axes, results, cell.target, known)
    _finish_curve(axes, name, rows)


def _line(axes: Drawing, results: Results, target: str, known: list[tuple[float, Estimate]]) -> None:
    """A point that is unstable is hollow."""
    colour, mark = styles(results)[target]
    across = [x for x, _ in known]
    parts = [
        axes.vlines(
            across,
            [v.low for _, v in known],
            [v.high for _, v in known],
            color=colour,
            linewidth=0.9,
            alpha=0.6,
        ),
        *axes.plot(across, [v.median for _, v in known], color=colour, linewidth=1.3),
    ]
    for stable in (True, False):
        some = [(x, v.median) for x, v in known if v.stable == stable]
        parts += axes.plot(
            [x for x, _ in some], [y for _, y in some], mark, color=colour, markersize=4, linestyle="none",
            markerfacecolor=colour if stable else "none",
        )  # fmt: skip
    for part in parts:
        mark_target(part, results, target)


def _finish_curve(axes: Drawing, name: str, rows: list[list[Cell]]) -> None:
    unit = rows[0][0].figure.unit
    across = [row[0].figure.x for row in rows]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = across if len(across) <= 9 else across[::2]
    axes.set_xticks(ticks, [_across(name, x) for x in ticks], rotation=30 if len(ticks) > 6 else 0)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    log_axis(axes.yaxis, lambda value: text.short_quantity(value, unit), math.log10(high / low))
    axes.set_xlabel(_label(name))
    axes.set_title(name, fontsize=10.5, loc="left")


def _is_size(name: str) -> bool:
    return name.startswith("copy-up") or name.endswith("size")


def _across(name: str, x: float) -> str:
    return text.binary_size(x) if _is_size(name) else f"{x:,.0f}"


def _label(name: str) -> str:
    """Return what is on the horizontal axis: a curve's name says it after `over`."""
    if _is_size(name):
        return "size of the file"
    words = ("entries", "layers", "clients", "containers")
    return (
        name.rpartition(" over ")[2] if " over " in name else next((w for w in words if w in name), "entries")
    )


def distributions(
    results: Results, names: list[str], quantiles: dict[tuple[str, str], list[float]]
) -> list[tuple[str, Drawing]]:
    """Draw, for each figure of `names`, how many operations took at most how long."""
    titles = {figure.name: figure.title for figure in results.figures}
    return [(name, _distribution(results, name, titles[name], quantiles)) for name in names]


def _distribution(
    results: Results, name: str, title: str, quantiles: dict[tuple[str, str], list[float]]
) -> Drawing:
    levels = [-math.log10(1 - min(q, 0.9999)) for q in QUANTILES]
    with styled():
        drawing = blank(*_SIZE)
        axes = drawing.subplots()
        for target, (colour, mark) in styles(results).items():
            if (name, target) in quantiles:
                line = axes.plot(
                    quantiles[name, target],
                    levels,
                    color=colour,
                    marker=mark,
                    markersize=4,
                    linewidth=1.2,
                    markevery=_MARKED,
                )
                mark_target(line[0], results, target)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        log_axis(axes.xaxis, lambda value: text.short_quantity(value, "s"), math.log10(high / low))
        axes.set_yticks([-math.log10(1 - q) for q, _ in _LEVELS], [label for _, label in _LEVELS])
        axes.set_xlabel("an operation took at most")
        axes.set_title(title, fontsize=10.5, loc="left")
        return drawing
