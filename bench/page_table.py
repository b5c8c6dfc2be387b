# SPDX-License-Identifier: Apache-2.0
"""The tables of a report's page: a row for each figure, a column for each target; the ratio first, the value below."""

from __future__ import annotations

from html import escape

from bench import text
from bench.estimate import confidence
from bench.results import Cell, Results


def table(results: Results, rows: list[list[Cell]]) -> str:
    """Return a table of the targets that have something in these rows; it scrolls by itself under its head."""
    names = [
        n for n in results.targets if any(c.value or c.problem for row in rows for c in row if c.target == n)
    ]
    head = "".join(f'<th class="t{results.targets.index(n)}">{_broken(n)}</th>' for n in names)
    lines = [
        f'<tr id="figure-{escape(row[0].figure.name)}"><td>{_title(row[0])}</td>'
        + "".join(
            _cell(cell, results.targets.index(cell.target), _is_baseline(cell, row))
            for cell in row
            if cell.target in names
        )
        + "</tr>\n"
        for row in rows
    ]
    start = f'<div class="wide"><table><thead><tr><th>figure</th>{head}</tr></thead><tbody>\n'
    return f"{start}{''.join(lines)}</tbody></table></div>"


def _broken(name: str) -> str:
    return escape(name).replace("-", "-<wbr>")


def _title(cell: Cell) -> str:
    figure = cell.figure
    state = f"<small>{escape(figure.state)}</small>" if figure.state else ""
    return f'<span title="{escape(figure.name)}">{escape(figure.title)}</span>{state}'


def _is_baseline(cell: Cell, row: list[Cell]) -> bool:
    return any(other.ratio and other.baseline == cell.target for other in row)


def _cell(cell: Cell, number: int, baseline: bool) -> str:
    if cell.value is None:
        kind = "none" if cell.problem in ("", "unsupported") else "bad"
        return f'<td class="t{number} {kind}">{escape(text.measured(cell))}</td>'
    value = escape(text.measured(cell))
    if cell.ratio is None:
        known = cell.value.stable and cell.value.low < cell.value.high
        inside = f"<i>{escape(_span(cell))}</i>" if known else ""
        shown = "<b>1</b>" if baseline else ""
        kind = ("base" if baseline else "") + ("" if cell.value.stable else " unsure")
        return (
            f'<td class="t{number} {kind}" title="{_about(cell)}">{shown}<small>{value}</small>{inside}</td>'
        )
    kind = text.heat(cell.ratio.median, cell.ratio) if cell.ratio.stable else "unsure"
    inside = f"<i>{text.bounds(cell.ratio)}</i>" if cell.ratio.stable and cell.ratio.count > 1 else ""
    return (
        f'<td class="t{number} {kind}" title="{_about(cell)}"><b>{escape(text.compared(cell)).replace("–", "–<wbr>")}</b>{inside}'
        f"<small>{value}</small></td>"
    )


def _span(cell: Cell) -> str:
    assert cell.value
    return text.span(cell.value.low, cell.value.high, cell.figure.unit)


def _about(cell: Cell) -> str:
    """Return all that is known of a cell, for who points at it."""
    value, ratio = cell.value, cell.ratio
    assert value
    sure = f"{confidence(value.count):.0%} interval" if value.count > 1 else "no interval"
    said = [
        (
            f"{cell.figure.name} on {cell.target}: median {text.quantity(value.median, cell.figure.unit)}, "
            f"{sure} {_span(cell)}, {value.count} rounds"
        )
    ]
    if ratio:
        said.append(
            f"×{text.three(ratio.median)} ({text.bounds(ratio)}) relative to {cell.baseline}, "
            f"middle half spreads {min(ratio.spread, 99):.0%}" + ("" if ratio.stable else ": unstable")
        )
    return escape("; ".join(said))
