# SPDX-License-Identifier: Apache-2.0
"""Move a file from its top branch to the next lower writable one (AUFS' mvdown)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.copydata import CopyJob, open_unseen
from unionfs.branches.metadata import copy_metadata, restore_times
from unionfs.kernel.syscalls import LIST_DIRECTORY
from unionfs.operations.copyup import CopyUps
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

Place = tuple[int, bytes]  # a directory and a name in it


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
    try:
        _move(union, copyups, node, parent, names[-1], source, target, keep=keep)
    finally:
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
        status = whiteout.exists(fd, name)
        if status is not None:
            if branch is target:
                hidden = branch.overlay and whiteout.is_overlay_whiteout(fd, name, status)
                if not overwrite and not hidden:
                    raise OSError(errno.EEXIST, f"{branch.path} has it already", os.fsdecode(name))
            else:
                raise OSError(errno.EINVAL, f"an entry on {branch.path} is in between", os.fsdecode(name))


def _move(
    union: Union, copyups: CopyUps, node: Node, parent: Node, name: bytes,
    source: OpenBranch, target: OpenBranch, *, keep: bool,
) -> None:  # fmt: skip
    """Copy the file down, see that the copy is on the disk, then let the original go; an error undoes all of it."""
    fd = copyups.directory_on(parent, target)
    copyups.complete(node, here=True)
    opened = union.open_path(node)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, opened)
        job = _copy(union, node, parent, name, opened, target, fd, marked=source.overlay)
        stack.callback(job.close)
        with contextlib.ExitStack() as undo:
            before = os.fstat(fd)
            undo.callback(restore_times, fd, before)
            replaced = _publish(union, job, target, fd, name, undo)
            restore_times(fd, before)
            if union.options.fsync and not target.in_memory:
                _sync(union, parent, target, job.fd)
            former = None if keep else _set_aside(union, parent, name, source, undo)
            undo.pop_all()
        if not keep:
            node.branch, node.identity = target, union.identity_of(os.fstat(job.fd))
        for left in filter(None, (replaced, former)):
            leftovers.discard(*left)


def _copy(
    union: Union, node: Node, parent: Node, name: bytes, opened: int, target: OpenBranch, fd: int,
    *, marked: bool,
) -> CopyJob:  # fmt: skip
    """Copy the file behind `opened`, with all its attributes, into a stage for the directory `fd` of `target`.

    `marked`: it may have overlayfs' marks, which stay behind.
    """
    status = os.fstat(opened)
    staging = union.stage_dir(target, fd)
    job = CopyJob.create(
        open_unseen(opened), staging, name, status.st_size, whole=True, target=target,
        source_id=node.identity, write_back=None,
    )  # fmt: skip
    try:
        job.run()
        if job.error is not None:
            raise job.error
        copy_metadata(opened, job.fd, status, target, marked=marked)
        union.numbers.record(node.ino, job.fd, parent, target, fd)
    except BaseException:
        job.close()
        raise
    return job


def _publish(
    union: Union, job: CopyJob, target: OpenBranch, fd: int, name: bytes, undo: contextlib.ExitStack
) -> Place | None:
    """Give the copy its name, in place of a file or whiteout there; return where the file that it replaced is kept."""
    replaced = None
    if whiteout.exists(fd, name) is None:
        job.link(fd, name)
        undo.callback(os.unlink, name, dir_fd=fd)
    else:
        replaced = union.stage_dir(target, fd), stage.stage_name(name)
        os.link(name, replaced[1], src_dir_fd=fd, dst_dir_fd=replaced[0], follow_symlinks=False)
        undo.callback(leftovers.discard, *replaced)  # rename(2) leaves two links of one file alone
        undo.callback(os.rename, replaced[1], name, src_dir_fd=replaced[0], dst_dir_fd=fd)
        job.replace(fd, name)
    if whiteout.remove(target, fd, name, union.options.whiteout):
        undo.callback(whiteout.make, target, fd, name, union.options.whiteout)
    return replaced


def _set_aside(
    union: Union, parent: Node, name: bytes, source: OpenBranch, undo: contextlib.ExitStack
) -> Place:
    """Move the original out of sight, and keep its directory's times, as the union shows the same; return where it is."""
    upper = union.fd_on(parent, source)
    assert upper is not None
    status = os.fstat(upper)
    staging, staged = union.stage_dir(source, upper), stage.stage_name(name)
    os.rename(name, staged, src_dir_fd=upper, dst_dir_fd=staging)
    undo.callback(restore_times, upper, status)
    undo.callback(os.rename, staged, name, src_dir_fd=staging, dst_dir_fd=upper)
    restore_times(upper, status)
    return staging, staged


def _sync(union: Union, parent: Node, target: OpenBranch, copy: int) -> None:
    """Bring a new file to the disk with all names on its path, some of which may be new: else a crash may lose both copies."""
    os.fsync(copy)
    directory: Node | None = parent
    while directory is not None:
        fd = os.open(".", LIST_DIRECTORY, dir_fd=union.fd_on(directory, target))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        directory = directory.parent
