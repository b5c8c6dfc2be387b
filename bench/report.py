# SPDX-License-Identifier: Apache-2.0
"""Turn a result file into a page, a Markdown text or a picture. Only reads; every number comes from `results`."""

from __future__ import annotations

from pathlib import Path

from bench import dotplot, page, plots, text
from bench.results import Cell, Results, by_suite, summarize
from bench.terminal import notes
from unionfs.errors import UserError


def write(results: Results, output: Path) -> None:
    """Write a report in the form that the name's ending asks for; UserError for another ending."""
    if not results.samples:
        raise UserError("the result file holds no samples: nothing to report")
    forms = {".html": page.html, ".md": markdown}
    try:
        if output.suffix in forms:
            output.write_text(forms[output.suffix](results), encoding="utf-8")
        elif output.suffix == ".png":
            output.write_bytes(picture(results, summarize(results)))
        else:
            raise UserError(f"{output}: unknown form", "end it in .html, .md or .png", status=2)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from None


def picture(results: Results, rows: list[list[Cell]]) -> bytes:
    """Return the ratios of some rows as a PNG picture; UserError when there are none."""
    drawing = dotplot.ratios(results, rows, panel=1.0 if len(results.targets) > 8 else 1.25)
    if drawing is None:
        raise UserError("no ratios to draw", f"they need a second target beside {results.baseline}")
    return plots.png(drawing)


def markdown(results: Results) -> str:
    """Return a table for each suite, and what must be said beside them."""
    parts: list[str] = []
    for suite, rows in by_suite(summarize(results)):
        parts += [f"### {suite}\n"] if suite else []
        parts.append(markdown_table(results, rows))
    lines = [f"* {line}" for line in notes(results)]
    lines += [f"* {t['label']}: {t['version'] or t['title']}" for t in results.run["targets"]]
    return "\n".join([*parts, *lines]) + "\n"


def markdown_table(results: Results, rows: list[list[Cell]]) -> str:
    """Return a Markdown table of the targets that have something in these rows."""
    names = [
        n for n in results.targets if any(c.value or c.problem for row in rows for c in row if c.target == n)
    ]
    lines = [f"| figure | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for row in rows:
        figure = row[0].figure
        title = f"{figure.title} ({figure.state})" if figure.state else figure.title
        cells = (f"{text.measured(c)} {text.compared(c)}".strip() for c in row if c.target in names)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
