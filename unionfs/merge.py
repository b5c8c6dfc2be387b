# SPDX-License-Identifier: Apache-2.0
"""Read the copies of a directory: one as a stream, several merged into a snapshot; marks and what they hide are left out.

A stream has the branch filesystem's own offsets and takes no memory. In a snapshot entries are in the order of what their names
hash to, and that is their offset: so an offset means the same to every reader, in every snapshot, for the life of the server,
whatever else is made or removed. A snapshot has so many entries at most; the next ones are read when they are asked for.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, compress, islice
from operator import eq

from unionfs import stage, whiteout
from unionfs.branch import OpenBranch
from unionfs.emptiness import is_device_mark
from unionfs.identity import INO_MASK
from unionfs.nodes import Node
from unionfs.records import DT_DIR, PACK, RECORD, name_of
from unionfs.syscalls import DIRENT64, DirectoryReader
from unionfs.union import Union

# An offset in a snapshot has ten bits that are set and 53 of the name's hash. Filesystems count entries, or (ext4) hash names
# to 63 bits: one in a thousand of those looks like ours.
_BITS = 53
_OURS = (1 << 63 - _BITS) - 1
_FIRST, _HASH = _OURS << _BITS, (1 << _BITS) - 1
_END = 1 << 63  # above every offset
# Names of the same hash get the next offsets, in their own order; more than so many never are.
_CLASHES = 8
_MOST = 1 << 17  # entries of a snapshot
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
            if name.startswith(whiteout.META_PREFIX):
                self._sweep(name)
                return False
            return self.union.options.shwh
        return not (self.branch.overlay and is_device_mark(self.fd, name, kind))

    def _sweep(self, name: bytes) -> None:
        """Remove what a killed server left here, where nothing that takes longer than one operation is staged."""
        union, node = self.union, self.node
        since = union.locks.alone_since(self.branch)
        if not since or node is union.root or os.fstat(self.fd).st_dev != self.branch.device:
            return
        if stage.sweep_left(self.fd, name, since):
            union.times_moved(node)

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
        self.offset = 0  # of the entry at `_position`
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
        self._data, self._position, self.offset = b"", 0, -1

    def packed(self, offset: int, size: int) -> bytes:
        copy = self._copy
        fd, begin = copy.fd, offset
        recorded = copy.records_numbers()
        overlay = copy.branch.overlay
        if offset != self.offset or (offset == 0 and self._begun):
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
        self._data, self._position, self.offset = data, position, offset
        return b"".join(parts)


def is_ours(offset: int) -> bool:
    """Tell whether an offset looks like one of a snapshot."""
    return offset >> _BITS == _OURS


def has_offset(fd: int, offset: int) -> bool:
    """Tell whether an offset that looks like ours is one of the filesystem's own, in a directory open for listing."""
    os.lseek(fd, _FIRST, os.SEEK_SET)
    while data := _reader.read_raw(fd):
        at, stop = 0, len(data)
        while at < stop:
            _, following, length, _ = DIRENT64.unpack_from(data, at)
            if following == offset:
                return True
            at += length
    return False


class Snapshot:
    """The entries of a directory with several copies, or so many of them from some offset on."""

    def __init__(self, union: Union, node: Node, layers: list[tuple[OpenBranch, int]]) -> None:
        self._copies = [Copy(union, node, branch, fd) for branch, fd in layers]
        self.is_new = True  # the copies are where they were when they were opened
        self._begun = False
        self._after = 0  # the entries with greater offsets are here
        self._before = _END  # as far as they are less
        self._offsets: array[int] = array("Q")
        self._ends: array[int] = array("Q")  # where the record of each ends
        self._records = b""
        self._where = b""  # which copy each is of, if that was asked for; not for more than 256 copies
        self.marked = False  # whether something may be a whiteout
        self.end = 0

    @property
    def memory(self) -> int:
        return len(self._records) + 16 * len(self._offsets)

    @property
    def size(self) -> int:
        return len(self._records)

    @property
    def finished(self) -> bool:
        """Tell whether all entries have been read."""
        return self._begun and self._after == 0 and self._before == _END

    def covers(self, offset: int) -> bool:
        """Tell whether what follows an offset is known."""
        if not self._begun or offset < self._after:
            return False
        return self._before == _END or offset < self._offsets[-1]

    def has(self, offset: int) -> bool:
        """Tell whether an offset is that of an entry, and what follows is known."""
        place = bisect_left(self._offsets, offset)
        return place < len(self._offsets) and self._offsets[place] == offset and self.covers(offset)

    def packed(self, offset: int, size: int, *, placed: bool = False) -> bytes:
        # At 0 also after rewinddir(3), which promises to show changes.
        if offset == 0 or not self.covers(offset):
            self._read(offset, placed=placed)
        first = bisect_right(self._offsets, offset)
        begin = self._ends[first - 1] if first else 0
        last = bisect_right(self._ends, begin + size, first)
        complete = last == len(self._ends) and self._before == _END
        self.end = (self._offsets[-1] if last else offset or _FIRST) if complete else 0
        return self._records[begin : self._ends[last - 1]] if last > first else b""

    def copies(self, offset: int) -> memoryview | None:
        """Return which copy each entry from `offset` is of, if that is known."""
        return memoryview(self._where)[bisect_right(self._offsets, offset) :] if self._where else None

    def _read(self, after: int, *, placed: bool) -> None:
        """Read the copies from top to tail: an entry shows unless an upper copy has, or hides, its name."""
        merge = Merge(after)
        new, self.is_new = self.is_new, False
        for copy in self._copies:
            if not new:
                os.lseek(copy.fd, 0, os.SEEK_SET)
            merge.add(copy, last=copy is self._copies[-1])
        self.marked = merge.marked
        offsets, records, where = merge.sorted(placed=placed)
        self._offsets, self._ends = array("Q", offsets), array("Q", accumulate(map(len, records)))
        self._records, self._where = b"".join(records), where
        self._begun, self._after, self._before = True, after, merge.before

    def close(self) -> None:
        self._begun = False
        self._records = self._where = b""
        self._offsets, self._ends = array("Q"), array("Q")


