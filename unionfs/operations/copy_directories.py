# SPDX-License-Identifier: Apache-2.0
"""Copy a directory itself, without what is in it, to another branch; parents that are missing there are made first.

It is staged with owner, mode, xattrs and times, opened, and published by one rename, after which nothing can fail.
"""

from __future__ import annotations

import os

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.metadata import copy_metadata, try_to_restore_times
from unionfs.kernel import syscalls
from unionfs.kernel.syscalls import LIST_DIRECTORY, PATH_DIRECTORY
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union


class DirectoryCopies:
    """Copies directories of one union."""

    def __init__(self, union: Union) -> None:
        self._union = union

    def on(self, node: Node, branch: OpenBranch) -> int:
        """Return the descriptor of a directory on `branch`, made there (with its parents, children not) if missing."""
        union = self._union
        chain = []
        current = node
        fd = union.fd_on(current, branch)
        while fd is None:
            chain.append(current)
            assert current.parent is not None
            current = current.parent
            fd = union.fd_on(current, branch)
        for directory in reversed(chain):
            with union.root_kept(branch.root):
                fd = self._copy(directory, branch, fd)
            union.times_moved(directory, directory.parent or union.root)
        return fd

    def _copy(self, node: Node, branch: OpenBranch, parent_fd: int) -> int:
        union = self._union
        assert node.parent is not None
        source = union.dirs(node)[0]
        up = union.index(branch) < union.index(source[0])
        status = os.fstat(source[1])
        parent_status = os.fstat(parent_fd)
        hidden = whiteout.is_whited_out(branch, parent_fd, node.name)
        staging = union.stage_dir(branch, parent_fd)
        name = stage.stage_name(node.name)
        os.mkdir(name, 0o700, dir_fd=staging)
        result = -1
        protected = 0
        try:
            fd = os.open(name, LIST_DIRECTORY, dir_fd=staging)
            try:
                copy_metadata(source[1], fd, status, branch, times=up, marked=source[0].overlay)
                if up:
                    protected = protection.mark_copy(union, node, fd)
                    union.numbers.record(node.ino, fd, node.parent, branch, parent_fd)
                if hidden:
                    whiteout.make_opaque(branch, fd, union.options.whiteout)
            finally:
                os.close(fd)
            result = os.open(name, PATH_DIRECTORY, dir_fd=staging)
            identity = union.identity_of(os.fstat(result))
            self._publish(staging, name, parent_fd, node.name, hidden=hidden)
        except BaseException:
            if result >= 0:
                os.close(result)
            leftovers.discard(staging, name)
            raise
        union.directories.add_layer(node, branch, result, identity)
        if up:
            node.protected = protected
        try_to_restore_times(parent_fd, parent_status)
        return result

    def _publish(self, staging: int, staged: bytes, parent_fd: int, name: bytes, *, hidden: bool) -> None:
        """Publish a staged directory; it replaces overlayfs' whiteout, or is beside AUFS' until that is removed."""
        if hidden and whiteout.exists(parent_fd, name) is not None:
            syscalls.exchange(staged, name, staging, parent_fd)
            leftovers.discard(staging, staged)
            return
        os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=parent_fd)
        if hidden:
            leftovers.discard_whiteout(parent_fd, name)


def stage_like(
    union: Union, dirfd: int, name: bytes, branch: OpenBranch, *, opaque: bool
) -> tuple[int, bytes]:
    """Make an empty directory like `name`, times included, out of sight; return where it is. `opaque`: with overlayfs' mark."""
    source = os.open(name, LIST_DIRECTORY, dir_fd=dirfd)
    try:
        staging, staged = union.stage_dir(branch, dirfd), stage.stage_name(name)
        os.mkdir(staged, 0o700, dir_fd=staging)
        try:
            fd = os.open(staged, LIST_DIRECTORY, dir_fd=staging)
            try:
                copy_metadata(source, fd, os.fstat(source), branch)
                if opaque:
                    whiteout.make_opaque(branch, fd, "overlay")
            finally:
                os.close(fd)
        except BaseException:
            leftovers.discard(staging, staged)
            raise
    finally:
        os.close(source)
    return staging, staged
