# SPDX-License-Identifier: Apache-2.0
"""The commands of `unionfs` that only show something: as JSON, as lines for scripts, with colours on a terminal only."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unionfs.program import one_line

if TYPE_CHECKING:
    from unionfs.cli.check import Problem


def _paint(text: str, code: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{code}m{text}\033[0m"


def _show(text: str, code: str = "") -> None:
    """Print one line in which nothing but our own colours controls the terminal, whoever the text came from."""
    line = one_line(text)
    print(_paint(line, code) if code else line)


def branch_list(arguments: argparse.Namespace) -> int:
    """List the branches."""
    from unionfs.cli import client

    branches = client.status(arguments.mountpoint)["branches"]
    if arguments.json:
        print(json.dumps(branches))
        return 0
    for row in branches:
        _show(f"{row['index']:>3}  {row['branch']}{_loss(row)}")
    return 0


def _loss(row: dict[str, Any]) -> str:
    """Say that a branch cannot be reached."""
    return f"  (lost: {row['lost']})" if row.get("lost") else ""


def busy(arguments: argparse.Namespace) -> int:
    """Show who holds a branch."""
    from unionfs.cli import client

    holders = client.busy(arguments.mountpoint, arguments.branch)
    if arguments.json:
        rows = [{"pid": pid, "command": _command_of(pid), "path": path} for pid, path in holders]
        print(json.dumps(rows))
        return 0
    for pid, path in holders:
        _show(f"{pid:>8}  {_command_of(pid):<16} {path}")
    return 0


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "?"


def _data_path(passthrough: dict[str, Any]) -> str:
    """Say whether file data goes by the server."""
    if not passthrough["on"]:
        return f"through the server: {passthrough['reason']}"
    return (
        f"passthrough: {passthrough['opens']} opens, {passthrough['registered']} files now, "
        f"{passthrough['fallbacks']} through the server instead"
    )


def status(arguments: argparse.Namespace) -> int:
    """Show everything about a mount."""
    from unionfs.cli import client

    state = client.status(arguments.mountpoint)
    if arguments.json:
        print(json.dumps(state))
        return 0
    head = _paint(one_line(state["mountpoint"]), "1")
    print(f"{head}  si={one_line(state['id'])}  pid {state['pid']}")
    _show(f"files     {state['run_directory']}")
    _show(f"session   {state['session']} ({state['session_reason']})")
    if state.get("passthrough"):
        _show(f"data      {_data_path(state['passthrough'])}")
    _show(f"options   {','.join(state['options'])}")
    for row in state["branches"]:
        _show(f"br{row['index']:<7} {row['branch']}  (brid {row['id']}){_loss(row)}")
    for name, value in state["counters"].items():
        _show(f"{name:<12} {value}")
    return 0


def stats(arguments: argparse.Namespace) -> int:
    """Show request counts and latencies."""
    from unionfs.server.control import request

    kinds = request(arguments.mountpoint, "stats")
    if arguments.json:
        print(json.dumps(kinds))
        return 0
    head = f"{'request':<14}{'count':>10}{'p50 us':>10}{'p90 us':>10}{'p99 us':>10}{'total s':>10}"
    print(_paint(head, "1"))
    for kind, row in kinds.items():
        times = "".join(f"{row[key]:>10.0f}" for key in ("p50_us", "p90_us", "p99_us"))
        _show(f"{kind:<14}{row['count']:>10}{times}{row['seconds']:>10.3f}")
    return 0


def which(arguments: argparse.Namespace) -> int:
    """Show where paths come from; exit 1 if one is not in the union."""
    from unionfs.cli import client

    results: dict[str, list[dict[str, Any]]] = {}  # Any: what JSON carries
    for path in arguments.path:
        results[path] = client.which(path)
    if arguments.json:
        print(json.dumps(results))
    else:
        for path, rows in results.items():
            if len(results) > 1:
                _show(f"{path}:")
            _show_rows(path, rows)
    return 0 if all(any(row["visible"] for row in rows) for rows in results.values()) else 1


def _show_rows(path: str, rows: list[dict[str, Any]]) -> None:
    shown = [row for row in rows if row["present"] or row["whiteout"] or row["opaque"] or row.get("lost")]
    for row in shown:
        _show(_row(row), "32" if row["visible"] else "")
    if not shown:
        print(f"unionfs: {one_line(path)}: no branch has it", file=sys.stderr)


def _row(row: dict[str, Any]) -> str:
    if row.get("lost"):
        return f"  {row['index']:>3}  {row['path']}  (not known, the branch is lost: {row['lost']})"
    notes = [str(row["kind"])] if row["kind"] else []
    notes += ["whiteout: hides what is below"] if row["whiteout"] else []
    notes += ["opaque: hides what is below"] if row["opaque"] else []
    notes += [] if row["visible"] or row["whiteout"] else ["hidden"]
    mark = "*" if row["visible"] else " "
    return f"{mark} {row['index']:>3}  {row['path']}  ({', '.join(notes)})"


def problems(found: Sequence[Problem], *, repaired: bool, as_json: bool) -> None:
    """Show what `check` found."""
    if as_json:
        print(json.dumps([dataclasses.asdict(problem) for problem in found]))
        return
    for problem in found:
        done = f"; {problem.remedy}" if repaired else ""
        _show(f"{problem.path}: {problem.text}{done}")
