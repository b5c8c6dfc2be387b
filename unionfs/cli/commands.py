# SPDX-License-Identifier: Apache-2.0
"""The commands of `unionfs` that change something; each takes the parsed command line and returns the exit code.

Modules that are slow to import are imported where they are used: the program must start fast.
"""

from __future__ import annotations

import argparse
import signal
import sys

from unionfs.errors import UserError
from unionfs.kernel.paths import absolute
from unionfs.program import one_line


def mount(arguments: argparse.Namespace) -> int:
    """Mount a union, in the background unless told otherwise."""
    from unionfs.kernel.reserve import raise_limit
    from unionfs.options.aufs import initial_branches, parse
    from unionfs.server.mount import MountPlan, default_flags, mount_in_background, serve

    request = parse(",".join(arguments.options))
    plan = MountPlan(
        branches=initial_branches(request),
        target=arguments.mountpoint,
        options=request.options,
        flags=default_flags(request.mount_flags),
        fsname=request.fsname or arguments.source,
        session=arguments.session,
        debug=arguments.debug,
        log_file=absolute(arguments.log_file) if arguments.log_file else None,
    )
    clear_dead(arguments.mountpoint, ask=not arguments.clear_dead)
    raise_limit()
    if arguments.foreground:
        return serve(plan, lambda: None)
    mount_in_background(plan, ends=True)
    return 0


def clear_dead(target: str, *, ask: bool) -> None:
    """Detach a dead mount at `target`: after a question on a terminal, or at once with `ask` False.

    Without a terminal nobody can be asked, and the mount fails with a hint.
    """
    from unionfs.session import device

    if not device.is_dead(target):
        return
    if ask:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return
        question = f"{one_line(target)} is a dead mount: its server is gone. Unmount it? [y/N] "
        print(question, end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return
    device.unmount(target, lazy=True)


def umount(arguments: argparse.Namespace) -> int:
    """Flush and unmount."""
    from unionfs.cli import client

    client.unmount(arguments.mountpoint, lazy=arguments.lazy)
    return 0


def remount(arguments: argparse.Namespace) -> int:
    """Change branches and options."""
    from unionfs.cli import client

    client.remount(arguments.mountpoint, ",".join(arguments.options))
    return 0


def branch_add(arguments: argparse.Namespace) -> int:
    """Insert a branch at an index."""
    return _add(arguments, arguments.index)


def branch_append(arguments: argparse.Namespace) -> int:
    """Add a branch at the bottom."""
    return _add(arguments, None)


def branch_prepend(arguments: argparse.Namespace) -> int:
    """Add a branch on top."""
    return _add(arguments, 0)


def _add(arguments: argparse.Namespace, index: int | None) -> int:
    from unionfs.branches.branch import Branch
    from unionfs.cli import client

    client.add_branch(arguments.mountpoint, index, Branch.parse(arguments.branch))
    return 0


def branch_del(arguments: argparse.Namespace) -> int:
    """Remove a branch."""
    from unionfs.cli import client

    client.delete_branch(arguments.mountpoint, arguments.branch)
    return 0


def branch_mod(arguments: argparse.Namespace) -> int:
    """Change a branch's permission."""
    from unionfs.cli import client

    path, separator, permission = arguments.branch.rpartition("=")
    if not separator:
        raise UserError(f"{arguments.branch}: no permission given", "write DIR=PERM", status=2)
    client.modify_branch(arguments.mountpoint, path, permission)
    return 0


def flush(arguments: argparse.Namespace) -> int:
    """Turn pseudo-links into hard links."""
    from unionfs.server.control import request

    request(arguments.mountpoint, "flush")
    return 0


def mvdown(arguments: argparse.Namespace) -> int:
    """Move files down one writable branch."""
    from unionfs.cli import client
    from unionfs.server.control import request

    for file in arguments.file:
        mountpoint, path = client.locate(file)
        try:
            request(mountpoint, "move_down", path=path, overwrite=arguments.overwrite, keep=arguments.keep)
        except OSError as error:  # the server knows the file by its path in the union
            reason = str(error.strerror).removeprefix(f"{path}: ")
            raise OSError(error.errno, reason, file) from None
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Check unmounted branches; exit 1 when something is wrong and was not repaired."""
    from unionfs.cli import views
    from unionfs.cli.check import check_branch, repair
    from unionfs.live import branch_lock

    found = []
    for branch in arguments.branch:
        problems = check_branch(branch)
        if arguments.repair and problems:
            with branch_lock.unused(branch):
                problems = check_branch(branch)  # what was an operation of a union's is none any more
                for problem in problems:
                    repair(problem)
        found += problems
    views.problems(found, repaired=arguments.repair, as_json=arguments.json)
    return 1 if found and not arguments.repair else 0


def commit(arguments: argparse.Namespace) -> int:
    """Fold the top branch into a lower one."""
    from unionfs.cli.commit import commit as fold

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)  # not at once: the mount is to become writable again
    summary = fold(arguments.mountpoint, arguments.target, keep_top=arguments.copy)
    if sys.stdout.isatty():
        print(f"{summary.copied} copied, {summary.removed} removed, {summary.whiteouts} whiteouts kept")
    return 0


def _leave(number: int, _frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)  # what undoes is not to be left
    raise SystemExit(128 + number)