class Merge:
    """The records of the copies that were added so far; if they are too many, those of the lesser offsets."""

    def __init__(self, after: int = 0) -> None:
        self.marked = False
        self.before = _END
        self._least = max(0, after - _CLASHES)  # what may be moved beyond `after`
        self._offsets: list[int] = []
        self._records: list[bytes] = []
        self._seen: set[bytes] = set()  # names that the upper copies have or hide
        self._added: list[int] = []  # how many each copy has added

    def add(self, copy: Copy, *, last: bool) -> None:
        """Read a copy below those that were read before; what it hides it hides from those that follow."""
        recorded, overlay = copy.records_numbers(), copy.branch.overlay
        before = len(self._records)
        hidden: set[bytes] = set()
        while data := _reader.read_raw(copy.fd):
            marked = overlay or b".wh." in data
            if recorded or marked:
                self.marked |= marked
                self._add_any(data, copy, hidden, recorded=recorded, last=last)
            else:
                self._add_plain(data, copy, last=last)
            if len(self._records) > _MOST:
                self._halve()
        self._added.append(len(self._records) - before)
        self._seen |= hidden

    def _add_plain(self, data: bytes, copy: Copy, *, last: bool) -> None:
        """Add raw entries without marks whose numbers are not recorded."""
        unpack, find, packers, prefix = DIRENT64.unpack_from, data.index, PACK, copy.prefix
        children, seen = copy.node.children or {}, self._seen
        least, before = self._least, self.before
        add_offset, add_record = self._offsets.append, self._records.append
        at, stop = 0, len(data)
        while at < stop:
            ino, _, length, kind = unpack(data, at)
            name = data[at + 19 : find(0, at + 19)]
            at += length
            offset = hash(name) & _HASH | _FIRST
            if name in children or ino > INO_MASK or (kind == DT_DIR and name in _DOTS):
                if name in _DOTS:
                    offset = _FIRST + len(name) - 1
                ino = copy.number(name, ino, recorded=False)
            else:
                ino |= prefix
            if not least <= offset < before or name in seen:
                continue
            if not last:
                seen.add(name)
            size = len(name)
            add_offset(offset)
            add_record(packers[size](ino, offset, size, kind, name))

    def _add_any(self, data: bytes, copy: Copy, hidden: set[bytes], *, recorded: bool, last: bool) -> None:
        """Add raw entries; names that the copy hides go to `hidden`."""
        unpack, overlay = DIRENT64.unpack_from, copy.branch.overlay
        children, seen = copy.node.children or {}, self._seen
        at, stop = 0, len(data)
        while at < stop:
            ino, _, length, kind = unpack(data, at)
            name = data[at + 19 : data.index(0, at + 19)]
            at += length
            if name[:4] == whiteout.PREFIX or overlay:
                mark = copy.hides(name, kind)
                if mark is not None and self._least <= _offset_of(mark) < self.before:
                    hidden.add(mark)
                if not copy.shows(name, kind):
                    continue
            offset = _offset_of(name)
            if name in seen or not self._least <= offset < self.before:
                continue
            if not last:
                seen.add(name)
            if recorded or name in children or ino > INO_MASK or (kind == DT_DIR and name in _DOTS):
                ino = copy.number(name, ino, recorded=recorded)
            else:
                ino |= copy.prefix
            self._offsets.append(offset)
            self._records.append(PACK[len(name)](ino, offset, len(name), kind, name))

    def _halve(self) -> None:
        """Keep the lesser half: the rest is read again when it is asked for."""
        self.before = before = sorted(self._offsets)[len(self._offsets) // 2]
        kept = [offset < before for offset in self._offsets]
        self._records = list(compress(self._records, kept))
        self._offsets = list(compress(self._offsets, kept))
        self._seen = {name for name in self._seen if _offset_of(name) < before}

    def sorted(self, *, placed: bool) -> tuple[list[int], list[bytes], bytes]:
        """Return offsets and records in order; if they are to be `placed`, and that is known, also which copy each is of."""
        order = sorted(range(len(self._offsets)), key=self._offsets.__getitem__)
        offsets = list(map(self._offsets.__getitem__, order))
        records = list(map(self._records.__getitem__, order))
        where = b""
        if any(map(eq, offsets, islice(offsets, 1, None))):
            spread(offsets, records)
        elif placed and self.before == _END and len(self._added) <= 256:
            of = b"".join(bytes((position,)) * count for position, count in enumerate(self._added))
            where = bytes(map(of.__getitem__, order))
        return offsets, records, where


def _offset_of(name: bytes) -> int:
    """Return the offset of a name unless another one has it too."""
    return _FIRST + len(name) - 1 if name in _DOTS else hash(name) & _HASH | _FIRST


def spread(offsets: list[int], records: list[bytes]) -> None:
    """Give sorted records of which some have the same offset different ones, by their names."""
    pairs = sorted(zip(offsets, map(name_of, records), records, strict=True))
    last = 0
    for position, (offset, name, record) in enumerate(pairs):
        last = max(offset, last + 1)
        if last != offset:
            ino, _, size, kind = RECORD.unpack_from(record)
            record = PACK[size](ino, last, size, kind, name)
        offsets[position], records[position] = last, record
