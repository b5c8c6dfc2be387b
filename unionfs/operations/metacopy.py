# SPDX-License-Identifier: Apache-2.0
"""Bring the data of a metacopy into the file itself: what overlayfs calls copying up its data.

Only on a writable branch that a kernel's overlay had as its upper one. The mark goes last, after the data is on the disk, so
a kill in between leaves a file whose data is still taken from below.
"""

from __future__ import annotations

import contextlib
import errno
import os

from unionfs.branches import whiteout
from unionfs.branches.copydata import CopyJob
from unionfs.branches.redirects import is_metacopy
from unionfs.kernel.durability import WriteBack
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

_MARKS = ("trusted.overlay.metacopy", "trusted.overlay.redirect")
_CAPABILITY = "security.capability"


class Completion(CopyJob):
    """Data on its way into the file that lacks it."""

    def __init__(self, source_fd: int, fd: int, write_back: WriteBack | None) -> None:
        self._before = os.fstat(fd)
        self._capability = os.getxattr(fd, _CAPABILITY) if _CAPABILITY in os.listxattr(fd) else None
        size = self._before.st_size
        super().__init__(source_fd, fd, -1, b"", size, whole=os.fstat(source_fd).st_size == size)
        self.write_back = write_back

    def finish(self) -> None:
        """After the data has come: give the file what writing took from it, and take its marks off."""
        if self.error is not None:
            raise self.error
        if self._capability is not None:
            os.setxattr(self.fd, _CAPABILITY, self._capability)
        _drop_marks(self.fd)
        os.utime(self.fd, ns=(self._before.st_atime_ns, self._before.st_mtime_ns))


def begin(union: Union, node: Node, write_back: WriteBack | None) -> Completion | None:
    """Return the job that fetches the data of a node's visible copy, None if the copy has its own; errors as of `is_metacopy`."""
    path = union.open_path(node)
    try:
        place = whiteout.proc_path(path)
        marks = whiteout.marks_among(os.listxattr(place))
        assert node.branch is not None
        if not marks or not is_metacopy(marks, place, node.name, node.branch):
            return None
        return _job(union, node, place, marks, write_back)
    finally:
        os.close(path)


def _job(
    union: Union, node: Node, place: bytes, marks: tuple[str, ...], write_back: WriteBack | None
) -> Completion:
    data = union.open_data(node, marks, place)
    with contextlib.ExitStack() as opened:
        try:
            source = os.open(whiteout.proc_path(data), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(data)
        opened.callback(os.close, source)
        target = os.open(place, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        opened.callback(os.close, target)
        job = Completion(source, target, write_back)
        opened.pop_all()
    return job


def empty(union: Union, node: Node) -> None:
    """Do the same for a file that is about to be truncated to nothing."""
    path = union.open_path(node)
    try:
        place = whiteout.proc_path(path)
        if whiteout.marks_among(os.listxattr(place)):
            os.truncate(place, 0)
            _drop_marks(place)
    finally:
        os.close(path)


def _drop_marks(place: int | bytes) -> None:
    """Take the marks of a metacopy off a file."""
    for mark in _MARKS:
        try:
            os.removexattr(place, mark)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
