# SPDX-License-Identifier: Apache-2.0
"""Notifications to the kernel: what it has cached is no longer so. Both sessions write them to the device themselves."""

import contextlib
import errno
import os
import struct
from collections.abc import Iterable

from unionfs.nodes import Node

_HEADER = struct.Struct("=IiQ")  # length, code, unique = 0
_INVAL_INODE, _INVAL_ENTRY, _INC_EPOCH = 2, 3, 8
_INODE = struct.Struct("=Qqq")
_ENTRY = struct.Struct("=QII")


class Notifier:
    """Sends notifications on the device descriptor of one mount.

    `entry` waits for the directory's lock, which a process may hold whose request waits for us: call it in a thread only.
    `epoch` and `attributes` never wait.
    """

    def __init__(self, device_fd: int) -> None:
        self._fd = device_fd

    def close(self) -> None:
        """Send nothing any more: the descriptor is about to be closed, and its number may be used again."""
        self._fd = -1

    def _send(self, code: int, payload: bytes) -> bool:
        """Send; False if the kernel does not know the code or the thing."""
        if self._fd < 0:
            return False
        try:
            os.write(self._fd, _HEADER.pack(_HEADER.size + len(payload), code, 0) + payload)
        except OSError as error:
            if error.errno in (
                errno.ENOENT,
                errno.EINVAL,
                errno.ENOTDIR,
                errno.ENODEV,
                errno.ENOSYS,
                errno.ENOTEMPTY,
            ):
                return False
            raise
        return True

    def epoch(self) -> bool:
        """Make every cached name be looked up again (Linux 6.16); False on older kernels."""
        return self._send(_INC_EPOCH, b"")

    def attributes(self, nodeid: int) -> None:
        """Drop a node's cached attributes."""
        self._send(_INVAL_INODE, _INODE.pack(nodeid, -1, 0))

    def data(self, nodeid: int) -> None:
        """Drop a node's cached attributes and pages. May wait for pages under I/O: call it in a thread."""
        self._send(_INVAL_INODE, _INODE.pack(nodeid, 0, 0))

    def entry(self, parent: int, name: bytes) -> None:
        """Drop a cached name."""
        self._send(_INVAL_ENTRY, _ENTRY.pack(parent, len(name), 0) + name + b"\0")

    def entries(self, names: Iterable[tuple[int, bytes]]) -> None:
        """Drop many cached names."""
        for parent, name in names:
            with contextlib.suppress(OSError):
                self.entry(parent, name)


def known_names(nodes: Iterable[Node]) -> list[tuple[int, bytes]]:
    """Return (parent nodeid, name) of every name in the table."""
    return [(parent.nodeid, name) for node in nodes for parent, name in node.names()]
