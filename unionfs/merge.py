# SPDX-License-Identifier: Apache-2.0
"""Read the copies of a directory: one as a stream, several merged into a snapshot; marks and what they hide are left out.

A stream has the branch filesystem's own offsets and takes no memory. In a snapshot an offset is a byte position and the
snapshot's generation; it is spooled to disk when it grows. Nothing here is quadratic.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import IO

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.emptiness import is_device_mark
from unionfs.identity import INO_MASK
from unionfs.nodes import Node
from unionfs.records import DT_DIR, PACK, RECORD
from unionfs.sieve import Sieve
from unionfs.syscalls import DIRENT64, DirectoryReader
from unionfs.union import Union
from unionfs.whiteout import Layers

# Offsets in a snapshot are byte positions; the bits above say which snapshot it is.
POSITION_BITS = 40
_POSITION = (1 << POSITION_BITS) - 1

_SPOOL_LIMIT = 8 << 20
# Names of upper copies kept in memory while merging; of further ones a sieve knows which may be there, and those are probed
# by stat.
_NAMES_LIMIT = 1 << 18
_DOTS = (b".", b"..")

_reader = DirectoryReader()


class Copy:
    """One copy of a directory that is being read: which of its entries show, and under which number."""

    def __init__(self, union: Union, node: Node, branch: OpenBranch, fd: int) -> None:
        self.union = union
        self.node = node
        self.branch = branch
        self.fd = fd
        self.device = branch.device if branch.one_device else os.fstat(fd).st_dev

    def shows(self, name: bytes, kind: int) -> bool:
        """Tell whether an entry is none of the union's marks: the reserved prefix, also with nothing behind it, or a device."""
        if name[:4] == whiteout.PREFIX:
            return self.union.options.shwh and not name.startswith(whiteout.META_PREFIX)
        return not (self.branch.overlay and is_device_mark(self.fd, name, kind))

    def hides(self, name: bytes, kind: int) -> bytes | None:
        """Return the name that an entry hides on lower branches."""
        if name[:4] == whiteout.PREFIX and self.branch.whable and not name.startswith(whiteout.META_PREFIX):
            return name[len(whiteout.PREFIX) :] or None
        if self.branch.overlay and is_device_mark(self.fd, name, kind):
            return name
        return None

    @property
    def prefix(self) -> int:
        """Return what the union's number of an inode here has beside the inode's own."""
        return self.union.numbers.of_inode(self.device, 0)

    def number(self, name: bytes, ino: int, *, recorded: bool) -> int:
        """Return d_ino of an entry, the number that stat shows; `recorded`: some entries carry a number of their own."""
        node = self.node
        if name == b".":
            return node.ino
        if name == b"..":
            return node.parent.ino if node.parent is not None else node.ino
        child = node.children.get(name) if node.children else None
        if child is not None:
            return child.ino
        if recorded:
            status = whiteout.exists(self.fd, name)
            if status is not None:
                identity = self.union.identity_of(status)
                return self.union.numbers.of_entry(node, self.branch, name, identity)
        return self.union.numbers.of_inode(self.device, ino)

    def records_numbers(self) -> bool:
        """Tell whether some entries carry numbers of their own."""
        return bool(self.union.numbers.origins) or self.union.numbers.is_impure(
            self.node, self.branch, self.fd
        )


