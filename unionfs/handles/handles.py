# SPDX-License-Identifier: Apache-2.0
"""Open files and directories: what a FUSE handle number stands for.

A handle owns one descriptor on a branch, which work that waits for a thread holds too. After a copy-up the descriptor is
switched in place (`dup2`), so readers that were there before see the new data, as AUFS promises. A handle whose data the kernel
takes from the branch by itself (passthrough) cannot be switched: it keeps the file that it was opened on.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator

from unionfs.branches import whiteout
from unionfs.kernel.descriptor import Descriptor
from unionfs.kernel.reserve import room
from unionfs.listing.readdir import Listing
from unionfs.tree.nodes import Node
from unionfs.tree.open_files import Backing

# What of the caller's flags reaches the branch. O_DIRECT would demand aligned buffers of us; O_APPEND would override the
# offset that the kernel computed; O_SYNC and O_DSYNC are kept, they are the caller's promise of durability.
_KEPT_FLAGS = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC


class FileHandle(Descriptor):
    """An open regular file."""

    __slots__ = ("appends", "backing", "elsewhere", "flags", "node", "number", "pid", "size", "writes")

    def __init__(
        self, node: Node, fd: int, flags: int, pid: int, *, size: int = -1, elsewhere: bool = False
    ) -> None:
        super().__init__(fd)
        self.node = node
        self.flags = flags
        self.pid = pid
        self.writes = flags & os.O_ACCMODE != os.O_RDONLY  # opened for writing
        self.size = size  # when it was opened; -1: not known
        self.elsewhere = elsewhere  # `fd` is of the lower file that has the data of an overlay's metacopy
        self.appends = False  # `fd` is of an append-only file, and does nothing else
        self.number = 0
        self.backing: Backing | None = None

    def reopen(self, source_fd: int) -> int:
        """Open the writable copy behind `source_fd` with the caller's access mode, and return the descriptor."""
        return os.open(whiteout.proc_path(source_fd), branch_flags(self.flags, writable=True))

    def use(self, fd: int) -> None:
        """Point the handle's own descriptor at what `fd` has open."""
        os.dup2(fd, self.fd, inheritable=False)
        self.elsewhere = False

    def close(self) -> None:
        """Close the descriptor, as soon as no work for threads holds it any more."""
        self.drop()


class DirectoryHandle:
    """An open directory with its merged listing."""

    __slots__ = ("descriptors", "listing", "node", "number", "pid")

    def __init__(self, node: Node, listing: Listing, pid: int) -> None:
        self.node = node
        self.descriptors = len(listing.descriptors)  # at most
        self.listing = listing
        self.pid = pid
        self.number = 0

    def close(self) -> None:
        """Close the listing's descriptors."""
        self.listing.close()


def is_pinned(node: Node) -> bool:
    """Tell whether somebody writes past the union to the node's branch (passthrough), so that no other copy can be made.

    Only a file on a writable branch is ever written so. What would still move it: a rename or link whose place on that
    branch is hidden, for which EXDEV makes mv(1) copy.
    """
    return any(handle.backing is not None and handle.writes for handle in node.handles or ())


def is_in_memory(handle: FileHandle) -> bool:
    """Tell whether an open file is on tmpfs: that refuses RWF_NOWAIT (EOPNOTSUPP), and never blocks."""
    branch = handle.node.branch
    return branch is not None and branch.in_memory


def branch_flags(flags: int, *, writable: bool) -> int:
    """Return the flags to open the branch file with; read-only where it may not be written (yet)."""
    kept = flags & _KEPT_FLAGS
    if not writable:
        kept = (kept & ~os.O_ACCMODE) | os.O_RDONLY
    return kept | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


Handle = FileHandle | DirectoryHandle


def write_all(fd: int, data: memoryview, offset: int) -> int:
    """Write all of `data`, unless the branch runs full; return how much was written."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        try:
            count = os.pwrite(fd, data[written:], offset + written)
        except OSError:
            break  # report the short count now; the next write gets the error
        if count == 0:
            break
        written += count
    return written


class HandleTable:
    """Handles by number; numbers are never reused within a mount."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def __getitem__(self, number: int) -> Handle:
        """Return a handle; EBADF for a number that stands for none (any more)."""
        handle = self._handles.get(number)
        if handle is None:
            raise _bad_number()
        return handle

    def file(self, number: int) -> FileHandle:
        """Return an open file; EBADF for any other number."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle):
            raise _bad_number()
        return handle

    def add(self, handle: Handle) -> int:
        """Enter a handle and return its number."""
        room.held += 1 if isinstance(handle, FileHandle) else handle.descriptors
        handle.number = next(self._numbers)
        self._handles[handle.number] = handle
        return handle.number

    def pop(self, number: int) -> Handle:
        """Take a handle out of the table; EBADF as above."""
        handle = self._handles.pop(number, None)
        if handle is None:
            raise _bad_number()
        room.held -= 1 if isinstance(handle, FileHandle) else handle.descriptors
        return handle

    def close(self) -> None:
        """Close every handle."""
        for number in list(self._handles):
            self.pop(number).close()


def _bad_number() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))
