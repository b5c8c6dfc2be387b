# SPDX-License-Identifier: Apache-2.0
"""What the terminal shows: a progress bar with the remaining time, and the table of figures."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from bench import text
from bench.results import Cell, Results, summarize
from unionfs.errors import UserError


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


def show_table(results: Results) -> None:
    """Print a row for each figure and a column for each target, with ratios to the baseline."""
    rich = library("rich.table")
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    console = library("rich.console").Console(width=width, highlight=False)
    table = rich.Table(box=library("rich.box").SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for target in results.targets:
        table.add_column(target.replace("-", "-\u200b"), justify="right", overflow="fold")
    for row in summarize(results):
        table.add_row(_title(row), *(_styled(cell) for cell in row))
    console.print(table)
    for line in notes(results):
        console.print(line, style="dim", soft_wrap=True)


def _title(row: Sequence[Cell]) -> str:
    figure = row[0].figure
    return f"{figure.title}\n[dim]{figure.state}[/]" if figure.state else figure.title


def _styled(cell: Cell) -> str:
    value = text.measured(cell)
    if cell.value is None:
        return f"[dim]{value}[/]"
    if cell.ratio is None:
        return value
    colour = "yellow" if not cell.ratio.stable else "green" if cell.ratio.high <= 1.25 else "default"
    return f"{value}\n[{colour}]{text.compared(cell)}[/]"


def notes(results: Results) -> list[str]:
    """Return what must be said beside the table."""
    environment = results.run["environment"]
    load = environment["load"][0]
    rounds = len({sample["round"] for sample in results.samples})
    lines = [
        f"{rounds} rounds, interleaved; medians; ×N: N times as slow as {results.baseline}, round by round; ×A–B?: unstable",
        f"Linux {environment['kernel']}, {environment['cpus']} CPUs ({environment['virtual']}), on {environment['backing']}, "
        f"load {load:.1f} at the start" + (f": {environment['busy']}" if environment["busy"] else ""),
    ]
    if results.end and results.end["reason"] == "time":
        lines.append(f"stopped after {rounds} of {results.run['rounds']} rounds: the time was up")
    if results.end is None or results.end["reason"] == "interrupted":
        lines.append("interrupted: what was measured until then is shown")
    lines += [f"{f['target']}: {f['message']}" for f in results.failures if f["kind"] != "unsupported"]
    return lines
