# SPDX-License-Identifier: Apache-2.0
"""Change a node's attributes and extended attributes: copy up, then apply to the visible copy."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from unionfs.branches import whiteout
from unionfs.kernel import syscalls
from unionfs.operations.copyup import CopyUps
from unionfs.tree import protection
from unionfs.tree.nodes import NO_CAPABILITIES, NO_XATTRS, SOME_XATTRS, UNKNOWN, Attributes, Node
from unionfs.tree.open_files import OpenFile
from unionfs.tree.union import Union

T = TypeVar("T")

_CAPABILITY = "security.capability"
_SET_ID = stat.S_ISUID | stat.S_ISGID


class Changes(NamedTuple):
    """What setattr is to change; None means keep. Times are nanoseconds since the epoch."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    touch: bool = False  # both times become the present one, which an append-only file allows
    strip: bool = False  # clear what an ordinary write clears: set-id bits and file capabilities

    @property
    def is_of_owner(self) -> bool:
        """Tell whether nothing but owner or group changes, beside what an ordinary write clears."""
        chown = self.uid is not None or self.gid is not None
        return chown and self == Changes(uid=self.uid, gid=self.gid, strip=self.strip)


class AttributeChanger:
    """Changes attributes in one union."""

    def __init__(self, union: Union, copyups: CopyUps) -> None:
        self._union = union
        self._copyups = copyups

    def change(self, node: Node, changes: Changes, handle: OpenFile | None = None) -> Attributes:
        """Apply `changes` and return the new attributes; a truncation copies up only what survives it.

        The copy of a lower file is published with the changes: one step, which happens or does not.
        """
        made = self._copyups.ensure(
            node,
            length=changes.size,
            finish=lambda fd: self._apply_to_stage(fd, changes),
            allow=protection.APPEND if changes.touch else 0,
        )
        if made is not None:
            return self.of_copy(node, made)
        return self._change_in_place(node, changes, handle)

    def open_truncated(self, node: Node, flags: int, *, strip: bool) -> int:
        """Truncate a file and return a descriptor of it; where it cannot be opened it is not truncated either.

        `flags` are for the branch file. `strip`: clear what an ordinary write clears.
        """
        opened = -1

        def truncate_stage(fd: int) -> None:
            nonlocal opened
            opened = os.open(whiteout.proc_path(fd), flags)
            self._apply_to_stage(fd, Changes(size=0, strip=strip))

        try:
            self._copyups.ensure(node, length=0, finish=truncate_stage)
        except BaseException:
            if opened >= 0:
                os.close(opened)
            raise
        return opened if opened >= 0 else self._open_truncated_in_place(node, flags, strip=strip)

    def _open_truncated_in_place(self, node: Node, flags: int, *, strip: bool) -> int:
        path = self._union.open_path(node)
        try:
            fd = os.open(whiteout.proc_path(path), flags)
            try:
                if strip:
                    self.strip_set_id(node)
                # By path where the caller opens for reading only.
                os.truncate(fd if flags & os.O_ACCMODE else whiteout.proc_path(path), 0)
            except BaseException:
                os.close(fd)
                raise
        finally:
            os.close(path)
        return fd

    def of_copy(self, node: Node, made: os.stat_result) -> Attributes:
        """Return the attributes of a copy that has just been published, with the stat that it had before (`CopyUps.ensure`)."""
        try:
            return self._union.attributes(node)
        except OSError:
            return self._union.attributes_now(node, made)

    def _change_in_place(self, node: Node, changes: Changes, handle: OpenFile | None) -> Attributes:
        if handle is None and node.handles and self._union.trust:
            # Whoever unpacks an archive still has the file open, and its descriptor saves opening another one.
            handle = next((other for other in node.handles if other.writes), None)
        # The kernel does that at a chown by itself. Before the change, after which nothing may fail.
        strips = changes.strip and changes.uid is None and changes.gid is None
        if handle is not None and handle.writes:
            if strips:
                self._strip_if_any(node, handle.fd)
            self._apply(handle.fd, changes)
            return self._union.attributes_now(node, os.fstat(handle.fd))
        if changes.is_of_owner and self._union.is_surely_home(node):
            # The name is as good as a descriptor, and saves opening one.
            fd, name = self._union.home(node)
            os.chown(name, _or_keep(changes.uid), _or_keep(changes.gid), dir_fd=fd, follow_symlinks=False)
            return self._union.attributes_now(node, os.stat(name, dir_fd=fd, follow_symlinks=False))
        fd = self._union.open_path(node)
        try:
            if strips:
                self._strip_if_any(node, fd)
            self._apply(whiteout.proc_path(fd), changes)
            return self._union.attributes_now(node, os.fstat(fd))
        finally:
            os.close(fd)

    def _apply_to_stage(self, fd: int, changes: Changes) -> None:
        if changes.strip:
            self.strip_copy(fd)
        self._apply(fd, changes)

    def _apply(self, place: int | bytes, changes: Changes) -> None:
        """Change what is at a path that follows no link, or behind a writer's descriptor, which is of the visible copy."""
        if changes.size is not None:
            os.truncate(place, changes.size)
        if changes.uid is not None or changes.gid is not None:
            os.chown(place, _or_keep(changes.uid), _or_keep(changes.gid))
        if changes.mode is not None:
            os.chmod(place, stat.S_IMODE(changes.mode))
        if changes.touch:
            os.utime(place)
        atime, mtime = changes.atime_ns, changes.mtime_ns
        if atime is not None or mtime is not None:
            if atime is None or mtime is None:
                status = os.stat(place)
                atime = status.st_atime_ns if atime is None else atime
                mtime = status.st_mtime_ns if mtime is None else mtime
            os.utime(place, ns=(atime, mtime))

    def strip_set_id(self, node: Node, status: os.stat_result | None = None) -> bool:
        """Clear set-user-ID, on group-executable files set-group-ID, and file capabilities: what an ordinary write does.

        `status` is what the visible copy's is now, if that is known. Returns whether there may have been any.
        """
        self._copyups.ensure(node)
        if node.bare in (NO_CAPABILITIES, NO_XATTRS):
            status = status or self._union.status(node)
            if not status.st_mode & _SET_ID:
                return False
        fd = self._union.open_path(node)
        try:
            self.strip_copy(fd)
        finally:
            os.close(fd)
        return True

    def _strip_if_any(self, node: Node, fd: int) -> None:
        """Do the same to the visible copy behind a descriptor, which is on a writable branch."""
        if node.bare not in (NO_CAPABILITIES, NO_XATTRS) or os.fstat(fd).st_mode & _SET_ID:
            self.strip_copy(fd)

    def strip_copy(self, fd: int) -> None:
        """Do the same to the copy behind a descriptor, which may be O_PATH."""
        mode = os.fstat(fd).st_mode
        if mode & _SET_ID:
            clear = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
            os.chmod(whiteout.proc_path(fd), stat.S_IMODE(mode) & ~clear)
        with contextlib.suppress(OSError):
            os.removexattr(whiteout.proc_path(fd), "security.capability")

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
        return self._get(node, self._name(name, errno.ENODATA))

    def _get(self, node: Node, name: str) -> bytes:
        bare = node.traits.bare
        if bare and (bare == NO_XATTRS or (bare == NO_CAPABILITIES and name == _CAPABILITY)):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        if bare != SOME_XATTRS and self._union.trust:
            # Most files have none, yet are asked for one after the other: by ls, by cp, by the kernel before a write.
            node.bare = bare = SOME_XATTRS if self._has_xattrs(node) else NO_XATTRS
            if bare == NO_XATTRS:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return self._on_copy(node, lambda path, follow: os.getxattr(path, name, follow_symlinks=follow))

    def _has_xattrs(self, node: Node) -> bool:
        """Tell whether a file has extended attributes, be they only the union's own."""
        try:
            if node.is_directory:
                return syscalls.has_xattrs(self._union.shown_fd(node), b".")
            if not node.removed:
                return syscalls.has_xattrs(*self._union.home(node))
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
        return bool(self._on_copy(node, lambda path, follow: os.listxattr(path, follow_symlinks=follow)))

    def list_xattrs(self, node: Node) -> list[str]:
        """Return the attribute names of the visible copy, without the union's own; escaped ones as they were set."""
        names = self._on_copy(node, lambda path, follow: os.listxattr(path, follow_symlinks=follow))
        overlay = self._overlay
        return [
            whiteout.unescaped_xattr(name) if overlay else name
            for name in names
            if not whiteout.is_private_xattr(name, overlay=overlay)
            and (self._union.options.acl or not name.startswith("system.posix_acl_"))
        ]

    def set_xattr(self, node: Node, name: str, value: bytes, flags: int = 0) -> None:
        """Copy up and set an attribute; `flags` are XATTR_CREATE and XATTR_REPLACE (EEXIST, ENODATA).

        EPERM for those of the union itself, EOPNOTSUPP for ACLs without the option `acl`.
        """
        name = self._name(name, errno.EPERM)
        self._copyups.ensure(node)
        node.bare = UNKNOWN
        self._on_copy(
            node, lambda path, follow: os.setxattr(path, name, value, flags, follow_symlinks=follow)
        )

    def remove_xattr(self, node: Node, name: str) -> None:
        """Copy up and remove an attribute; ENODATA (before any copy-up) if the visible copy has none."""
        name = self._name(name, errno.ENODATA)
        self._get(node, name)
        self._copyups.ensure(node)
        self._on_copy(node, lambda path, follow: os.removexattr(path, name, follow_symlinks=follow))

    @property
    def _overlay(self) -> bool:
        return any(branch.overlay for branch in self._union.branches)

    def _name(self, name: str, number: int) -> str:
        """Return the name of an attribute on branches; `number` is the error for those that are the union's own."""
        overlay = self._overlay
        if overlay:
            name = whiteout.escaped_xattr(name)
        if whiteout.is_private_xattr(name, overlay=overlay):
            raise OSError(number, os.strerror(number))
        if name.startswith("system.posix_acl_") and not self._union.options.acl:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return name

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