class Stream:
    """The only copy of a directory, read as far as it is asked for."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._data = b""
        self._position = 0
        self._offset = 0  # of the entry at `_position`
        self._begun = False
        self.end = 0

    @property
    def memory(self) -> int:
        return len(self._data)

    @property
    def finished(self) -> bool:
        return self.end != 0

    def use(self, fds: list[int]) -> None:
        (self._copy.fd,) = fds

    def spool(self) -> None:
        self._data, self._position, self._offset = b"", 0, -1

    def packed(self, offset: int, size: int) -> bytes:
        copy = self._copy
        fd, begin = copy.fd, offset
        recorded = copy.records_numbers()
        overlay = copy.branch.overlay
        if offset != self._offset or (offset == 0 and self._begun):
            os.lseek(fd, offset, os.SEEK_SET)
            self._data, self._position = b"", 0
        self._begun = True
        data, position = self._data, self._position
        parts: list[bytes] = []
        unpack, find, packers = DIRENT64.unpack_from, data.index, PACK
        prefix, children = copy.prefix, copy.node.children or {}
        clean = not overlay and b".wh." not in data
        self.end = 0
        while True:
            if position >= len(data):
                data = _reader.read_raw(fd)
                position = 0
                if not data:
                    self.end = RECORD.unpack_from(parts[-1])[1] if parts else begin
                    break
                find, clean = data.index, not overlay and b".wh." not in data
            ino, following, length, kind = unpack(data, position)
            name = data[position + 19 : find(0, position + 19)]
            if clean or (name[:4] != b".wh." and not overlay) or copy.shows(name, kind):
                size_of_name = len(name)
                size -= size_of_name + 31 & ~7
                if size < 0:
                    break
                if recorded or name in children or ino > INO_MASK or (kind == DT_DIR and name in _DOTS):
                    ino = copy.number(name, ino, recorded=recorded)
                else:
                    ino |= prefix
                parts.append(packers[size_of_name](ino, following, size_of_name, kind, name))
            position += length
            offset = following
        self._data, self._position, self._offset = data, position, offset
        return b"".join(parts)


class Snapshot:
    """A snapshot of a directory with several copies, made as far as it is read."""

    def __init__(self, union: Union, node: Node, layers: list[tuple[OpenBranch, int]], base: int) -> None:
        self._copies = [Copy(union, node, branch, fd) for branch, fd in layers]
        self._layers = tuple(layers)
        self._base = base  # added to every offset
        self._memory = bytearray()  # the records, while they are few; then they are in `_spool`
        self._spool: IO[bytes] | None = None
        self._begun = False
        self._ends = array("Q")  # where each record ends
        self._where = bytearray()  # which copy each is of; not for more than 256 copies
        self._source: Iterator[bytes] = iter(())
        self.finished = False
        self.marked = False  # whether something read so far may be a whiteout
        self.end = 0

    @property
    def memory(self) -> int:
        return len(self._memory)

    def use(self, fds: list[int]) -> None:
        for copy, fd in zip(self._copies, fds, strict=True):
            copy.fd = fd
        self._layers = tuple((copy.branch, copy.fd) for copy in self._copies)

    def packed(self, offset: int, size: int) -> bytes:
        # At 0 also after rewinddir(3), which promises to show changes. In the middle when the kernel had the beginning cached
        # from another open of the directory, and lost it: what did not change is merged in the same order.
        offset &= _POSITION
        if offset == 0 or not self._begun:
            self._start()
        self._read(offset + size)
        position = bisect_right(self._ends, offset + size)
        end = self._ends[position - 1] if position else 0
        self.end = self._base | end if self.finished and end == self.size else 0
        if end <= offset:
            return b""
        if self._spool is None:
            return bytes(self._memory[offset:end])
        self._spool.seek(offset)
        return self._spool.read(end - offset)

    def _read(self, end: int) -> None:
        """Merge as far as the byte position `end`."""
        while self.size < end and not self.finished:
            records = next(self._source, None)
            if records is None:
                self.finished = True
                return
            self._keep(records)

    def finish(self) -> None:
        if not self._begun:
            self._start()
        self._read(1 << POSITION_BITS)

    def _keep(self, records: bytes) -> None:
        if self._spool is None:
            self._memory += records
            if len(self._memory) >= _SPOOL_LIMIT:
                self.spool()
            return
        self._spool.seek(0, os.SEEK_END)
        self._spool.write(records)

    def spool(self) -> None:
        if self._spool is None:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
            self._spool.write(self._memory)
            self._memory = bytearray()

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _start(self) -> None:
        self.close()
        for copy in self._copies if self._begun else ():
            os.lseek(copy.fd, 0, os.SEEK_SET)
        self._begun = True
        self._ends = array("Q")
        self._where = bytearray()
        self._source = self._merge()
        self.finished = False

    def copies(self, offset: int) -> memoryview:
        """Return which copy each entry from `offset` is of."""
        offset &= _POSITION
        first = bisect_right(self._ends, offset) if offset else 0
        return memoryview(bytes(self._where))[first:]

    def _merge(self) -> Iterator[bytes]:
        """Scan top to tail: an entry shows unless an upper copy has, or hides, its name. Yields many records at a time."""
        seen: set[bytes] = set()
        further: Sieve | None = None
        ends = self._ends
        base, unpack = self._base, DIRENT64.unpack_from
        for position, copy in enumerate(self._copies):
            last = position == len(self._copies) - 1
            overlay = copy.branch.overlay
            recorded = copy.records_numbers()
            prefix, children = copy.prefix, copy.node.children or {}
            hidden: set[bytes] = set()
            while data := _reader.read_raw(copy.fd):
                parts: list[bytes] = []
                at, stop = 0, len(data)
                end = ends[-1] if ends else 0
                if not (recorded or overlay or further) and b".wh." not in data:
                    parts = _plain_records(data, copy, seen, ends, base, last=last)
                    if len(seen) >= _NAMES_LIMIT:
                        further = Sieve()
                    at = stop
                elif overlay or b".wh." in data:
                    self.marked = True
                while at < stop:
                    ino, _, length, kind = unpack(data, at)
                    name = data[at + 19 : data.index(0, at + 19)]
                    at += length
                    if name[:4] == b".wh." or overlay:
                        mark = copy.hides(name, kind)
                        if mark is not None and not last:
                            hidden.add(mark)
                        if not copy.shows(name, kind):
                            continue
                    if name in seen or (
                        further is not None and name in further and _is_above(self._layers[:position], name)
                    ):
                        continue
                    if not last:
                        if further is not None:
                            further.add(name)
                        else:
                            seen.add(name)
                            if len(seen) >= _NAMES_LIMIT:
                                further = Sieve()
                    size = len(name)
                    end += size + 31 & ~7
                    ends.append(end)
                    if recorded or name in children or ino > INO_MASK or (kind == DT_DIR and name in _DOTS):
                        ino = copy.number(name, ino, recorded=recorded)
                    else:
                        ino |= prefix
                    parts.append(PACK[size](ino, base | end, size, kind, name))
                self._where += bytes((position & 255,)) * (len(ends) - len(self._where))
                if parts:
                    yield b"".join(parts)
            seen |= hidden

    def close(self) -> None:
        self._memory = bytearray()
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def _plain_records(
    data: bytes, copy: Copy, seen: set[bytes], ends: array[int], base: int, *, last: bool
) -> list[bytes]:
    """Return the records of raw entries without marks whose numbers are not recorded; names in `seen` are left out."""
    parts: list[bytes] = []
    unpack, find, packers, prefix = DIRENT64.unpack_from, data.index, PACK, copy.prefix
    children = copy.node.children or {}
    at, stop = 0, len(data)
    end = ends[-1] if ends else 0
    while at < stop:
        ino, _, length, kind = unpack(data, at)
        name = data[at + 19 : find(0, at + 19)]
        at += length
        if name in seen:
            continue
        if not last:
            seen.add(name)
        size = len(name)
        end += size + 31 & ~7
        ends.append(end)
        if name in children or ino > INO_MASK or (kind == DT_DIR and name in _DOTS):
            ino = copy.number(name, ino, recorded=False)
        else:
            ino |= prefix
        parts.append(packers[size](ino, base | end, size, kind, name))
    return parts


def _is_above(above: Layers, name: bytes) -> bool:
    return any(
        whiteout.exists(fd, name) is not None or whiteout.is_whited_out(branch, fd, name)
        for branch, fd in above
    )
