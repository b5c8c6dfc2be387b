# SPDX-License-Identifier: Apache-2.0
"""Read a copy of a directory as far as it is asked for, with its filesystem's own offsets: the only copy, or the lowest one.

Of the lowest copy what upper ones hide is left out, and what they have too shows as it is there. Where its filesystem's offsets
begin to look like ours the stream ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from unionfs.branches import whiteout
from unionfs.branches.identity import INO_MASK
from unionfs.kernel.dirents import dirents
from unionfs.listing.listed import Copy, reader
from unionfs.listing.merge import DOTS, END, FIRST, TAIL, Merge
from unionfs.listing.records import DT_DIR, PACK, RECORD


class Stream:
    """One copy of a directory; below others those are merged `above` it."""

    def __init__(self, copy: Copy, uppers: Sequence[Copy] = (), above: Merge | None = None) -> None:
        self.copy = copy
        self._uppers = uppers
        self._above = above
        self._limit = END if above is None else FIRST
        self._data = b""
        self._position = 0
        self.offset = 0  # of the entry at `_position`
        self._begun = False
        self.end = 0
        self.marked = False
        self.met: set[bytes] = set()  # names from `above` that the copy has too
        self.reached = 0  # all from the beginning to here has been read
        self.size = 0  # bytes of records, as far as that
        self.finished = False  # all of it has
        self.at_rest = False  # the end was reached just now
        self.count = 0  # of records that were returned last
        self.upper: set[int] = set()  # which of them are of upper copies

    @property
    def memory(self) -> int:
        """Return how many bytes of entries are held."""
        return len(self._data)

    def use(self, fds: list[int]) -> None:
        """Read on through another descriptor, which has the same position."""
        (self.copy.fd,) = fds

    def spool(self) -> None:
        """Hold nothing in memory."""
        self._data, self._position, self.offset, self.at_rest = b"", 0, -1, False

    def packed(self, offset: int, size: int) -> bytes:
        """Return records from `offset`, which is 0 or what an earlier one carried, in at most `size` bytes."""
        copy = self.copy
        fd, begin = copy.fd, offset
        recorded = copy.records_numbers()
        overlay = copy.branch.overlay
        if offset != self.offset or (offset == 0 and self._begun):
            os.lseek(fd, offset, os.SEEK_SET)
            self._data, self._position = b"", 0
        self._begun = True
        data, position = self._data, self._position
        parts: list[bytes] = []
        packers, prefix, children = PACK, copy.prefix, copy.node.children or {}
        above = self._above.records if self._above is not None else {}
        further = self._above.further if self._above is not None else None
        limit = self._limit
        clean = not overlay and b".wh." not in data
        self.upper.clear()
        self.end = 0
        room = size
        while True:
            for ino, following, kind, name, after in dirents(data, position):
                if clean or (name[:4] != b".wh." and not overlay) or copy.shows(name, kind):
                    size_of_name = len(name)
                    room -= size_of_name + 31 & ~7
                    if room < 0:
                        break
                    record = None
                    if name in above:
                        record = above[name]
                        self.met.add(name)
                    elif further is not None and name in further:
                        record = self._find(name)
                    if record is not None:
                        if not record:
                            room += size_of_name + 31 & ~7
                            position = after
                            continue
                        self.upper.add(len(parts))
                        ino, _, _, kind = RECORD.unpack_from(record)
                    elif recorded or name in children or ino > INO_MASK or (kind == DT_DIR and name in DOTS):
                        ino = copy.number(name, ino, recorded=recorded)
                    else:
                        ino |= prefix
                    if following >= limit:
                        offset = self.end = TAIL
                        parts.append(packers[size_of_name](ino, offset, size_of_name, kind, name))
                        position = after
                        break
                    parts.append(packers[size_of_name](ino, following, size_of_name, kind, name))
                    offset = following
                position = after
            else:
                data, position = reader.read_raw(fd), 0
                if data:
                    clean = not overlay and b".wh." not in data
                    self.marked |= not clean
                    continue
                # A copy that was removed on its branch has not even dots; those above it follow all the same.
                self.end = offset or (TAIL if self._above is not None else 0)
            break
        self._data, self._position, self.offset = data, position, offset
        self.count, self.at_rest = len(parts), self.end != 0
        records = b"".join(parts)
        self._count(begin, len(records))
        return records

    def _count(self, begin: int, size: int) -> None:
        """Note how far everything from the beginning has been read, after a part that began at `begin`."""
        if begin != self.reached:
            return
        self.size += size
        self.reached, self.finished = self.offset, self.finished or self.end != 0

    def _find(self, name: bytes) -> bytes | None:
        """Return the record of a name that upper copies may have; nothing if they hide it, None if they do neither."""
        for copy in self._uppers:
            status = whiteout.exists(copy.fd, name)
            kind = stat.S_IFMT(status.st_mode) >> 12 if status is not None else 0
            if status is not None and copy.shows(name, kind):
                ino = copy.number(name, status.st_ino, recorded=copy.records_numbers())
                return PACK[len(name)](ino, 0, len(name), kind, name)
            if whiteout.is_whited_out(copy.branch, copy.fd, name):
                return b""
        return None

    def scan(self, merge: Merge) -> set[bytes]:
        """Read the whole copy; return which names of a merge are listed here, and add to it what is behind the stream's end."""
        copy = self.copy
        met: set[bytes] = set()
        self.spool()
        os.lseek(copy.fd, 0, os.SEEK_SET)
        while data := reader.read_raw(copy.fd):
            clean = not copy.branch.overlay and b".wh." not in data
            for _, following, kind, name, at in dirents(data):
                if name in merge.records and (clean or copy.shows(name, kind)):
                    met.add(name)
                if following >= FIRST:
                    merge.add(copy, data[at:], bounded=False)
                    return met
        return met

    def add_rest(self, merge: Merge) -> None:
        """Add what is behind the end of the stream, which has just been reached."""
        data = self._data[self._position :] or reader.read_raw(self.copy.fd)
        if data:
            merge.add(self.copy, data, bounded=False)
        self.spool()
