# SPDX-License-Identifier: Apache-2.0
"""Requests on open directories."""

from __future__ import annotations

from unionfs.create import Caller
from unionfs.filesystem import UnionFilesystem
from unionfs.fuse import abi
from unionfs.fuse.direct.replies import Header, InThread, Replies, Reply


class DirectoryRequests:
    """The handlers of one mount that deal with open directories."""

    def __init__(self, filesystem: UnionFilesystem, replies: Replies) -> None:
        self._filesystem = filesystem
        self._replies = replies

    def opendir(self, header: Header, body: memoryview) -> Reply:
        """Open a directory."""
        caller = Caller(header.uid, header.gid, header.pid)
        handle = self._filesystem.open_directory(self._replies.node(header.nodeid), caller)
        return abi.OPEN_OUT.pack(handle, self._replies.dir_flags, 0)

    def readdir(self, header: Header, body: memoryview) -> Reply:
        """List without looking entries up."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        reply = bytearray()
        for ino, kind, name, following in self._filesystem.read_directory(fh, offset):
            length = len(name)
            padded = (abi.DIRENT.size + length + 7) & ~7
            if len(reply) + padded > size:
                break
            reply += abi.DIRENT.pack(ino, following, length, kind) + name
            reply += bytes(padded - abi.DIRENT.size - length)
        return bytes(reply)

    def readdirplus(self, header: Header, body: memoryview) -> Reply:
        """List and look up; the kernel asks for this when it sees that entries are looked at."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        filesystem = self._filesystem
        union = filesystem.union
        directory = filesystem.handles[fh].node
        reply = bytearray()
        for ino, kind, name, following in filesystem.read_directory(fh, offset):
            length = len(name)
            padded = (abi.DIRENT.size + length + 7) & ~7
            if len(reply) + abi.ENTRY_OUT.size + padded > size:
                break
            node = None
            entry = bytes(abi.ENTRY_OUT.size)
            if name not in (b".", b".."):
                try:
                    node, status, nlink = union.lookup(directory, name)
                    entry = self._replies.pack_entry(
                        node, status, nlink, self._replies.entry_valid, self._replies.attr_valid
                    )
                    ino, kind = node.ino, status.st_mode >> 12
                    node.lookups += 1
                except FileNotFoundError:
                    continue
                except OSError:
                    pass  # it exists but cannot be looked up: nodeid 0 lists it all the same
            reply += entry + abi.DIRENT.pack(ino, following, length, kind) + name
            reply += bytes(padded - abi.DIRENT.size - length)
        return bytes(reply)

    def releasedir(self, header: Header, body: memoryview) -> Reply:
        """Close a directory."""
        self._filesystem.release(abi.RELEASE_IN.unpack_from(body)[0])
        return b""

    def fsyncdir(self, header: Header, body: memoryview) -> Reply:
        """Write the directory back on its writable branches, in a thread."""
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        filesystem = self._filesystem

        def work() -> bytes:
            filesystem.fsync(fh, data_only=bool(flags & abi.FSYNC_DATASYNC))
            return b""

        return InThread(work)
