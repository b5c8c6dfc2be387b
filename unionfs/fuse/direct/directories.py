# SPDX-License-Identifier: Apache-2.0
"""Requests on open directories."""

from __future__ import annotations

from unionfs.create import Caller
from unionfs.filesystem import UnionFilesystem
from unionfs.fuse import abi
from unionfs.fuse.direct.habits import Habits
from unionfs.fuse.direct.replies import Header, Replies, Reply
from unionfs.readdir import RECORD, entries_of

_DT_UNKNOWN, _DT_DIR = 0, 4
_NO_ENTRY = bytes(abi.ENTRY_OUT.size)
# The least bytes a record takes more with attributes than without: what is asked for in one form is fetched in the other.
_SMALLEST = RECORD.size + 8
_GROWN = abi.ENTRY_OUT.size + _SMALLEST


class DirectoryRequests:
    """The handlers of one mount that deal with open directories."""

    def __init__(self, filesystem: UnionFilesystem, replies: Replies, habits: Habits) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._habits = habits

    def opendir(self, header: Header, body: memoryview) -> Reply:
        """Open a directory."""
        caller = Caller(header.uid, header.gid, header.pid)
        handle = self._filesystem.open_directory(self._replies.node(header.nodeid), caller)
        return abi.OPEN_OUT.pack(handle, self._replies.dir_flags, 0)

    def readdir(self, header: Header, body: memoryview) -> Reply:
        """List without looking entries up."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        return self._filesystem.directory(fh).listing.packed(offset, size)

    def readdirplus(self, header: Header, body: memoryview) -> Reply:
        """List and look up; the kernel asks for this when it sees that entries are looked at."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        union = self._filesystem.union
        handle = self._filesystem.directory(fh)
        directory = handle.node
        pack = self._replies.pack_entry
        times = self._replies.entry_valid, self._replies.attr_valid
        plain = offset == 0 and not self._habits.wants_attributes(header.pid, header.nodeid)
        parts: list[bytes] = []
        records = handle.listing.packed(offset, size * _SMALLEST // _GROWN)
        where = None if plain else handle.listing.copies(offset)
        for ino, kind, name, following in entries_of(records):
            place = next(where) if where is not None else None
            size -= (len(name) + 31 & ~7) + abi.ENTRY_OUT.size
            if size < 0:
                break
            entry = _NO_ENTRY
            if not plain and name not in (b".", b".."):
                try:
                    if place is not None and kind not in (_DT_DIR, _DT_UNKNOWN):
                        node, status, nlink = union.lookup_at(directory, name, *place)
                    else:
                        node, status, nlink = union.lookup(directory, name)
                    entry = pack(node, status, nlink, *times)
                    ino, kind = node.ino, status.st_mode >> 12
                    node.lookups += 1
                except FileNotFoundError:
                    size += (len(name) + 31 & ~7) + abi.ENTRY_OUT.size
                    continue
                except OSError:
                    pass  # it exists but cannot be looked up: nodeid 0 lists it all the same
            parts += (entry, RECORD.pack(ino, following, len(name), kind), name, bytes(-len(name) & 7))
        return b"".join(parts)

    def releasedir(self, header: Header, body: memoryview) -> Reply:
        """Close a directory."""
        self._filesystem.release(abi.RELEASE_IN.unpack_from(body)[0])
        return b""
