# SPDX-License-Identifier: Apache-2.0
"""Small files of branches that are not writable: the kernel gets their data before the answer to the first OPEN.

Such a file does not pass through. It is read from the page cache of the mount, which is filled by a notification, so that no
READ is asked for, and no GETATTR afterwards either: after a READ and after a read that passed through, the kernel does not
know the access time any more, and asks at the next stat. The next opens find the pages there. The price is that the data is
in memory twice, hence the limit.

Only with `udba=none`: a change behind the mount's back would not show. Only if the page cache has the data (the loop waits for
no disk), and only while the file is open once: the notification waits for pages that are being read.
"""

from __future__ import annotations

import errno
import os

from unionfs.filesystem import UnionFilesystem
from unionfs.handles.handles import FileHandle, is_in_memory
from unionfs.session import abi
from unionfs.tree.nodes import Node

LIMIT = 32 << 10  # bytes
_REMEMBERED = 1 << 14


class SmallFiles:
    """What the kernel's page cache was given of one mount's small files."""

    def __init__(self, filesystem: UnionFilesystem, device_fd: int) -> None:
        self._filesystem = filesystem
        self._device = device_fd
        self._given: dict[int, int] = {}  # nodeid -> the file's identity
        self._buffer = bytearray(abi.STORE_OUT.size + LIMIT)

    def give(self, handle: FileHandle) -> bool:
        """Have the kernel hold all data of a file just opened to read; False if the file is not for us.

        Then it is not (no longer) given, passes through already, or its data would have to come from a disk.
        """
        node = handle.node
        if (
            self._filesystem.options.udba != "none"
            or not 0 < handle.size <= LIMIT
            or handle.flags & os.O_DIRECT
        ):
            return False
        if node.backing is not None:
            return False
        if self._given.get(node.nodeid) == node.identity:
            return True
        if len(node.handles or ()) > 1 or not self._store(handle, node):
            return False
        if len(self._given) >= _REMEMBERED:
            self._given.clear()
        self._given[node.nodeid] = node.identity
        return True

    def lost(self, nodeid: int) -> None:
        """The kernel asks for data that it had: it gave the memory to somebody else, or has a new inode."""
        self._given.pop(nodeid, None)

    def forget(self) -> None:
        """Trust in nothing that was given: branches changed, or the kernel forgot files."""
        self._given.clear()

    def _store(self, handle: FileHandle, node: Node) -> bool:
        """Put a whole file into the kernel's page cache; False if that could block."""
        start = abi.STORE_OUT.size
        message = memoryview(self._buffer)[: start + handle.size]
        if self._read(handle, message[start:]) != handle.size:
            return False
        abi.STORE_OUT.pack_into(message, 0, len(message), abi.NOTIFY_STORE, 0, node.nodeid, 0, handle.size, 0)
        try:
            return os.write(self._device, message) == len(message)
        except OSError:
            return False  # the mount goes away, or there is no memory

    def _read(self, handle: FileHandle, view: memoryview) -> int:
        try:
            return os.preadv(handle.fd, (view,), 0, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and is_in_memory(handle):
                return os.preadv(handle.fd, (view,), 0)
        return -1
