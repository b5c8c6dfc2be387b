# SPDX-License-Identifier: Apache-2.0
"""Requests on attributes and extended attributes."""

from __future__ import annotations

import errno
import os
import time

from unionfs.filesystem import UnionFilesystem
from unionfs.operations.attributes import Changes
from unionfs.session import abi
from unionfs.session.direct.replies import NANO, Header, Replies, Reply, name_in
from unionfs.session.direct.unseen import UnseenWrites
from unionfs.session.notify import Notifier
from unionfs.tree.nodes import NO_CAPABILITIES, Node

_CAPABILITY = b"security.capability\0"
_NO_DATA = os.strerror(errno.ENODATA)
_TOUCHED = abi.FATTR_ATIME | abi.FATTR_MTIME | abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW
_FLUSHED = abi.FATTR_MTIME | abi.FATTR_CTIME


class AttributeRequests:
    """The handlers of one mount that deal with attributes."""

    def __init__(
        self, filesystem: UnionFilesystem, replies: Replies, notifier: Notifier, unseen: UnseenWrites
    ) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._notifier = notifier
        self._unseen = unseen

    def getattr(self, header: Header, body: memoryview) -> Reply:
        """Return attributes."""
        node = self._replies.node(header.nodeid)
        filesystem = self._filesystem
        flags, _, number = abi.GETATTR_IN.unpack_from(body)
        if flags & abi.GETATTR_FH and node.backing is not None:
            handle = filesystem.file(number)
            if handle.backing is node.backing and not handle.elsewhere:  # then it has the visible copy open
                return self._replies.attributes(
                    filesystem.attributes_now(node, os.fstat(handle.fd)), header.nodeid
                )
        return self._replies.attributes(filesystem.getattr(node), header.nodeid)

    def statx(self, header: Header, body: memoryview) -> Reply:
        """Return attributes and, asked for or not, the birth time of the visible copy."""
        node = self._replies.node(header.nodeid)
        attributes = self._filesystem.getattr(node)
        return self._replies.statx(attributes, header.nodeid, self._filesystem.birth(node))

    def setattr(self, header: Header, body: memoryview) -> Reply:
        """Change attributes; with KILLPRIV_V2 clearing set-id bits and file capabilities is our part."""
        (
            valid, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid
        ) = abi.SETATTR_IN.unpack_from(body)  # fmt: skip
        node = self._replies.node(header.nodeid)
        if valid & ~abi.FATTR_FH == _FLUSHED and node.branch is not None and not node.branch.writable:
            # The kernel holds times back (writeback cache) and hands them over when it drops an inode, also one whose name
            # was just removed, for the sake of its ctime. That is no reason to copy a lower file up.
            attributes = self._filesystem.getattr(node)
            if attributes.status.st_mtime_ns == mtime * NANO + mtime_ns:
                return self._replies.attributes(attributes, header.nodeid)
        now = None
        moments = valid & ~abi.FATTR_FH
        if valid & (abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW):
            now = time.time_ns()
        changes = Changes(
            mode=mode if valid & abi.FATTR_MODE else None,
            uid=uid if valid & abi.FATTR_UID else None,
            gid=gid if valid & abi.FATTR_GID else None,
            size=size if valid & abi.FATTR_SIZE else None,
            atime_ns=_moment(valid & abi.FATTR_ATIME, valid & abi.FATTR_ATIME_NOW, atime, atime_ns, now),
            mtime_ns=_moment(valid & abi.FATTR_MTIME, valid & abi.FATTR_MTIME_NOW, mtime, mtime_ns, now),
            # Before a write that passes through the kernel asks for nothing else, with no bit set.
            strip=bool(valid & abi.FATTR_KILL_SUIDGID or not valid) and not node.is_directory,
        )
        if moments & ~abi.FATTR_CTIME == _TOUCHED:
            changes = Changes(touch=True)
        handle = fh if valid & abi.FATTR_FH else None
        attributes = self._filesystem.setattr(node, changes, handle)
        if changes.size is not None and self._unseen:
            self._unseen.truncated(node, changes.size)
        self._tell(header, node)
        return self._replies.attributes(attributes, header.nodeid)

    def getxattr(self, header: Header, body: memoryview) -> Reply:
        """Return an attribute or its size."""
        node = self._replies.node(header.nodeid)
        if node.bare == NO_CAPABILITIES and body[abi.GETXATTR_IN.size :] == _CAPABILITY:
            raise OSError(errno.ENODATA, _NO_DATA)  # what is asked before the first write to each new file
        size = abi.GETXATTR_IN.unpack_from(body)[0]
        name = os.fsdecode(name_in(body, abi.GETXATTR_IN.size))
        return _sized(self._filesystem.getxattr(node, name), size)

    def listxattr(self, header: Header, body: memoryview) -> Reply:
        """Return attribute names or their size."""
        size = abi.GETXATTR_IN.unpack_from(body)[0]
        names = self._filesystem.listxattr(self._replies.node(header.nodeid))
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), size)

    def setxattr(self, header: Header, body: memoryview) -> Reply:
        """Set an attribute."""
        if self._replies.setxattr_ext:
            size, flags, extra, _ = abi.SETXATTR_IN.unpack_from(body)
            rest = bytes(body[abi.SETXATTR_IN.size :])
        else:
            size, flags = abi.GETXATTR_IN.unpack_from(body)
            extra, rest = 0, bytes(body[abi.GETXATTR_IN.size :])
        name, _, value = rest.partition(b"\0")
        node = self._replies.node(header.nodeid)
        self._filesystem.setxattr(node, os.fsdecode(name), value[:size], flags)
        self._replies.capabilities += name == b"security.capability"
        if extra & 1:  # ACL_KILL_SGID: the kernel found the caller outside the file's group
            self._filesystem.clear_set_group_id(node)
        self._tell(header, node)
        return b""

    def removexattr(self, header: Header, body: memoryview) -> Reply:
        """Remove an attribute."""
        node = self._replies.node(header.nodeid)
        self._filesystem.removexattr(node, os.fsdecode(bytes(body[:-1])))
        self._tell(header, node)
        return b""

    def _tell(self, header: Header, node: Node) -> None:
        """After a change by a former nodeid: let the kernel ask anew for the present one's attributes."""
        if header.nodeid != node.nodeid:
            self._notifier.attributes(node.nodeid)


def _moment(given: int, now_given: int, seconds: int, nanoseconds: int, now: int | None) -> int | None:
    if now_given:
        return now
    return seconds * NANO + nanoseconds if given else None


def _sized(value: bytes, size: int) -> bytes:
    """Answer xattr requests: the size if the caller asks with 0, ERANGE if its buffer is too small."""
    if size == 0:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
