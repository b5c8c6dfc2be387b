# SPDX-License-Identifier: Apache-2.0
"""Open, check, add, remove and change branches, at mount and while mounted (docs/aufs.md §1.4, §1.5).

The branch list is replaced whole; an error leaves the old list in force.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
import os
from collections.abc import Sequence

from unionfs.branches import emptying, stage, whiteout
from unionfs.branches.branch import Branch, OpenBranch, open_branch, parse_permission
from unionfs.handles.handles import is_pinned
from unionfs.kernel.paths import absolute
from unionfs.live.branch_lock import BranchLocks, find_enclosing
from unionfs.options.aufs import Options
from unionfs.plinks.pseudolinks import recover_plinks
from unionfs.tree.union import Union

log = logging.getLogger(__name__)

FIRST_BRANCH_ID = 64  # what AUFS' default build starts with
_MAX_BRANCHES = 32767  # AUFS' largest build; a limit of sanity, not of ours


def open_branches(
    branches: Sequence[Branch], *, mountpoint: str | None, read_only: bool, overlap_ok: bool, overlay: bool
) -> list[OpenBranch]:
    """Open the branches of a new mount; on an error none stays open. EINVAL, ENOSPC (too many)."""
    if not branches:
        raise OSError(errno.EINVAL, "a union needs at least one branch")
    if len(branches) > _MAX_BRANCHES:
        raise OSError(errno.ENOSPC, f"more than {_MAX_BRANCHES} branches")
    opened: list[OpenBranch] = []
    ids = itertools.count(FIRST_BRANCH_ID)
    try:
        for index, branch in enumerate(branches):
            candidate = open_branch(branch, index=index, id=next(ids), union_read_only=read_only)
            opened.append(_with_overlay(candidate) if overlay else candidate)
            _check_mountpoint(opened[-1], mountpoint, overlap_ok=overlap_ok)
        _check_all(opened, overlap_ok=overlap_ok)
    except BaseException:
        for branch_ in opened:
            branch_.close()
        raise
    return opened


def _with_overlay(branch: OpenBranch) -> OpenBranch:
    """Where overlayfs' form is written it is read on writable branches too."""
    return dataclasses.replace(branch, overlay=True) if branch.writable else branch


def _check_mountpoint(branch: OpenBranch, mountpoint: str | None, *, overlap_ok: bool) -> None:
    if mountpoint is None or overlap_ok:
        return
    real, target = os.path.realpath(branch.path), os.path.realpath(mountpoint)
    if real != target and _contains(target, real):
        raise OSError(errno.EINVAL, f"the branch is inside the mount point {mountpoint}", branch.path)


def _check_all(opened: Sequence[OpenBranch], *, overlap_ok: bool) -> None:
    """Refuse a directory named twice and (unless allowed) one inside another; linear in the number of branches."""
    seen: dict[tuple[int, int], str] = {}
    for branch in opened:
        key = (branch.device, branch.root_ino)
        if key in seen:
            raise OSError(errno.EINVAL, f"the same directory as the branch {seen[key]}", branch.path)
        seen[key] = branch.path
    if overlap_ok:
        return
    paths = sorted(
        ((os.path.realpath(branch.path) + "/").replace("//", "/"), branch.path) for branch in opened
    )
    for (upper, shown), (lower, inner) in itertools.pairwise(paths):
        if lower.startswith(upper):
            raise OSError(errno.EINVAL, f"the branch overlaps with {shown}", inner)


