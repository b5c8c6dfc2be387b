# SPDX-License-Identifier: Apache-2.0
"""What there is to measure: suites with their figures, and targets with what is missing here; for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from bench.machine import programs
from bench.report import terminal
from bench.results.results import Record
from bench.runtimes import RUNTIMES
from bench.targets import TARGETS
from bench.targets.model import Target
from bench.workloads import SUITES, workloads_of


def show() -> None:
    """Print targets and suites; what is missing stands out on a terminal."""
    say = terminal.console()
    for title, targets in (("filesystems:", TARGETS), ("container runtimes:", RUNTIMES)):
        say(title, "bold")
        for target in _targets(targets):
            state = target["missing"] or target["version"] or "present"
            say(
                f"  {target['name']:<30} {target['title']:<50} {state}", "yellow" if target["missing"] else ""
            )
    say("suites and figures:", "bold")
    for suite in _suites():
        say(f"  {suite['name']:<24} {suite['title']}", "bold")
        for figure in suite["figures"]:
            state = f" ({figure['state']})" if figure["state"] else ""
            lacking = f"  {figure['missing']}" if figure["missing"] else ""
            say(f"    {figure['name']:<28} {figure['title']}{state}{lacking}", "yellow" if lacking else "")


def show_json() -> None:
    """Print the same as one JSON object."""
    found = {
        "targets": list(_targets(TARGETS)), "runtimes": list(_targets(RUNTIMES)), "suites": list(_suites())
    }  # fmt: skip
    print(json.dumps(found, indent=1, ensure_ascii=False))


def show_names(kind: str) -> None:
    """Print the names of one kind, a line each, without looking at what is installed: completion wants to be quick."""
    print("\n".join(NAMES[kind]()))


NAMES: dict[str, Callable[[], list[str]]] = {
    "suites": lambda: list(SUITES),
    "workloads": lambda: [f"{suite}/{workload.name}" for suite in SUITES for workload in workloads_of(suite)],
    "targets": lambda: [*TARGETS, *RUNTIMES],
    "figures": lambda: [figure["name"] for suite in _suites() for figure in suite["figures"]],
}


def _targets(targets: Mapping[str, Target]) -> Iterator[Record]:
    for target in targets.values():
        missing = target.missing()
        yield {
            "name": target.name, "title": target.title, "package": target.package, "missing": missing,
            "version": "" if missing else target.version(),
        }  # fmt: skip


def _suites() -> Iterator[Record]:
    for suite, title in SUITES.items():
        figures = [
            {
                "name": figure.name, "title": figure.title, "unit": figure.unit, "state": figure.state,
                "missing": programs.missing_text(workload.programs),
            }
            for workload in workloads_of(suite)
            for figure in workload.figures
        ]  # fmt: skip
        yield {"name": suite, "title": title, "figures": figures}
