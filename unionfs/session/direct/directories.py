# SPDX-License-Identifier: Apache-2.0
"""Requests that list directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from struct import Struct

from unionfs.filesystem import UnionFilesystem
from unionfs.listing.readdir import Place
from unionfs.listing.records import RECORD, entries_of
from unionfs.operations.create import Caller
from unionfs.session import abi
from unionfs.session.direct.habits import Habits, Way
from unionfs.session.direct.replies import Header, Replies, Reply

_MANY_OR_UNKNOWN = (4, 0)  # d_type of what may have several copies, or of what it is not known
_NO_ENTRY = bytes(abi.ENTRY_OUT.size)
_LENGTH = Struct("=16xI")  # of the name, in a record
# Bytes of records: a dozen, and more than any takes; "." and "..".
_FEW, _ONLY_DOTS = 512, 64
# The least bytes a record takes more with attributes than without: what is asked for in one form is fetched in the other.
_SMALLEST = RECORD.size + 8
_GROWN = abi.ENTRY_OUT.size + _SMALLEST


class DirectoryRequests:
    """The handlers of one mount that deal with directories that are listed.

    Where the kernel may keep listings it is told not to open directories (docs/decisions/no-opendir.md): then a listing has the
    handle 0 and no beginning or end but the offset 0 and the last record.
    """

    def __init__(self, filesystem: UnionFilesystem, replies: Replies, habits: Habits) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._habits = habits
        # Called with the nodeid of a directory of which the kernel keeps a listing that may be wrong soon; set by the session.
        self.doubt: Callable[[int], None] = lambda nodeid: None

    def opendir(self, header: Header, body: memoryview) -> Reply:
        """Open a directory, or tell the kernel for good that it need not be opened."""
        node = self._replies.node(header.nodeid)
        if self._replies.may_not_open and self._replies.keeps_listings:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        handle = self._filesystem.open_directory(node, Caller(header.uid, header.gid, header.pid))
        return abi.OPEN_OUT.pack(handle, self._replies.dir_flags, 0)

    def _records(
        self, header: Header, fh: int, offset: int, size: int, *, placed: bool = False
    ) -> tuple[bytes, Iterator[Place | None] | None]:
        filesystem = self._filesystem
        node = self._replies.node(header.nodeid)
        if fh:
            listing = filesystem.listing(filesystem.directory(fh), offset)
            records = listing.packed(offset, size)
            if not records:
                filesystem.check_complete(node)
            return records, listing.copies(offset) if placed else None
        if offset == 0:
            filesystem.begin_listing(node, Caller(header.uid, header.gid, header.pid))
        found = filesystem.list_unopened(node, offset, size, placed=placed)
        if not found[0]:
            filesystem.check_complete(node)  # a listing is not taken for whole
            if not self._replies.keeps_listings:
                self.doubt(header.nodeid)
        return found

    def readdir(self, header: Header, body: memoryview) -> Reply:
        """List without looking entries up."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        if offset:
            self._habits.goes_on(header.pid, header.nodeid, advised=False)
        return self._records(header, fh, offset, size)[0]

    def readdirplus(self, header: Header, body: memoryview) -> Reply:
        """List and look up; the kernel asks for this when it sees that entries are looked at."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        size = size * _SMALLEST // _GROWN
        if offset:
            plain = not self._habits.goes_on(header.pid, header.nodeid, advised=True)
        else:
            way = self._habits.begins(header.pid, header.nodeid)
            plain = way is not Way.FULL
            if way is Way.FEW:
                size = min(size, _FEW)
        records, where = self._records(header, fh, offset, size, placed=not plain)
        if plain:
            return _without_attributes(records)
        if offset == 0 and len(records) <= _ONLY_DOTS:
            self._habits.saw_nothing(header.pid)
        look, directory = self._filesystem.lookup_listed, self._replies.node(header.nodeid)
        pack = self._replies.pack_entry
        times = self._replies.entry_valid, self._replies.attr_valid
        parts: list[bytes] = []
        for ino, kind, name, following in entries_of(records):
            place = next(where) if where is not None else None
            entry = _NO_ENTRY
            if name not in (b".", b".."):
                try:
                    if kind in _MANY_OR_UNKNOWN:
                        place = None
                    node, status, nlink = look(directory, name, place)
                    entry = pack(node, status, nlink, *times)
                    ino, kind = node.ino, status.st_mode >> 12
                    node.lookups += 1
                except FileNotFoundError:
                    continue
                except OSError:
                    pass  # it exists but cannot be looked up: nodeid 0 lists it all the same
            parts += (entry, RECORD.pack(ino, following, len(name), kind), name, bytes(-len(name) & 7))
        # If all of them were removed meanwhile they are listed as READDIR would: nothing at all would be the end.
        return b"".join(parts) if parts else _without_attributes(records)

    def releasedir(self, header: Header, body: memoryview) -> Reply:
        """Close a directory."""
        self._filesystem.release(abi.RELEASE_IN.unpack_from(body)[0])
        return b""


def _without_attributes(records: bytes) -> bytes:
    """Return records in the form that has attributes, with none."""
    parts: list[bytes] = []
    position, end, length_at = 0, len(records), _LENGTH.unpack_from
    while position < end:
        following = position + (length_at(records, position)[0] + 31 & ~7)
        parts += (_NO_ENTRY, records[position:following])
        position = following
    return b"".join(parts)
