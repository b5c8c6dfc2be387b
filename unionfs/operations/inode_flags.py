# SPDX-License-Identifier: Apache-2.0
"""Read and change a node's inode flags (lsattr, chattr) and what belongs to them (project, hints), by the kernel's two ioctls.

A change copies up, and is made as a difference: the copy may be on a filesystem of another kind, which has other flags.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from unionfs.branches import whiteout
from unionfs.kernel import syscalls
from unionfs.operations.copyup import CopyUps
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

# struct fsxattr: xflags, extsize, nextents, projid, cowextsize.
_EXTENDED = struct.Struct("=IIIII8x")
_XFLAGS = {protection.IMMUTABLE: 0x8, protection.APPEND: 0x10}
_X_PROTECTED = sum(_XFLAGS.values())


class InodeFlags:
    """The flags of one union's files and directories."""

    def __init__(self, union: Union, copyups: CopyUps) -> None:
        self._union = union
        self._copyups = copyups

    def get(self, node: Node) -> int:
        """Return the flags (FS_IOC_GETFLAGS); ENOTTY where the branch's filesystem has none, and for special files."""
        with self._opened(node) as fd:
            return protection.shown(self._union, node, protection.read_flags(fd))

    def set(self, node: Node, wanted: int) -> None:
        """Copy up and set the flags (FS_IOC_SETFLAGS). The caller's right to it has been checked.

        ENOTTY as of `get`, EPERM for another change of what is and stays immutable, and errors of a copy-up.
        """
        before = self.get(node)
        changed = before ^ wanted
        _check(changed, before & wanted & protection.IMMUTABLE)
        self._copyups.ensure(node, allow=protection.PROTECTED)
        with self._opened(node) as fd:
            protection.change(self._union, node, fd, changed, wanted)

    def get_extended(self, node: Node) -> bytes:
        """Return a struct fsxattr (FS_IOC_FSGETXATTR); errors as for `get`."""
        with self._opened(node) as fd:
            xflags, *rest = _EXTENDED.unpack(_ask(fd))
            held = protection.shown(self._union, node, 0)
        xflags |= sum(bit for flag, bit in _XFLAGS.items() if held & flag)
        return _EXTENDED.pack(xflags, *rest)

    def set_extended(self, node: Node, wanted: bytes) -> None:
        """Copy up and set what a struct fsxattr says (FS_IOC_FSSETXATTR); errors as of `set`."""
        before, after = _EXTENDED.unpack(self.get_extended(node)), _EXTENDED.unpack(wanted[: _EXTENDED.size])
        changed = before[0] ^ after[0]
        _check(changed or before[1:] != after[1:], before[0] & after[0] & _XFLAGS[protection.IMMUTABLE])
        held = sum(flag for flag, bit in _XFLAGS.items() if changed & bit)
        wants = sum(flag for flag, bit in _XFLAGS.items() if after[0] & bit)
        self._copyups.ensure(node, allow=protection.PROTECTED)
        with self._opened(node) as fd:
            # What is immutable takes no other change: that comes after a flag was lifted, and before one is set.
            self._change(node, fd, held & ~wants, wants)
            now = _EXTENDED.unpack(_ask(fd))
            changed &= ~_X_PROTECTED
            fields = [(now[0] & ~changed) | (after[0] & changed)]
            fields += [
                new if new != old else kept
                for kept, old, new in zip(now[1:], before[1:], after[1:], strict=True)
            ]
            if tuple(fields) != now:
                fcntl.ioctl(fd, syscalls.FS_IOC_FSSETXATTR, bytearray(_EXTENDED.pack(*fields)))
            self._change(node, fd, held & wants, wants)

    def _change(self, node: Node, fd: int, changed: int, wanted: int) -> None:
        if changed:
            protection.change(self._union, node, fd, changed, wanted)

    @contextlib.contextmanager
    def _opened(self, node: Node) -> Iterator[int]:
        """Open the visible copy for ioctls."""
        if not (node.is_directory or stat.S_ISREG(node.kind)):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        path = self._union.open_path(node)
        try:
            fd = os.open(whiteout.proc_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(path)
        try:
            yield fd
        finally:
            os.close(fd)


def _check(changed: object, stays: int) -> None:
    """Refuse (EPERM), before anything is copied, other changes of what is and stays immutable, as ext4 does."""
    if changed and stays:
        raise protection.refused()


def _ask(fd: int) -> bytes:
    argument = bytearray(_EXTENDED.size)
    fcntl.ioctl(fd, syscalls.FS_IOC_FSGETXATTR, argument)
    return bytes(argument)
