# SPDX-License-Identifier: Apache-2.0
"""The program `unionfs`: its command line. What the commands do is in `commands`, what they print in `views`.

Exit codes: 0 done, 1 failed (one line on stderr says what and what to do), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from unionfs.cli import commands, mount_helper, views
from unionfs.cli.arguments import Parser, Version
from unionfs.program import run_command, set_up_log

_EXAMPLES = """\
examples:
  unionfs mount -o br:/tmp/work=rw:/usr/src=ro /mnt      a writable view of /usr/src
  unionfs branch append /mnt /srv/more=ro+wh             one more branch while mounted
  unionfs which /mnt/linux/Makefile                      which branch a file comes from
  unionfs commit /mnt /usr/src                           fold the changes down
  unionfs umount /mnt

Each command has its own help: unionfs COMMAND --help
"""

_COMMANDS = frozenset(
    ("mount", "umount", "remount", "branch", "status", "stats", "which", "flush", "mvdown", "check", "commit")
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    set_up_log(logging.StreamHandler(), logging.WARNING, "unionfs: %(message)s")
    if _is_from_mount(argv):
        return mount_helper.main(argv)
    return run_command("unionfs", lambda: _run(argv))


def _is_from_mount(argv: Sequence[str]) -> bool:
    """Tell whether mount.fuse3 calls, to which mount(8) gives a mount of type fuse.unionfs: unionfs SOURCE TARGET -o OPTIONS.

    A misspelt command is none of that: what looks like one is not mounted.
    """
    if len(argv) < 3 or argv[0] in _COMMANDS or argv[1].startswith("-") or "-o" not in argv:
        return False
    from difflib import get_close_matches

    return not get_close_matches(argv[0], _COMMANDS)


def _run(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(
        prog="unionfs",
        description="A union filesystem with AUFS' branches in user space.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=Version, nargs=0, help="print the version")
    actions = top.add_subparsers(required=True, metavar="COMMAND")
    _mounting(actions)
    _branches(actions)
    _views(actions)
    _upkeep(actions)
    return top


def _command(
    actions: argparse._SubParsersAction[Parser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    *examples: str,
    words: Sequence[tuple[str, str]] = (("mountpoint", "MOUNTPOINT"),),
    json: bool = False,
) -> Parser:
    command = actions.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for word, shown in words:
        command.add_argument(word, metavar=shown)
    if json:
        command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def _options(command: Parser, text: str) -> None:
    command.add_argument("-o", metavar="OPTIONS", dest="options", action="append", default=[], help=text)


def _mounting(actions: argparse._SubParsersAction[Parser]) -> None:
    mount = _command(
        actions,
        "mount",
        "mount a union",
        commands.mount,
        "unionfs mount -o br:/rw=rw:/base=ro+wh,udba=none /mnt",
        "unionfs mount -o ro,br:/layers/2=ro+wh:/layers/1=ro+wh --foreground /mnt",
        words=(),
    )
    _options(mount, "AUFS' options: br:DIR=PERM:DIR=PERM, create=, udba=, ro, ...")
    mount.add_argument("source", nargs="?", default="none", metavar="SOURCE", help="shown in the mount table")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    mount.add_argument(
        "--session", default="auto", choices=("auto", "direct", "pyfuse3"), help="who speaks to the kernel"
    )
    mount.add_argument("--log-file", metavar="F", help="write messages there")
    mount.add_argument("-d", "--debug", action="store_true", help="log every detail")
    mount.add_argument(
        "--clear-dead", action="store_true", help="detach a dead mount at MOUNTPOINT without asking"
    )
    umount = _command(
        actions, "umount", "flush pseudo-links and unmount", commands.umount, "unionfs umount /mnt"
    )
    umount.add_argument(
        "-l", "--lazy", action="store_true", help="detach now, end when nobody uses it any more"
    )
    remount = _command(
        actions,
        "remount",
        "change branches and options of a mounted union, left to right",
        commands.remount,
        "unionfs remount -o add:1:/extra=ro+wh,mod:/old=ro /mnt",
        "unionfs remount -o create=mfs,ro /mnt",
    )
    _options(remount, "add:N:DIR=PERM append:DIR prepend:DIR del:DIR mod:DIR=PERM and options")


_ON_BRANCH = (("mountpoint", "MOUNTPOINT"), ("branch", "DIR"))
_WITH_PERMISSION = (("mountpoint", "MOUNTPOINT"), ("branch", "DIR[=PERM]"))


def _branches(actions: argparse._SubParsersAction[Parser]) -> None:
    branch = actions.add_parser(
        "branch",
        help="list and change branches while mounted",
        epilog="example:\n  unionfs branch append /mnt /srv/more=ro+wh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = branch.add_subparsers(required=True, metavar="ACTION")
    _command(kinds, "list", "list the branches, top first", views.branch_list, json=True)
    add = _command(
        kinds,
        "add",
        "insert a branch at an index (0 is the top)",
        commands.branch_add,
        "unionfs branch add /mnt 1 /extra=ro+wh",
        words=(),
    )
    add.add_argument("mountpoint", metavar="MOUNTPOINT")
    add.add_argument("index", type=int, metavar="INDEX")
    add.add_argument("branch", metavar="DIR[=PERM]")
    _command(
        kinds,
        "append",
        "add a branch at the bottom (ro if nothing is said)",
        commands.branch_append,
        words=_WITH_PERMISSION,
    )
    _command(
        kinds,
        "prepend",
        "add a branch on top (rw if nothing is said)",
        commands.branch_prepend,
        words=_WITH_PERMISSION,
    )
    _command(kinds, "del", "remove a branch", commands.branch_del, words=_ON_BRANCH)
    _command(
        kinds,
        "mod",
        "change a branch's permission",
        commands.branch_mod,
        "unionfs branch mod /mnt /old=ro+wh",
        words=(("mountpoint", "MOUNTPOINT"), ("branch", "DIR=PERM")),
    )
    _command(
        kinds, "busy", "show which process and file hold a branch", views.busy, words=_ON_BRANCH, json=True
    )


def _views(actions: argparse._SubParsersAction[Parser]) -> None:
    _command(actions, "status", "show session, options, branches and counters", views.status, json=True)
    _command(
        actions, "stats", "show requests by kind with count and latency percentiles", views.stats, json=True
    )
    which = _command(
        actions,
        "which",
        "show which branch a path comes from, and why",
        views.which,
        "unionfs which /mnt/etc/passwd",
        words=(),
        json=True,
    )
    which.add_argument("path", nargs="+", metavar="PATH")


def _upkeep(actions: argparse._SubParsersAction[Parser]) -> None:
    _command(actions, "flush", "turn pseudo-links into hard links", commands.flush)
    down = _command(
        actions,
        "mvdown",
        "move files to the next lower writable branch",
        commands.mvdown,
        "unionfs mvdown /mnt/big/file",
        words=(),
    )
    down.add_argument("file", nargs="+", metavar="FILE")
    down.add_argument("-o", "--overwrite", action="store_true", help="replace the lower file")
    down.add_argument("-k", "--keep", action="store_true", help="keep the upper file")
    check = _command(
        actions,
        "check",
        "find what a crash may leave in unmounted branches (auchk)",
        commands.check,
        "unionfs check -r /var/rw",
        words=(),
    )
    check.add_argument("-r", "--repair", action="store_true", help="remove what is wrong")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument("branch", nargs="+", metavar="BRANCH")
    commit = _command(
        actions,
        "commit",
        "fold the top branch down into a lower one (aubrsync)",
        commands.commit,
        "unionfs commit /mnt /base           the top branch is empty afterwards",
        "unionfs commit --copy /mnt /base    the top branch stays as it is",
        words=(("mountpoint", "MOUNTPOINT"), ("target", "TARGET_BRANCH")),
    )
    commit.add_argument("--copy", action="store_true", help="leave the top branch as it is")


if __name__ == "__main__":
    sys.exit(main())
