# SPDX-License-Identifier: Apache-2.0
"""Change a node's attributes and extended attributes: copy up, then apply to the visible copy."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from unionfs import whiteout
from unionfs.copyup import CopyUps
from unionfs.handles import FileHandle
from unionfs.nodes import Attributes, Node
from unionfs.union import Union

T = TypeVar("T")

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Changes(NamedTuple):
    """What setattr is to change; None means keep. Times are nanoseconds since the epoch."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class AttributeChanger:
    """Changes attributes in one union."""

    def __init__(self, union: Union, copyups: CopyUps) -> None:
        self._union = union
        self._copyups = copyups

    def change(self, node: Node, changes: Changes, handle: FileHandle | None = None) -> Attributes:
        """Apply `changes` and return the new attributes; a truncation copies up only what survives it."""
        self._copyups.ensure(node, length=changes.size)
        fd = self._union.open_path(node)
        try:
            path = whiteout.proc_path(fd)
            if changes.size is not None:
                self._truncate(node, path, changes.size, handle)
            if changes.uid is not None or changes.gid is not None:
                os.chown(path, _or_keep(changes.uid), _or_keep(changes.gid))
            if changes.mode is not None:
                os.chmod(path, stat.S_IMODE(changes.mode))
            if changes.atime_ns is not None or changes.mtime_ns is not None:
                status = os.fstat(fd)
                atime = status.st_atime_ns if changes.atime_ns is None else changes.atime_ns
                mtime = status.st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns
                os.utime(path, ns=(atime, mtime))
        finally:
            os.close(fd)
        return self._union.attributes(node)

    def _truncate(self, node: Node, path: bytes, size: int, handle: FileHandle | None) -> None:
        if handle is not None and handle.writes:
            os.ftruncate(handle.fd, size)
        else:
            os.truncate(path, size)

    def strip_set_id(self, node: Node) -> None:
        """Clear set-user-ID, on group-executable files set-group-ID, and file capabilities: what an ordinary write does."""
        self._copyups.ensure(node)
        fd = self._union.open_path(node)
        try:
            mode = os.fstat(fd).st_mode
            if mode & _SET_ID:
                clear = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
                os.chmod(whiteout.proc_path(fd), stat.S_IMODE(mode) & ~clear)
            with contextlib.suppress(OSError):
                os.removexattr(whiteout.proc_path(fd), "security.capability")
        finally:
            os.close(fd)

    def strip_set_gid(self, node: Node) -> None:
        """Clear set-group-ID, as setting an ACL does for a caller who is not in the file's group."""
        fd = self._union.open_path(node)
        try:
            os.chmod(whiteout.proc_path(fd), stat.S_IMODE(os.fstat(fd).st_mode) & ~stat.S_ISGID)
        finally:
            os.close(fd)

    # -- extended attributes ------------------------------------------------------------------------------------

    def get_xattr(self, node: Node, name: str) -> bytes:
        """Return an extended attribute of the visible copy; ENODATA for those of the union itself."""
        self._refuse(name, errno.ENODATA)
        if node.bare is None and self._union.options.udba == "none" and not node.is_directory:
            # Most files have none, yet are asked for one after the other: by ls, by cp, by the kernel before a write.
            node.bare = not self._on_copy(
                node, lambda path, follow: os.listxattr(path, follow_symlinks=follow)
            )
        if node.bare:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return self._on_copy(node, lambda path, follow: os.getxattr(path, name, follow_symlinks=follow))

    def list_xattrs(self, node: Node) -> list[str]:
        """Return the attribute names of the visible copy, without the union's own."""
        names = self._on_copy(node, lambda path, follow: os.listxattr(path, follow_symlinks=follow))
        overlay = self._overlay
        return [
            name
            for name in names
            if not whiteout.is_private_xattr(name, overlay=overlay)
            and (self._union.options.acl or not name.startswith("system.posix_acl_"))
        ]

    def set_xattr(self, node: Node, name: str, value: bytes, flags: int = 0) -> None:
        """Copy up and set an attribute; `flags` are XATTR_CREATE and XATTR_REPLACE."""
        self._refuse(name, errno.EPERM)
        self._copyups.ensure(node)
        node.bare = None
        self._on_copy(
            node, lambda path, follow: os.setxattr(path, name, value, flags, follow_symlinks=follow)
        )

    def remove_xattr(self, node: Node, name: str) -> None:
        """Copy up and remove an attribute; ENODATA (before any copy-up) if the visible copy has none."""
        self._refuse(name, errno.ENODATA)
        self.get_xattr(node, name)
        self._copyups.ensure(node)
        self._on_copy(node, lambda path, follow: os.removexattr(path, name, follow_symlinks=follow))

    @property
    def _overlay(self) -> bool:
        return any(branch.overlay for branch in self._union.branches)

    def _refuse(self, name: str, number: int) -> None:
        if whiteout.is_private_xattr(name, overlay=self._overlay):
            raise OSError(number, os.strerror(number))
        if name.startswith("system.posix_acl_") and not self._union.options.acl:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _on_copy(self, node: Node, call: Callable[[bytes, bool], T]) -> T:
        """Run an xattr call on the visible copy without ever following a symbolic link (fuse-overlayfs' worst bug)."""
        if node.is_directory or node.removed:
            fd = self._union.open_path(node)
            try:
                return call(whiteout.proc_path(fd), True)
            finally:
                os.close(fd)
        fd, name = self._union.home(node)
        return call(whiteout.proc_path(fd, name), False)


def _or_keep(value: int | None) -> int:
    return -1 if value is None else value
