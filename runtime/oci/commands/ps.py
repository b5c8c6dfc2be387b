# SPDX-License-Identifier: Apache-2.0
"""`unionrt ps`: the processes of a container, as pids or as the lines that ps(1) has for them."""

from __future__ import annotations

import os

from runtime.oci import jsontext
from runtime.oci.failure import Failure, one_line
from runtime.oci.options import Command, Option, Options
from runtime.oci.state import open_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command(
    "ps",
    "show the processes of a container",
    "ID [PS OPTION...]",
    (Option("format", "f", "table|json", "a table (default), or the pids as JSON"),),
    most=-1,
    foreign=True,
)


def run(settings: Settings, options: Options) -> int:
    """Write the list to standard output. The table is what `ps -ef`, or ps with the given options, says of these processes."""
    form = options.text("format", "table")
    if form not in ("table", "json"):
        raise Failure(f"--format: unknown format {form!r}", "give table or json")
    container = open_container(settings.root, options.arguments[0])
    group = container.group()
    pids = group.processes()
    if not group.directories() and container.status() != "stopped":
        pids = [container.record["pid"]]  # without a group we know of no other
    if form == "json":
        print(jsontext.dumps(pids))
        return 0
    for line in _table(pids, options.arguments[1:] or ["-ef"]):
        print(one_line(line))
    return 0


def _table(pids: list[int], options: list[str]) -> list[str]:
    import subprocess

    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, errors="surrogateescape")
    except FileNotFoundError:
        return ["PID", *(str(pid) for pid in pids)]
    if done.returncode != 0:
        raise Failure(
            f"ps {' '.join(options)}: {' '.join(done.stderr.split()) or f'status {done.returncode}'}"
        )
    # Only this ends a line: what else splitlines() takes for one, a process may have in its name.
    return select(done.stdout.rstrip("\n").split("\n"), pids)


def select(lines: list[str], pids: list[int]) -> list[str]:
    """Return the header and the lines with one of the pids in the column PID; Failure without such a column."""
    header = lines[0].split() if lines else []
    if "PID" not in header:
        raise Failure(
            "ps shows no column PID",
            f"choose options with which it does; it showed {os.linesep.join(lines[:1])!r}",
        )
    column = header.index("PID")
    wanted = {str(pid) for pid in pids}
    chosen = [
        line for line in lines[1:] if line.split()[column : column + 1] and line.split()[column] in wanted
    ]
    return [lines[0], *chosen]
