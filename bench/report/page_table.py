# SPDX-License-Identifier: Apache-2.0
"""A report's tables, one for each baseline: a row for each figure, a column for each target; the ratio first, the value below."""

from __future__ import annotations

from html import escape

from bench.results import text
from bench.results.estimate import confidence
from bench.results.results import Cell, Results


def tables(results: Results, rows: list[list[Cell]]) -> str:
    """Return a table for each baseline of the targets that have something in these rows, its own column first."""
    shown = {c.target for row in rows for c in row if c.value or c.problem}
    found = [
        (baseline, [name for name in names if name in shown]) for baseline, names in groups(results).items()
    ]
    found = [(baseline, names) for baseline, names in found if set(names) - {baseline} or len(found) == 1]
    return "".join(
        _table(results, rows, baseline if len(found) > 1 else "", names) for baseline, names in found
    )


def groups(results: Results) -> dict[str, list[str]]:
    """Return the targets by what they are compared with, which leads each group, the main one first."""
    baselines = {t["label"]: t.get("baseline", results.baseline) for t in results.run["targets"]}
    found: dict[str, list[str]] = {results.baseline: []}
    for name in results.targets:
        found.setdefault(baselines.get(name, results.baseline), []).append(name)
    return {
        baseline: [*([baseline] if baseline in results.targets else []), *(n for n in names if n != baseline)]
        for baseline, names in found.items()
    }


def _table(results: Results, rows: list[list[Cell]], baseline: str, names: list[str]) -> str:
    """Return one table; it scrolls by itself under its head."""
    head = "".join(f'<th class="t{results.targets.index(n)}">{_broken(n)}</th>' for n in names)
    lines = [
        f"<tr{_id(row, baseline or results.baseline, results)}><td>{_title(row[0])}</td>"
        + "".join(
            _cell(cell, results.targets.index(name), name == (baseline or results.baseline))
            for name in names
            for cell in row
            if cell.target == name
        )
        + "</tr>\n"
        for row in rows
        if any(cell.value or cell.problem for cell in row if cell.target in names)
    ]
    title = f'<p class="sub">Beside <b>{escape(baseline)}</b></p>' if baseline else ""
    start = f'{title}<div class="wide"><table><thead><tr><th>figure</th>{head}</tr></thead><tbody>\n'
    return f"{start}{''.join(lines)}</tbody></table></div>"


def _id(row: list[Cell], baseline: str, results: Results) -> str:
    """Return the mark to which links lead: a figure's row in the first table."""
    return f' id="figure-{escape(row[0].figure.name)}"' if baseline == results.baseline else ""


def _broken(name: str) -> str:
    return escape(name).replace("-", "-<wbr>")


def _title(cell: Cell) -> str:
    figure = cell.figure
    state = f"<small>{escape(figure.state)}</small>" if figure.state else ""
    return f'<span title="{escape(figure.name)}">{escape(figure.title)}</span>{state}'


def _cell(cell: Cell, number: int, baseline: bool) -> str:
    if cell.value is None:
        kind = "none" if cell.problem in ("", "unsupported") else "bad"
        return f'<td class="t{number} {kind}">{escape(text.measured(cell))}</td>'
    value = escape(text.measured(cell))
    if baseline or cell.ratio is None:
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
