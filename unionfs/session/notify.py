# SPDX-License-Identifier: Apache-2.0
"""Notifications to the kernel: what it has cached is no longer so. Both sessions write them to the device themselves."""

import contextlib
import errno
import os
import struct
from collections.abc import Iterable

from unionfs.session.cached_names import CachedName

_HEADER = struct.Struct("=IiQ")  # length, code, unique = 0
_INVAL_INODE, _INVAL_ENTRY = 2, 3
_INODE = struct.Struct("=Qqq")
_ENTRY = struct.Struct("=QII")
_EXPIRE_ONLY = 1  # flag of _INVAL_ENTRY
_UNKNOWN = (errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.ENODEV, errno.ENOSYS)


class Notifier:
    """Sends notifications on the device descriptor of one mount.

    `expire` waits for the directory's lock, which a process may hold whose request waits for us, and `data` for pages under
    I/O: call them in a thread only. `attributes` never waits.

    Names are always expired and never dropped, nor is the notification sent that doubts every name at once (Linux 6.16): both
    would unmount whatever is mounted below, and take the working directory's name from processes.
    """

    def __init__(self, device_fd: int) -> None:
        self._fd = device_fd

    def close(self) -> None:
        """Send nothing any more: the descriptor is about to be closed, and its number may be used again."""
        self._fd = -1

    def _send(self, code: int, payload: bytes) -> None:
        """Send; nothing happens if the kernel does not know the thing."""
        if self._fd < 0:
            return
        try:
            os.write(self._fd, _HEADER.pack(_HEADER.size + len(payload), code, 0) + payload)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise

    def attributes(self, nodeid: int) -> None:
        """Drop a node's cached attributes."""
        self._send(_INVAL_INODE, _INODE.pack(nodeid, -1, 0))

    def data(self, nodeid: int) -> None:
        """Drop a node's cached attributes and pages."""
        self._send(_INVAL_INODE, _INODE.pack(nodeid, 0, 0))

    def expire(self, parent: int, name: bytes) -> None:
        """Make a cached name be looked up again (older kernels than 6.2 drop it); if it leads to the same node it stays.

        Names below it are not touched.
        """
        self._send(_INVAL_ENTRY, _ENTRY.pack(parent, len(name), _EXPIRE_ONLY) + name + b"\0")

    def expire_all(self, names: Iterable[CachedName], nodeids: Iterable[int]) -> None:
        """Make many cached names be looked up again, and nodes be read or listed again."""
        for parent, name in names:
            with contextlib.suppress(OSError):
                self.expire(parent, name)
        for nodeid in nodeids:
            with contextlib.suppress(OSError):
                self.data(nodeid)
