# SPDX-License-Identifier: Apache-2.0
"""What the terminal shows: a progress bar with the remaining time, and the table of figures."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import ModuleType

from bench.results import text
from bench.results.results import Cell, Results, by_suite, summarize
from unionfs.errors import UserError

_TITLE_WIDTH = 46
_CELL_WIDTH = 13


def library(name: str) -> ModuleType:
    """Import a library of the optional extra `bench`; UserError says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        hint = "pip install 'unionfs[bench]'"
        raise UserError(f"{name.partition('.')[0]} is not installed", hint, status=2) from None


@contextmanager
def progress(steps: int, rounds: int) -> Iterator[Callable[[int, str], None]]:
    """Yield a function to call after each measurement with the rounds expected now and what was measured.

    Without a terminal it prints a line a round instead. The bar has no thread of its own: the clients are forked.
    """
    if not sys.stderr.isatty():
        yield _plain_progress(steps)
        return
    rich = library("rich.progress")
    console = library("rich.console").Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description:<38}"), rich.BarColumn(), rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(), rich.TextColumn("remaining"), rich.TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    with rich.Progress(
        *columns, console=console, auto_refresh=False, transient=True, speed_estimate_period=300
    ) as bar:
        task = bar.add_task("mounting", total=steps * rounds)

        def step(expected: int, name: str) -> None:
            bar.update(task, advance=1, total=steps * expected, description=name, refresh=True)

        yield step


def _plain_progress(steps: int) -> Callable[[int, str], None]:
    done = 0

    def step(expected: int, _name: str) -> None:
        nonlocal done
        done += 1
        if done % steps == 0:
            print(f"round {done // steps} of {expected} done", file=sys.stderr, flush=True)

    return step


def console() -> Callable[[str, str], None]:
    """Return a function that prints a line in a style: in colour on a terminal, plain elsewhere."""
    printer = library("rich.console").Console(highlight=False)

    def say(line: str, style: str) -> None:
        printer.print(line, style=style or None, soft_wrap=True, markup=False)

    return say


def show_table(results: Results) -> None:
    """Print a row for each figure, by suite, and a column for each target, with ratios to the baseline.

    Filesystems and container runtimes have a table each. Targets that do not fit beside each other follow in a further table.
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    printer = library("rich.console").Console(width=width, highlight=False)
    each = max(2, (printer.width - _TITLE_WIDTH) // _CELL_WIDTH)
    for _, group in groupby(summarize(results), key=lambda row: row[0].figure.kind):
        rows = list(group)
        names = [target for target in results.targets if any(_of(row, target) for row in rows)]
        for start in range(0, len(names), each):
            printer.print(_table(rows, names[start : start + each]))
    for line in notes(results):
        printer.print(line, style="dim", soft_wrap=True, markup=False)


def _of(row: Sequence[Cell], target: str) -> Cell | None:
    """Return the cell of a target when it says something."""
    return next((c for c in row if c.target == target and (c.value or c.problem)), None)


def _table(rows: list[list[Cell]], names: list[str]) -> object:
    rich = library("rich.table")
    table = rich.Table(box=library("rich.box").SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure", max_width=_TITLE_WIDTH - 2)
    for name in names:
        short = name if len(name) < _CELL_WIDTH else name.replace("-", "-\n")
        table.add_column(short, justify="right", overflow="fold")
    for suite, group in by_suite(rows):
        if suite:
            table.add_section()
            table.add_row(f"[bold]{suite}[/]")
        for row in group:
            table.add_row(_title(row), *(_styled(cell) for cell in row if cell.target in names))
    return table


def _title(row: Sequence[Cell]) -> str:
    figure = row[0].figure
    title = figure.title.replace("[", "\\[")
    return f"{title}\n[dim]{figure.state}[/]" if figure.state else title


def _styled(cell: Cell) -> str:
    value = text.measured(cell)
    if cell.value is None:
        return f"[dim]{value}[/]"
    if cell.ratio is None:
        return value
    colour = "yellow" if not cell.ratio.stable else "green" if cell.ratio.high <= 1.25 else "default"
    return f"{value}\n[{colour}]{text.compared(cell)}[/]"


def baselines(results: Results) -> str:
    """Return what ratios are relative to, in words."""
    found = dict.fromkeys(cell.baseline for row in summarize(results) for cell in row if cell.ratio)
    main = [results.baseline] if results.baseline in found or not found else []
    return " or ".join([*main, *(name for name in found if name != results.baseline)])


def notes(results: Results) -> list[str]:
    """Return what must be said beside the table."""
    environment = results.run["environment"]
    load = environment["load"][0]
    lines = [
        f"{text.rounds(results.rounds)}; medians; ×N: N times as slow as {baselines(results)}, round by round",
        *other_baselines(results),
        "×A–B?: unstable, only the interval is known",
        f"Linux {environment['kernel']}, {environment['cpus']} CPUs ({environment['virtual']}), on {environment['backing']}, "
        f"load {load:.1f} at the start" + (f": {environment['busy']}" if environment["busy"] else ""),
    ]
    if results.end and results.end["reason"] == "time":
        lines.append(f"stopped after {results.rounds} of {results.run['rounds']} rounds: the time was up")
    if results.end is None or results.end["reason"] == "interrupted":
        lines.append("interrupted: what was measured until then is shown")
    return lines + problems(results)


def other_baselines(results: Results) -> list[str]:
    """Return a line for each baseline that only some targets have."""
    found: dict[str, list[str]] = {}
    for target in results.run["targets"]:
        if target.get("baseline", results.baseline) != results.baseline:
            found.setdefault(target["baseline"], []).append(target["label"])
    return [f"relative to {baseline}: {', '.join(labels)}" for baseline, labels in found.items()]


def problems(results: Results) -> list[str]:
    """Return a line for each way in which a target failed, and for each that is missing."""
    lines: dict[str, list[str]] = {}
    for failure in results.failures:
        if failure["kind"] != "unsupported":
            where = lines.setdefault(f"{failure['target']}: {failure['message']}", [])
            if failure["workload"] not in where:
                where.append(failure["workload"])
    return [f"{line} ({', '.join(where)})" if any(where) else line for line, where in lines.items()]