def _contains(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def prepare(branch: OpenBranch, options: Options, locks: BranchLocks, *, wait: bool = False) -> None:
    """Lock a writable branch, make its bookkeeping and remove stages that a killed server left there. EBUSY.

    What lies on a branch that another union writes to as well is left alone.
    """
    if not branch.writable:
        return
    locks.take(branch, share=options.share_rw, wait=wait)
    swept = 0
    try:
        if options.whiteout == "aufs":
            whiteout.make_bookkeeping(branch)
        if locks.is_alone(branch):
            if emptying.restore(branch.root):
                log.info("undid a commit of %s that did not finish", branch.path)
            swept = stage.sweep_root(branch)
    except BaseException:
        locks.drop(branch)
        raise
    if swept:
        log.info("removed %d leftover(s) of an unfinished operation from %s", swept, branch.path)
    around = find_enclosing(branch.path)
    if around is not None:
        log.warning(
            "%s: lies inside a writable branch of %s, which it changes behind its back", branch.path, around
        )


def warn(opened: Sequence[OpenBranch], options: Options) -> None:
    """Warn as AUFS does: owner or mode of a branch differ from the first one's; the first branch is not writable."""
    if options.warn_perm:
        first = os.fstat(opened[0].root)
        for branch in opened[1:]:
            status = os.fstat(branch.root)
            if (first.st_uid, first.st_gid, first.st_mode) != (status.st_uid, status.st_gid, status.st_mode):
                log.warning("%s: owner or mode differ from the first branch's", branch.path)
    if not opened[0].writable and not options.read_only:
        log.warning(
            "%s: the first branch is not rw, so nothing can be created in directories it has", opened[0].path
        )


def find_branch(union: Union, path: str) -> OpenBranch | None:
    """Return the branch of a directory, None if it is not one; ENOENT if there is no such directory at all."""
    for branch in union.branches:
        if branch.path == absolute(path):
            return branch
    status = os.stat(path)
    key = (status.st_dev, status.st_ino)
    return next((branch for branch in union.branches if (branch.device, branch.root_ino) == key), None)


def add(union: Union, index: int | None, branch: Branch, options: Options) -> bool:
    """Insert a branch (index None: at the end); False if it is there already. EDOM, EINVAL, ENOSPC."""
    count = len(union.branches)
    position = count if index is None else index
    if not 0 <= position <= count:
        raise OSError(errno.EDOM, f"the index must be 0 to {count}", branch.path)
    if os.path.isdir(branch.path) and find_branch(union, branch.path) is not None:
        return False
    # By AUFS' rule an appended branch is ro by default wherever it lands, a prepended one rw.
    default_index = 1 if index is None else position
    next_id = max(existing.id for existing in union.branches) + 1
    opened = open_branch(branch, index=default_index, id=next_id, union_read_only=options.read_only)
    try:
        if options.whiteout == "overlay":
            opened = _with_overlay(opened)
        branches = [*union.branches[:position], opened, *union.branches[position:]]
        _check_all(branches, overlap_ok=False)
        prepare(opened, options, union.locks)
    except BaseException:
        opened.close()
        raise
    union.set_branches(branches)
    recover_plinks(union)
    return True


def delete(union: Union, path: str, holders: Sequence[tuple[int, str]]) -> bool:
    """Remove a branch; False if the directory is none. EBUSY if something holds it or it is the last one."""
    branch = find_branch(union, path)
    if branch is None:
        return False
    if len(union.branches) == 1:
        raise OSError(errno.EBUSY, "the branch is busy: it is the last one", path)
    if holders:
        pid, name = holders[0]
        more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
        raise OSError(errno.EBUSY, f"the branch is busy: {name} (pid {pid}){more}", path)
    union.set_branches([candidate for candidate in union.branches if candidate is not branch])
    union.drop_bookkeeping(branch)
    union.locks.drop(branch)
    branch.close()
    recover_plinks(union)  # those that no flush could take away were the deleted branch's, too
    return True


def _check_writers(union: Union, branch: OpenBranch) -> None:
    """EBUSY while files on the branch are open for writing past us (passthrough): such writers cannot be stopped."""
    for node in union.nodes:
        if node.branch is branch and is_pinned(node):
            name = os.fsdecode(node.path())
            raise OSError(errno.EBUSY, f"the branch is busy: {name} is open for writing", branch.path)


def modify(union: Union, path: str, text: str, options: Options) -> bool:
    """Change permission and attributes; False if the directory is no branch. EINVAL if it cannot be rw."""
    branch = find_branch(union, path)
    if branch is None:
        return False
    permission, attributes = parse_permission(text)
    changed = branch.with_permission(permission, attributes)
    if options.whiteout == "overlay":
        changed = _with_overlay(changed)
    if changed.writable and not branch.writable:
        prepare(changed, options, union.locks)
    if branch.writable and not changed.writable:
        _check_writers(union, branch)
    union.set_branches([changed if candidate is branch else candidate for candidate in union.branches])
    if branch.writable and not changed.writable:
        union.drop_bookkeeping(branch)
        for failure in whiteout.remove_bookkeeping(branch):
            log.warning("%s: cannot remove bookkeeping: %s", branch.path, failure.strerror)
        union.locks.drop(branch)
    recover_plinks(union)
    return True
