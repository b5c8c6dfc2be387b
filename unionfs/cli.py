# SPDX-License-Identifier: Apache-2.0
"""The program `unionfs`: parse the command line, call what does the work, print the result.

Exit codes: 0 done, 1 failed (one line on stderr says what and what to do), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from unionfs.errors import UserError

_EXAMPLES = """\
examples:
  unionfs mount -o br:/tmp/work=rw:/usr/src=ro /mnt      a writable view of /usr/src
  unionfs branch append /mnt /srv/more=ro+wh             one more branch while mounted
  unionfs which /mnt/linux/Makefile                      which branch a file comes from
  unionfs umount /mnt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return run_command("unionfs", lambda: options.run(options))


def run_command(program: str, command: Callable[[], int]) -> int:
    """Run a command; errors become one line."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"{program}: {error.line()}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        from unionfs.mount import describe

        print(f"{program}: {describe(error)}", file=sys.stderr)
        return 1


# -- parser -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unionfs", description="A union filesystem with AUFS' branches in user space.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_mount(commands)
    _add_changes(commands)
    _add_views(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    example: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}" if example else None, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def _add_mount(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    mount = _command(
        commands, "mount", "mount a union", _mount, "unionfs mount -o br:/rw=rw:/base=ro+wh,udba=none /mnt"
    )
    mount.add_argument(
        "-o",
        metavar="OPTIONS",
        dest="options",
        action="append",
        default=[],
        help="AUFS' options: br:DIR=PERM:DIR=PERM,…",
    )
    mount.add_argument("source", nargs="?", default="none", help="shown in the mount table")
    mount.add_argument("mountpoint")
    mount.add_argument("--foreground", "-f", action="store_true", help="stay in the foreground")
    mount.add_argument(
        "--session", default="auto", choices=("auto", "pyfuse3"), help="who speaks to the kernel"
    )
    mount.add_argument("--log-file", metavar="F", help="write messages there")
    mount.add_argument("--debug", "-d", action="store_true", help="log every detail")
    umount = _command(commands, "umount", "flush pseudo-links and unmount", _umount, "unionfs umount /mnt")
    umount.add_argument(
        "--lazy", "-l", action="store_true", help="detach now, end when nobody uses it any more"
    )
    umount.add_argument("mountpoint")


def _add_changes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    remount = _command(commands, "remount", "change branches in AUFS' words, left to right", _remount,
                       "unionfs remount -o add:1:/extra=ro+wh,del:/old /mnt")  # fmt: skip
    remount.add_argument("-o", metavar="OPTIONS", dest="options", action="append", default=[])
    remount.add_argument("mountpoint")
    branch = commands.add_parser("branch", help="list and change branches while mounted")
    actions = branch.add_subparsers(required=True, metavar="ACTION")
    listing = _command(actions, "list", "list the branches", _branch_list)
    listing.add_argument("mountpoint")
    listing.add_argument("--json", action="store_true")
    adding = _command(
        actions, "add", "insert a branch at an index", _branch_add, "unionfs branch add /mnt 1 /extra=ro+wh"
    )
    adding.add_argument("mountpoint")
    adding.add_argument("index", type=int)
    adding.add_argument("branch", metavar="DIR[=PERM]")
    for name, text in (("append", "add a branch at the bottom"), ("prepend", "add a branch on top")):
        parser = _command(actions, name, text, _branch_append if name == "append" else _branch_prepend)
        parser.add_argument("mountpoint")
        parser.add_argument("branch", metavar="DIR[=PERM]")
    deleting = _command(actions, "del", "remove a branch", _branch_del)
    changing = _command(
        actions, "mod", "change a branch's permission", _branch_mod, "unionfs branch mod /mnt /old=ro+wh"
    )
    busy = _command(actions, "busy", "show which process and file hold a branch", _branch_busy)
    for parser, meta in ((deleting, "DIR"), (changing, "DIR=PERM"), (busy, "DIR")):
        parser.add_argument("mountpoint")
        parser.add_argument("branch", metavar=meta)
    busy.add_argument("--json", action="store_true")
    flush = _command(commands, "flush", "turn pseudo-links into hard links", _flush)
    flush.add_argument("mountpoint")
    down = _command(commands, "mvdown", "move a file to the next lower writable branch", _mvdown)
    down.add_argument("file", nargs="+")
    down.add_argument("-o", "--overwrite", action="store_true", help="replace the lower file")
    down.add_argument("-k", "--keep", action="store_true", help="keep the upper file")


def _add_views(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, text, run in (
        ("status", "show session, options, branches and counters", _status),
        ("stats", "show requests by kind with latencies", _stats),
    ):
        parser = _command(commands, name, text, run)
        parser.add_argument("mountpoint")
        parser.add_argument("--json", action="store_true")
    which = _command(commands, "which", "show which branch a path comes from, and why", _which)
    which.add_argument("path", nargs="+")
    which.add_argument("--json", action="store_true")


# -- commands -----------------------------------------------------------------------------------------------------


def _mount(arguments: argparse.Namespace) -> int:
    from unionfs.mount import MountPlan, default_flags, mount_in_background, raise_descriptor_limit, serve
    from unionfs.options import initial_branches, parse

    request = parse(",".join(arguments.options))
    plan = MountPlan(
        branches=initial_branches(request), target=arguments.mountpoint,
        options=replace(request.options, read_only="ro" in request.mount_flags),
        flags=default_flags(request.mount_flags), fsname=request.fsname or arguments.source,
        session=arguments.session, debug=arguments.debug,
        log_file=os.path.abspath(arguments.log_file) if arguments.log_file else None,
    )  # fmt: skip
    raise_descriptor_limit()
    if arguments.foreground:
        return serve(plan, lambda: None)
    mount_in_background(plan)
    return 0


def _umount(arguments: argparse.Namespace) -> int:
    from unionfs.control import request
    from unionfs.fuse.device import unmount
    from unionfs.mount import wait_for_end

    path = os.path.abspath(arguments.mountpoint)
    try:
        request(path, "flush")
    except UserError:
        pass  # a dead server has nothing to flush; what follows says whether it is a mount at all
    pid = _server_pid(path)
    unmount(path, lazy=arguments.lazy)
    if pid is not None and not arguments.lazy:
        wait_for_end(pid)
    return 0


def _server_pid(path: str) -> int | None:
    from unionfs import rundir

    try:
        return int((rundir.find(path) / "pid").read_text())
    except (UserError, OSError, ValueError):
        return None


def _remount(arguments: argparse.Namespace) -> int:
    from unionfs.control import request
    from unionfs.options import parse

    wanted = parse(",".join(arguments.options), remount=True)
    path = os.path.abspath(arguments.mountpoint)
    for step in wanted.surgery:
        text = str(step.branch) if step.branch.permission else step.branch.path
        if step.action in ("add", "append", "prepend"):
            index = {"append": None, "prepend": 0}.get(step.action, step.index)
            request(path, "add", index=index, branch=_absolute(text))
        elif step.action == "del":
            request(path, "delete", path=os.path.abspath(step.branch.path))
        else:
            request(path, "modify", path=os.path.abspath(step.branch.path), permission=step.permission)
    if not wanted.surgery:
        request(path, "refresh")
    return 0


def _absolute(text: str) -> str:
    path, separator, permission = text.rpartition("=")
    return f"{os.path.abspath(path)}={permission}" if separator else os.path.abspath(text)


def _branch_list(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    branches = request(arguments.mountpoint, "status")["branches"]
    if arguments.json:
        print(json.dumps(branches))
    else:
        for row in branches:
            print(f"{row['index']:>3}  {row['branch']}")
    return 0


def _branch_add(arguments: argparse.Namespace, index: int | None = -1) -> int:
    from unionfs.control import request

    chosen = arguments.index if index == -1 else index
    request(arguments.mountpoint, "add", index=chosen, branch=_absolute(arguments.branch))
    return 0


def _branch_append(arguments: argparse.Namespace) -> int:
    return _branch_add(arguments, None)


def _branch_prepend(arguments: argparse.Namespace) -> int:
    return _branch_add(arguments, 0)


def _branch_del(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    request(arguments.mountpoint, "delete", path=os.path.abspath(arguments.branch))
    return 0


def _branch_mod(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    path, separator, permission = arguments.branch.rpartition("=")
    if not separator:
        raise UserError(f"{arguments.branch}: no permission given", "write DIR=PERM", status=2)
    request(arguments.mountpoint, "modify", path=os.path.abspath(path), permission=permission)
    return 0


def _branch_busy(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    holders = request(arguments.mountpoint, "busy", path=os.path.abspath(arguments.branch))
    if arguments.json:
        print(json.dumps([{"pid": pid, "path": path} for pid, path in holders]))
    else:
        for pid, path in holders:
            print(f"{pid:>8}  {_command_of(pid):<16} {path}")
    return 0


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "?"


def _flush(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    request(arguments.mountpoint, "flush")
    return 0


def _split(path: str) -> tuple[str, str]:
    """Return (mount point, path from its root) of a path on a union, without following its last link."""
    directory = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    full = os.path.join(directory, os.path.basename(os.path.abspath(path)))
    mountpoint = full if os.path.isdir(full) and not os.path.islink(full) else directory
    while not os.path.ismount(mountpoint):
        mountpoint = os.path.dirname(mountpoint)
    return mountpoint, os.path.relpath(full, mountpoint).removeprefix(".")


def _mvdown(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    for file in arguments.file:
        mountpoint, path = _split(file)
        request(mountpoint, "move_down", path=path, overwrite=arguments.overwrite, keep=arguments.keep)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    status = request(arguments.mountpoint, "status")
    if arguments.json:
        print(json.dumps(status))
        return 0
    print(f"{status['mountpoint']}  si={status['id']}  pid {status['pid']}")
    print(f"files     {status['run_directory']}")
    print(f"session   {status['session']} ({status['session_reason']})")
    print(f"options   {','.join(status['options'])}")
    for row in status["branches"]:
        print(f"br{row['index']:<7} {row['branch']}  (brid {row['id']})")
    for name, value in status["counters"].items():
        print(f"{name:<12} {value}")
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    stats = request(arguments.mountpoint, "stats")
    if arguments.json:
        print(json.dumps(stats))
        return 0
    print(f"{'request':<14}{'count':>10}{'p50 µs':>10}{'p90 µs':>10}{'p99 µs':>10}{'total s':>10}")
    for kind, row in stats.items():
        print(
            f"{kind:<14}{row['count']:>10}{row['p50_us']:>10.0f}{row['p90_us']:>10.0f}{row['p99_us']:>10.0f}{row['seconds']:>10.3f}"
        )
    return 0


def _which(arguments: argparse.Namespace) -> int:
    from unionfs.control import request

    results = {}
    for path in arguments.path:
        mountpoint, inside = _split(path)
        results[path] = request(mountpoint, "which", path=inside)
    if arguments.json:
        print(json.dumps(results))
        return 0
    for path, rows in results.items():
        if len(results) > 1:
            print(f"{path}:")
        for row in rows:
            if row["present"] or row["whiteout"]:
                print(_which_line(row))
    return 0 if all(any(row["visible"] for row in rows) for rows in results.values()) else 1


def _which_line(row: dict[str, object]) -> str:
    notes = [str(row["kind"])] if row["kind"] else []
    notes += ["whiteout: hides what is below"] if row["whiteout"] else []
    notes += ["opaque"] if row["opaque"] else []
    mark = "*" if row["visible"] else " "
    return f"{mark} {row['index']:>3}  {row['path']}  ({', '.join(notes)})"


if __name__ == "__main__":
    sys.exit(main())
