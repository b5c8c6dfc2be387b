# SPDX-License-Identifier: Apache-2.0
"""Requests on inode flags (lsattr, chattr); every other ioctl is ENOTTY.

Since Linux 5.13 the kernel has checked whether the caller may make the change, and for that it asks for the extended form
before each change, whichever form the caller uses. Older kernels check nothing: no change is possible there.
"""

from __future__ import annotations

import errno
import os
import struct

from unionfs.filesystem import UnionFilesystem
from unionfs.kernel.syscalls import FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from unionfs.session import abi
from unionfs.session.direct.replies import Header, Replies, Reply
from unionfs.session.notify import Notifier

_FLAGS = struct.Struct("=I4x")  # declared as long
_DONE = abi.IOCTL_OUT.pack(0, 0, 0, 0)


class FlagRequests:
    """The handler of one mount that deals with inode flags."""

    def __init__(self, filesystem: UnionFilesystem, replies: Replies, notifier: Notifier) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._notifier = notifier

    def ioctl(self, header: Header, body: memoryview) -> Reply:
        """Get or set inode flags, in either form."""
        _, _, command, _, in_size, out_size = abi.IOCTL_IN.unpack_from(body)
        if command not in (FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        filesystem, node = self._filesystem, self._replies.node(header.nodeid)
        # The kernel reads and writes an int for what is declared as long.
        argument = bytes(body[abi.IOCTL_IN.size : abi.IOCTL_IN.size + in_size])
        if command == FS_IOC_GETFLAGS:
            return _DONE + _FLAGS.pack(filesystem.get_flags(node))[:out_size]
        if command == FS_IOC_FSGETXATTR:
            return _DONE + filesystem.get_extended_flags(node)[:out_size]
        if not self._replies.checks_flags:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if command == FS_IOC_SETFLAGS:
            filesystem.set_flags(node, _FLAGS.unpack(argument[:4].ljust(8, b"\0"))[0])
        else:
            filesystem.set_extended_flags(node, argument.ljust(28, b"\0"))
        self._notifier.attributes(node.nodeid)
        return _DONE
