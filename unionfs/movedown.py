# SPDX-License-Identifier: Apache-2.0
"""Move a file from its top branch to the next lower writable one (AUFS' mvdown)."""

from __future__ import annotations

import errno
import os
import stat

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.copydata import CopyJob
from unionfs.copyup import CopyUps
from unionfs.metadata import copy_metadata
from unionfs.nodes import Node
from unionfs.union import Union


def move_down(
    union: Union, copyups: CopyUps, path: bytes, *, overwrite: bool = False, keep: bool = False
) -> str:
    """Move the regular file at `path` (from the union's root) down and return the branch it went to.

    EISDIR, EINVAL (not regular, already at the bottom, an opaque parent, a whiteout or another entry between), EBUSY (open,
    hard-linked or pseudo-linked), EEXIST (the lower branch has it and `overwrite` is not given).
    """
    names = [part for part in path.split(b"/") if part]
    parent = union.root
    for name in names[:-1]:
        parent = union.lookup(parent, name).node
    if not names or not parent.is_directory:
        raise OSError(errno.EISDIR, "only regular files can be moved down", os.fsdecode(path))
    node = union.lookup(parent, names[-1]).node
    source = _check(union, node, os.fsdecode(path))
    target = _next_lower(union, source, os.fsdecode(path))
    _check_between(union, parent, names[-1], source, target, overwrite=overwrite)
    _move(union, copyups, node, parent, names[-1], source, target, keep=keep)
    union.nodes.release(node)
    return target.path


def _check(union: Union, node: Node, path: str) -> OpenBranch:
    if node.is_directory:
        raise OSError(errno.EISDIR, "only regular files can be moved down", path)
    if not stat.S_ISREG(node.kind):
        raise OSError(errno.EINVAL, "only regular files can be moved down", path)
    status = union.status(node)
    if node.handles:
        raise OSError(errno.EBUSY, "the file is open", path)
    if status.st_nlink > 1 or node.ino in union.plinks:
        raise OSError(errno.EBUSY, "the file has several hard links", path)
    assert node.branch is not None
    if not node.branch.writable:
        raise OSError(errno.EROFS, "the file is on a read-only branch", path)
    return node.branch


def _next_lower(union: Union, source: OpenBranch, path: str) -> OpenBranch:
    for branch in union.branches[union.index(source) + 1 :]:
        if branch.writable:
            return branch
    raise OSError(errno.EINVAL, "there is no lower writable branch", path)


def _check_between(
    union: Union, parent: Node, name: bytes, source: OpenBranch, target: OpenBranch, *, overwrite: bool
) -> None:
    """Refuse where the moved file would be hidden or would change what another entry means."""
    top, bottom = union.index(source), union.index(target)
    ancestor: Node | None = parent
    while ancestor is not None:
        for branch, fd in union.dirs(ancestor):
            if top <= union.index(branch) < bottom and branch.marks and whiteout.is_opaque(branch, fd):
                raise OSError(
                    errno.EINVAL, f"an opaque directory on {branch.path} would hide it", os.fsdecode(name)
                )
        ancestor = ancestor.parent
    for branch, fd in union.dirs(parent):
        if not top < union.index(branch) <= bottom:
            continue
        if branch is not target and branch.marks and whiteout.is_whited_out(branch, fd, name):
            raise OSError(errno.EINVAL, f"a whiteout on {branch.path} would hide it", os.fsdecode(name))
        if whiteout.exists(fd, name) is not None:
            if branch is target:
                if not overwrite:
                    raise OSError(errno.EEXIST, f"{branch.path} has it already", os.fsdecode(name))
            else:
                raise OSError(errno.EINVAL, f"an entry on {branch.path} is in between", os.fsdecode(name))


def _move(
    union: Union, copyups: CopyUps, node: Node, parent: Node, name: bytes,
    source: OpenBranch, target: OpenBranch, *, keep: bool,
) -> None:  # fmt: skip
    fd = copyups.directory_on(parent, target)
    copyups.complete(node, here=True)
    opened = union.open_path(node)
    try:
        status = os.fstat(opened)
        data = os.open(whiteout.proc_path(opened), os.O_RDONLY | os.O_CLOEXEC)
        job = CopyJob.create(
            data, union.stage_dir(target, fd), name, status.st_size, whole=True, target=target,
            source_id=node.identity, write_back=os.fdatasync if union.options.fsync else None,
        )  # fmt: skip
        try:
            job.run()
            if job.error is not None:
                raise job.error
            copy_metadata(opened, job.fd, status, target, marked=source.overlay)
            union.numbers.record(node.ino, job.fd, parent, target, fd)
            job.replace(fd, name)
            whiteout.remove(target, fd, name, union.options.whiteout)
            if not keep:
                upper = union.fd_on(parent, source)
                assert upper is not None
                os.unlink(name, dir_fd=upper)
                moved = os.stat(name, dir_fd=fd, follow_symlinks=False)
                node.branch, node.identity = target, union.identity_of(moved)
        finally:
            job.close()
    finally:
        os.close(opened)
