# SPDX-License-Identifier: Apache-2.0
"""Turn a result file into a page, a Markdown text or a picture. Only reads; every number comes from `results`."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

from bench.report import dotplot, page, plots
from bench.report.terminal import notes
from bench.results import text
from bench.results.results import Cell, Results, by_suite, summarize
from unionfs.errors import UserError


def write(results: Results, output: Path) -> None:
    """Write a report in the form that the name's ending asks for; UserError for another ending.

    A former report stays until the new one is complete.
    """
    if not results.samples:
        raise UserError("the result file holds no samples: nothing to report")
    make = _FORMS.get(output.suffix)
    if make is None:
        raise UserError(f"{output}: unknown form", "end it in .html, .md or .png", status=2)
    place = Path(os.path.realpath(output))
    new = place.with_name(f".{place.name}.new")
    try:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with new.open("wb", buffering=0) as stream:  # before the work, which takes a while
            _fill(stream, new, place, lambda: make(results))
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from None


def _fill(stream: io.FileIO, new: Path, place: Path, make: Callable[[], bytes]) -> None:
    """Write what `make` returns to the file `new` and let it take its place; it goes when that fails."""
    try:
        rest = memoryview(make())
        while rest:
            rest = rest[stream.write(rest) :]
        new.replace(place)
    except BaseException:
        new.unlink()
        raise


def picture(results: Results, rows: list[list[Cell]]) -> bytes:
    """Return the ratios of some rows as a PNG picture; UserError when there are none."""
    drawing = dotplot.ratios(results, rows, panel=1.0 if len(results.targets) > 8 else 1.25)
    if drawing is None:
        raise UserError("no ratios to draw", f"they need a second target beside {results.baseline}")
    return plots.png(drawing)


_FORMS: dict[str, Callable[[Results], bytes]] = {
    ".html": lambda results: page.html(results).encode(),
    ".md": lambda results: markdown(results).encode(),
    ".png": lambda results: picture(results, summarize(results)),
}


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
