# SPDX-License-Identifier: Apache-2.0
"""Pictures of bars, one bar a target, the baseline as the line to reach: the classic four, and starts of containers.

Throughput in sequence, operations a second at random, as in the report that `classic` follows. Bars start at zero:
their lengths may be compared.
"""

from __future__ import annotations

from bench.machine.launcher import PLAIN, UNION
from bench.report import plots
from bench.report.plots import Drawing
from bench.report.terminal import library
from bench.results import text
from bench.results.results import Cell, Results
from bench.workloads.classic import BARS, MANNERS, figure_name

_BLOCK = 4096  # bytes of an operation at random
_BAR = 0.28  # inches
_ROOM = 0.75


def groups(rows: list[list[Cell]]) -> dict[str, tuple[str, list[list[Cell]]]]:
    """Return what is shown as bars, of what `rows` have: by the name of a picture its title and its figures."""
    wanted = {
        f"classic-{manner}": ("inside a container", [figure_name(manner, bar) for bar in BARS]) for manner in MANNERS
    } | {
        f"start-{kind}": ("container start-up", [f"start-exec-{kind}", f"start-exit-{kind}"]) for kind in (PLAIN, UNION)
    }  # fmt: skip
    found = {row[0].figure.name: row for row in rows if any(cell.value for cell in row)}
    picked = {
        name: (title, [found[f] for f in figures if f in found]) for name, (title, figures) in wanted.items()
    }
    return {name: (title, some) for name, (title, some) in picked.items() if some}


def pictures(results: Results, rows: list[list[Cell]]) -> list[tuple[str, Drawing]]:
    """Return a drawing, with its name, for each group of bars."""
    return [(name, _drawing(results, some, title)) for name, (title, some) in groups(rows).items()]


def _drawing(results: Results, groups: list[list[Cell]], title: str) -> Drawing:
    names = [n for n in results.targets if any(c.value for row in groups for c in row if c.target == n)]
    with plots.styled():
        drawing = plots.blank(11, _ROOM + _BAR * len(names))
        panels = drawing.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for panel, row in zip(panels, groups, strict=True):
            _panel(results, panel, row, names)
        state = groups[0][0].figure.state
        drawing.suptitle(f"{title}, {state}", x=0.005, ha="left", fontsize=10)
        return drawing


def _panel(results: Results, axes: Drawing, row: list[Cell], names: list[str]) -> None:
    figure = row[0].figure
    scale, unit = (_BLOCK, "IOPS") if "random" in figure.name else (1, figure.unit)
    cells = {cell.target: cell for cell in row}
    looks = plots.styles(results)
    highest = max((cell.value.high for cell in row if cell.value), default=1.0) / scale
    for position, name in enumerate(names):
        cell = cells[name]
        if cell.value is None:
            axes.text(0, position, f" {text.measured(cell)}", va="center", fontsize=7.5, color=plots.MUTED)
            continue
        value, colour = cell.value, looks[name][0]
        low, middle, high = value.low / scale, value.median / scale, value.high / scale
        filled = colour if value.stable else "none"
        (bar,) = axes.barh(position, middle, height=0.62, color=filled, edgecolor=colour, linewidth=1.2)
        (line,) = axes.plot([low, high], [position] * 2, color=plots.MUTED, linewidth=1.2)
        label = axes.text(
            high + highest * 0.02, position, text.quantity(middle, unit), va="center", fontsize=7.5,
            bbox={"facecolor": plots.PAPER, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
        for artist in (bar, line, label):
            plots.mark_target(artist, results, name)
    native = cells.get(results.baseline_of(figure, names[0]))
    if native is not None and native.value is not None:
        axes.axvline(native.value.median / scale, color=plots.INK, linewidth=0.9, linestyle="--", zorder=0.5)
    _finish(axes, figure.title, highest, names, unit)


def _finish(axes: Drawing, title: str, highest: float, names: list[str], unit: str) -> None:
    ticker = library("matplotlib.ticker")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlim(0, highest * 1.35)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3))
    axes.xaxis.set_major_formatter(
        ticker.FuncFormatter(lambda value, _: text.quantity(value, unit) if value else "0")
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="both", length=0, labelsize=8)
    axes.grid(visible=False, axis="y")
