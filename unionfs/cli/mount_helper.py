# SPDX-License-Identifier: Apache-2.0
"""The program `mount.unionfs`: what mount(8) runs for `mount -t unionfs` and for lines of fstab with that type.

Called as `mount.unionfs SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`; with `remount` among the options it
changes the living union. Exit codes are mount(8)'s: 1 wrong usage, 2 system error, 32 mount failure.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from unionfs.cli.arguments import Parser, Version
from unionfs.errors import UserError
from unionfs.program import run_command

PROGRAM = "mount.unionfs"
_WRONG_USAGE, _MOUNT_FAILURE = 1, 32
# What mount(8) copies into a remount from the mount table or from fstab, and what cannot be meant as a change.
_NOT_FOR_REMOUNT = re.compile(
    r"(remount|user_id=.*|group_id=.*|(br|dirs)[:=].*|xino[:=].*|fsname=.*|relatime)\Z", re.DOTALL
)
_EXAMPLES = """\
examples:
  mount -t unionfs -o br=/rw=rw:/base=ro none /mnt
  mount -o remount,append=/more=ro /mnt
an fstab line:
  none  /mnt  unionfs  br=/rw=rw:/base=ro,noauto  0 0
"""


class _Parser(Parser):
    wrong_usage = _WRONG_USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = _Parser(
        prog=PROGRAM,
        description="Mount or remount a union for mount(8).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    parser.add_argument("source", metavar="SOURCE", help="shown in the mount table")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-t", dest="type", help="ignored")
    parser.add_argument("-N", dest="namespace", help="ignored")
    for letter, text in (("-s", "accept unknown options"), ("-f", "do nothing"), ("-n", ""), ("-v", "")):
        parser.add_argument(letter, action="store_true", help=text or "ignored")
    return run_command(
        PROGRAM, lambda: _run(parser.parse_args(arguments)), failed=_MOUNT_FAILURE, wrong_usage=_WRONG_USAGE
    )


def _run(arguments: argparse.Namespace) -> int:
    from unionfs.options.aufs import split_words

    words = [word for word in split_words(",".join(arguments.options)) if word]
    if arguments.s:
        words = [word for word in words if _is_known(word)]
    if arguments.f:
        return 0
    if "remount" in words:
        from unionfs.cli import client

        client.remount(arguments.target, ",".join(word for word in words if not _NOT_FOR_REMOUNT.match(word)))
        return 0
    return _mount(arguments.source, arguments.target, ",".join(words))


def _is_known(word: str) -> bool:
    from unionfs.options.aufs import parse

    try:
        parse(word)
    except UserError as error:
        return not error.message.startswith("unknown option")
    return True


def _mount(source: str, target: str, text: str) -> int:
    from unionfs.cli.commands import clear_dead
    from unionfs.kernel.reserve import raise_limit
    from unionfs.options.aufs import initial_branches, parse
    from unionfs.server.mount import MountPlan, default_flags, mount_in_background

    request = parse(text)
    plan = MountPlan(
        branches=initial_branches(request),
        target=target,
        options=request.options,
        flags=default_flags(request.mount_flags),
        fsname=request.fsname or source,
    )
    clear_dead(target, ask=True)
    raise_limit()
    mount_in_background(plan, ends=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
