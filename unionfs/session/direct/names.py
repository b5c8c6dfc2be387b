# SPDX-License-Identifier: Apache-2.0
"""Requests on names: look up and forget, create, remove, rename, link."""

from __future__ import annotations

import errno
import os

from unionfs.filesystem import UnionFilesystem
from unionfs.operations.create import Caller
from unionfs.session import abi
from unionfs.session.direct.habits import Habits
from unionfs.session.direct.replies import NO_REPLY, Header, Replies, Reply, name_in
from unionfs.tree.nodes import Attributes


class NameRequests:
    """The handlers of one mount that deal with names."""

    def __init__(self, filesystem: UnionFilesystem, replies: Replies, habits: Habits) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._habits = habits

    def lookup(self, header: Header, body: memoryview) -> Reply:
        """Find a name; a miss may be remembered by the kernel too."""
        name = bytes(body[:-1])
        replies = self._replies
        parent = replies.node(header.nodeid)
        filesystem = self._filesystem
        if filesystem.options.dirperm1:
            found = filesystem.look(parent, name)
            if found is not None and found.node.children is None:
                self._habits.looked_up(header.pid, header.nodeid)
        else:
            found = filesystem.look(parent, name, Caller(header.uid, header.gid, header.pid))
        if found is not None:
            return replies.entry(found)
        if replies.negative_valid:
            replies.cached.absent(header.nodeid, name)
            return replies.no_entry
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def forget(self, header: Header, body: memoryview) -> Reply:
        """Take back lookups."""
        self._filesystem.forget(header.nodeid, abi.FORGET_IN.unpack_from(body)[0])
        return NO_REPLY

    def batch_forget(self, header: Header, body: memoryview) -> Reply:
        """Take back many lookups."""
        forget = self._filesystem.forget
        count = abi.BATCH_FORGET_IN.unpack_from(body)[0]
        start = abi.BATCH_FORGET_IN.size
        for nodeid, lookups in abi.FORGET_ONE.iter_unpack(body[start : start + count * abi.FORGET_ONE.size]):
            forget(nodeid, lookups)
        return NO_REPLY

    def readlink(self, header: Header, body: memoryview) -> Reply:
        """Return a link's text."""
        return self._filesystem.readlink(self._replies.node(header.nodeid))

    def symlink(self, header: Header, body: memoryview) -> Reply:
        """Make a symbolic link."""
        name, target = bytes(body).split(b"\0")[:2]
        caller = Caller(header.uid, header.gid, header.pid)
        parent = self._replies.node(header.nodeid)
        return self._made(header, name, self._filesystem.symlink(parent, name, target, caller))

    def mknod(self, header: Header, body: memoryview) -> Reply:
        """Make a special file."""
        mode, rdev, umask = abi.MKNOD_IN.unpack_from(body)
        name = name_in(body, abi.MKNOD_IN.size)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        parent = self._replies.node(header.nodeid)
        return self._made(header, name, self._filesystem.mknod(parent, name, mode, rdev, caller))

    def mkdir(self, header: Header, body: memoryview) -> Reply:
        """Make a directory."""
        mode, umask = abi.MKDIR_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        name = name_in(body, abi.MKDIR_IN.size)
        parent = self._replies.node(header.nodeid)
        return self._made(header, name, self._filesystem.mkdir(parent, name, mode, caller))

    def unlink(self, header: Header, body: memoryview) -> Reply:
        """Remove a file's name."""
        self._filesystem.unlink(self._replies.node(header.nodeid), bytes(body[:-1]))
        return b""

    def rmdir(self, header: Header, body: memoryview) -> Reply:
        """Remove a directory."""
        self._filesystem.rmdir(self._replies.node(header.nodeid), bytes(body[:-1]))
        return b""

    def rename(self, header: Header, body: memoryview) -> Reply:
        """Rename without flags."""
        return self._rename(header, abi.RENAME_IN.unpack_from(body)[0], 0, bytes(body[abi.RENAME_IN.size :]))

    def rename2(self, header: Header, body: memoryview) -> Reply:
        """Rename with flags."""
        directory, flags = abi.RENAME2_IN.unpack_from(body)
        return self._rename(header, directory, flags, bytes(body[abi.RENAME2_IN.size :]))

    def _rename(self, header: Header, directory: int, flags: int, names: bytes) -> Reply:
        old, new = names.split(b"\0")[:2]
        self._filesystem.rename(
            self._replies.node(header.nodeid), old, self._replies.node(directory), new, flags
        )
        self._replies.cached.present(directory, new)
        return b""

    def link(self, header: Header, body: memoryview) -> Reply:
        """Make a hard link."""
        node = self._replies.node(abi.LINK_IN.unpack_from(body)[0])
        name = name_in(body, abi.LINK_IN.size)
        parent = self._replies.node(header.nodeid)
        return self._made(header, name, self._filesystem.link(node, parent, name))

    def _made(self, header: Header, name: bytes, attributes: Attributes) -> bytes:
        """Answer with what was made."""
        self._replies.cached.present(header.nodeid, name)
        return self._replies.entry(attributes)
