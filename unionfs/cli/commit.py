# SPDX-License-Identifier: Apache-2.0
"""Fold the top branch of a mounted union into the branch below it: AUFS' aubrsync.

The client folds (`fold`) while the mount is read-only; then the server, between two requests, empties the top branch. The server
knows that a client is at it for as long as their conversation lasts: if the client dies, it makes the mount writable again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator, Sequence

from unionfs.branches import leftovers, whiteout
from unionfs.branches.branch import Branch, OpenBranch, open_branch
from unionfs.commit.fold import Fold, Summary
from unionfs.errors import UserError
from unionfs.kernel import mount_table
from unionfs.kernel.syscalls import LIST_DIRECTORY
from unionfs.program import describe, one_line
from unionfs.server.control import Conversation
from unionfs.session import device

# So long (seconds) a server may take to make the mount writable after another commit was killed.
_PATIENCE = 10.0


def commit(mountpoint: str, target: str, *, keep_top: bool = False) -> Summary:
    """Fold the top branch of `mountpoint` into the branch `target` and empty the top (unless `keep_top`).

    UserError when the two are not neighbours, when a file is open for writing, or when the target would ignore whiteouts. Any
    OSError of the branches (EIO, ENOSPC, EPERM …) leaves both as they were.
    """
    _check_owner(mountpoint)
    with Conversation(mountpoint) as server:
        _check_freezing(mountpoint)
        status = server.request("status")
        branches = [Branch.parse(row["branch"]) for row in status["branches"]]
        index = _check(mountpoint, branches, target, status["options"])
        with _frozen(mountpoint, server, branches[index]):
            if not keep_top:
                _check_idle(mountpoint, server, branches[0])
            _flush(server, branches[0])
            return _fold(server, branches[: index + 1], branches[index + 1 :], keep_top=keep_top)


def _check_owner(mountpoint: str) -> None:
    """UserError for a union of somebody else: its server says which directories are copied and emptied, and we do it."""
    mounted = mount_table.containing(mount_table.canonical(mountpoint))
    if mounted is not None and mounted.user != os.geteuid():
        raise UserError(f"{mountpoint} was mounted by another user", "commit as that user")


def _check_freezing(mountpoint: str) -> None:
    """UserError if the mount would have to be made read-only by somebody who may not do that."""
    mounted = mount_table.find(mountpoint)
    if mounted is not None and "ro" not in mounted.flags and not device.may_mount():
        raise UserError(
            f"{mountpoint}: a commit makes the mount read-only meanwhile, which only root may",
            "mount it with -o ro for the commit",
        )


def _check(mountpoint: str, branches: list[Branch], target: str, options: Sequence[str]) -> int:
    wanted = os.path.realpath(target)
    index = next((n for n, branch in enumerate(branches) if os.path.realpath(branch.path) == wanted), None)
    if index is None:
        raise UserError(f"{target} is not a branch of {mountpoint}", f"see: unionfs branch list {mountpoint}")
    top, lower = branches[0], branches[index]
    if index == 0 or top.permission != "rw":
        raise UserError(f"{target}: the target must lie below the top branch, and that must be rw")
    if index > 1:
        raise UserError(
            f"{target}: the branch {branches[1].path} lies between", f"commit to {branches[1].path}"
        )
    if "ovl" in top.attributes or "ovl" in lower.attributes or "whiteout=overlay" in options:
        raise UserError(f"{target}: only AUFS' whiteouts can be folded, not overlayfs'")
    if lower.permission != "rw" and "wh" not in lower.attributes and len(branches) > 2:
        raise UserError(
            f"{target} ignores whiteouts and branches lie below it",
            f"unionfs branch mod {mountpoint} {target}=ro+wh",
        )
    if os.statvfs(lower.path).f_flag & os.ST_RDONLY:
        raise UserError(f"{target} is on a read-only filesystem")
    return index


def _check_idle(mountpoint: str, server: Conversation, top: Branch) -> None:
    holders = server.request("busy", path=top.path)
    if holders:
        pid, name = holders[0]
        raise UserError(f"{mountpoint} is busy: {name} is open (pid {pid})", "close it, or use --copy")


def _flush(server: Conversation, top: Branch) -> None:
    """Make every hard link a real one; UserError if some cannot be: a crash left it, and its other names are elsewhere."""
    server.request("flush")
    if server.request("status")["counters"]["plinks"]:
        raise UserError(
            f"{top.path} has hard links whose other names are on branches that this union lacks",
            "mount it with those branches and unmount it once",
        )


@contextlib.contextmanager
def _frozen(mountpoint: str, server: Conversation, target: Branch) -> Iterator[None]:
    """Keep the mount read-only for the length of the block; UserError while a file is open for writing."""
    _begin(mountpoint, server, target)
    mounted = mount_table.find(mountpoint)
    freeze = mounted is not None and "ro" not in mounted.flags

    def thaw() -> None:
        if freeze:
            device.remount(mountpoint, ("rw",))
        server.request("commit_ended")

    try:
        if freeze:
            server.request("freeze_begins")
            device.remount(mountpoint, ("ro",))
        yield
    except BaseException:
        with contextlib.suppress(OSError, UserError):  # the first error is told; what is left the server does
            thaw()
        raise
    thaw()


def _begin(mountpoint: str, server: Conversation, target: Branch) -> None:
    """Tell the server; wait while it undoes what a killed commit left. UserError while another one is at work."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            server.request("commit_begins", target=target.path)
            return
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise UserError(
                    f"{mountpoint} is busy: another commit is at work", "wait for its end"
                ) from None
            if error.errno != errno.EAGAIN or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _fold(
    server: Conversation, pair: Sequence[Branch], lower: Sequence[Branch], *, keep_top: bool
) -> Summary:
    with contextlib.ExitStack() as stack:
        opened = [_open(stack, branch, writable=branch is pair[-1]) for branch in (*pair, *lower)]
        fold = Fold(opened[0], opened[1], opened[2:])
        stack.callback(_warn, fold)
        with fold:
            fold.prepare()
            fold.publish()
            gone = server.request("folded", keep_top=keep_top)
            fold.keep()
        if gone:
            _delete(opened[0], os.fsencode(gone))
        return fold.summary


def _delete(top: OpenBranch, gone: bytes) -> None:
    """Delete what was the top's content; an error is the server's to try again, and no failure of the commit."""
    with contextlib.suppress(OSError):
        orphans = os.open(whiteout.ORPHAN_DIR, LIST_DIRECTORY, dir_fd=top.root)
        try:
            leftovers.discard(orphans, gone)
        finally:
            os.close(orphans)


def _warn(fold: Fold) -> None:
    for failure in fold.failures:
        print(f"unionfs: warning: {one_line(describe(failure))}", file=sys.stderr)


def _open(stack: contextlib.ExitStack, branch: Branch, *, writable: bool) -> OpenBranch:
    opened = open_branch(
        Branch(branch.path, "rw" if writable else branch.permission, branch.attributes), index=1, id=0
    )
    stack.callback(opened.close)
    return opened
