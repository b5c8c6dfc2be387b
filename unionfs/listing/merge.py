# SPDX-License-Identifier: Apache-2.0
"""Merge copies of a directory: by name what they have and what they hide, in the order of offsets that only the names decide."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator
from itertools import accumulate, chain, repeat
from operator import sub

from unionfs.branches.identity import INO_MASK
from unionfs.kernel.dirents import dirents
from unionfs.listing.bloom import Sieve
from unionfs.listing.listed import Copy, reader
from unionfs.listing.records import DT_DIR, PACK, RECORD, name_of

# An offset of ours has ten bits that are set, one that tells the range, and 52 of the name's hash. Filesystems count entries, or
# (ext4) hash names to 63 bits: one in a thousand of those looks like ours.
_BITS = 53
_OURS = (1 << 63 - _BITS) - 1
FIRST = _OURS << _BITS  # where names begin that are sorted, if all are
# Where those begin that follow a stream. They have a range of their own: an offset tells by itself what is to follow.
TAIL = FIRST | 1 << _BITS - 1
_HASH = (1 << _BITS - 1) - 1
END = 1 << 63  # above every offset
DOTS = (b".", b"..")  # which have FIRST and FIRST | 1
# Names of the same hash get the next offsets, in their own order; more than so many never are.
_CLASHES = 8
MOST = 1 << 17  # names kept in memory


def is_ours(offset: int) -> bool:
    """Tell whether an offset looks like one of ours."""
    return offset >> _BITS == _OURS


def is_streamed(offset: int) -> bool:
    """Tell whether an offset is of a listing whose lowest copy is streamed."""
    return offset >= TAIL or offset < FIRST


def offset_of(name: bytes, base: int) -> int:
    """Return the offset of a name, in the range from `base` on, unless another one has it too."""
    return base + len(name) - 1 if name in DOTS else hash(name) & _HASH | base | 2


class Merge:
    """What the copies that were added so far have, and hide, by name; if it is too much, that of the lesser offsets."""

    def __init__(self, base: int, after: int = 0, before: int = END, *, sieved: bool = False) -> None:
        """Take names whose offsets are greater than `after` and less than `before`; `sieved`: remember what else there may be.

        `base`: where their offsets begin, FIRST or TAIL.
        """
        self.base = base
        self.records: dict[bytes, bytes] = {}  # nothing for what is hidden
        self.marked = False
        self.before = before
        self.after = after
        self._sieved = sieved
        self.further: Sieve | None = None  # names that are not in `records`
        self._least = max(0, after - _CLASHES)  # what may be moved beyond `after`
        self._ends: list[int] = []  # how many names there were when each copy had been added

    @property
    def complete(self) -> bool:
        """Tell whether no name was left out."""
        return self.after == 0 and self.before == END

    def add(self, copy: Copy, data: bytes = b"", *, dots: bool = False, bounded: bool = True) -> None:
        """Read a copy below those that were read before; what it hides it hides from those that follow.

        `data`: raw entries before the descriptor's position. `bounded`: leave names out if there are too many.
        """
        recorded, overlay = copy.records_numbers(), copy.branch.overlay
        hidden: list[bytes] = []
        while data := data or reader.read_raw(copy.fd):
            marked = overlay or b".wh." in data
            if marked:
                self.marked = True
                self._add_any(data, copy, hidden, recorded=recorded, dots=dots)
            else:
                self._add_plain(data, copy, recorded=recorded, dots=dots)
            data = b""
            if bounded and len(self.records) > MOST:
                self._halve()
        for name in hidden:
            self.records.setdefault(name, b"")
        self._ends.append(len(self.records))

    def _add_plain(self, data: bytes, copy: Copy, *, recorded: bool, dots: bool) -> None:
        """Add raw entries without marks."""
        packers, prefix = PACK, copy.prefix
        children, records = copy.node.children or {}, self.records
        least, before, names = self._least, self.before, self.base | 2
        for ino, _, kind, name, _ in dirents(data):
            if name in records:
                continue
            offset = hash(name) & _HASH | names
            if recorded or name in children or ino > INO_MASK or (kind == DT_DIR and name in DOTS):
                if name in DOTS:
                    if not dots:
                        continue
                    offset = offset_of(name, self.base)
                ino = copy.number(name, ino, recorded=recorded)
            else:
                ino |= prefix
            if not least <= offset < before:
                self._leave(name)
                continue
            size = len(name)
            records[name] = packers[size](ino, offset, size, kind, name)

    def _add_any(self, data: bytes, copy: Copy, hidden: list[bytes], *, recorded: bool, dots: bool) -> None:
        """Add raw entries; names that the copy hides go to `hidden`."""
        for ino, _, kind, name, _ in dirents(data):
            mark = copy.hides(name, kind)
            if mark is not None and self._takes(mark):
                hidden.append(mark)
            if not copy.shows(name, kind) or (name in DOTS and not dots):
                continue
            if name not in self.records and self._takes(name):
                ino = copy.number(name, ino, recorded=recorded)
                offset = offset_of(name, self.base)
                self.records[name] = PACK[len(name)](ino, offset, len(name), kind, name)

    def _takes(self, name: bytes) -> bool:
        if self._least <= offset_of(name, self.base) < self.before:
            return True
        self._leave(name)
        return False

    def _leave(self, name: bytes) -> None:
        if self.further is not None:
            self.further.add(name)

    def _halve(self) -> None:
        """Keep the lesser half: the rest is read again when it is asked for."""
        offsets = [offset_of(name, self.base) for name in self.records]
        self.before = before = sorted(offsets)[len(offsets) // 2]
        if self._sieved and self.further is None:
            self.further = Sieve()
        for name, offset in zip(list(self.records), offsets, strict=True):
            if offset >= before:
                self._leave(name)
                del self.records[name]
        self._ends = []

    def places(self) -> Iterator[int] | None:
        """Return which of the added copies each of `records` is of, if that is known; not for more than 256 copies."""
        if not self._ends or not self.complete or len(self._ends) > 256:
            return None
        counts = map(sub, self._ends, [0, *self._ends])
        return chain.from_iterable(repeat(position, count) for position, count in enumerate(counts))


class Ordered:
    """The records of a merge in the order of their offsets."""

    def __init__(self, merge: Merge, elsewhere: Container[bytes] = (), *, placed: bool = False) -> None:
        """Take what shows, but for names that are listed `elsewhere`; `placed`: `copies` will be asked for."""
        self._base = merge.base
        self.after, self.before = merge.after, merge.before  # the entries with offsets between them are here
        if elsewhere:
            names = [name for name, record in merge.records.items() if record and name not in elsewhere]
        else:
            names = [name for name, record in merge.records.items() if record]
        base = merge.base | 2
        by_offset = {hash(name) & _HASH | base: name for name in names}
        for name in DOTS:
            if by_offset.get(hash(name) & _HASH | base) == name:
                del by_offset[hash(name) & _HASH | base]
                by_offset[offset_of(name, merge.base)] = name
        offsets = sorted(by_offset)
        names_in_order = map(by_offset.__getitem__, offsets)
        self._where = b""  # which copy each is of
        if len(offsets) != len(names):
            offsets, records = _spread_all(merge, names)
        elif placed and (places := merge.places()) is not None:
            copy_of = dict(zip(merge.records, places, strict=True))
            ordered = list(names_in_order)
            records = list(map(merge.records.__getitem__, ordered))
            self._where = bytes(map(copy_of.__getitem__, ordered))
        else:
            records = list(map(merge.records.__getitem__, names_in_order))
        self._offsets, self._ends = array("Q", offsets), array("Q", accumulate(map(len, records)))
        self._records = b"".join(records)

    @property
    def count(self) -> int:
        """Return how many there are."""
        return len(self._offsets)

    @property
    def size(self) -> int:
        """Return how many bytes the records take."""
        return len(self._records)

    @property
    def memory(self) -> int:
        """Return how many bytes all takes."""
        return len(self._records) + 16 * len(self._offsets)

    def covers(self, offset: int) -> bool:
        """Tell whether what follows an offset is known."""
        if offset < self.after:
            return False
        return self.before == END or (self.count > 0 and offset < self._offsets[-1])

    def has(self, offset: int) -> bool:
        """Tell whether an offset is that of an entry, and what follows is known."""
        place = bisect_left(self._offsets, offset)
        return place < len(self._offsets) and self._offsets[place] == offset and self.covers(offset)

    def packed(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return records behind an offset in at most `size` bytes, and the offset of the last if there are no more, else 0."""
        first = bisect_right(self._offsets, offset)
        begin = self._ends[first - 1] if first else 0
        last = bisect_right(self._ends, begin + size, first)
        complete = last == len(self._ends) and self.before == END
        end = (self._offsets[-1] if last else offset or self._base) if complete else 0
        return self._records[begin : self._ends[last - 1]] if last > first else b"", end

    def copies(self, offset: int) -> memoryview | None:
        """Return which copy each entry behind an offset is of, if that is known."""
        return memoryview(self._where)[bisect_right(self._offsets, offset) :] if self._where else None


def _spread_all(merge: Merge, names: list[bytes]) -> tuple[list[int], list[bytes]]:
    pairs = sorted((offset_of(name, merge.base), merge.records[name]) for name in names)
    offsets, found = [offset for offset, _ in pairs], [record for _, record in pairs]
    spread(offsets, found)
    return offsets, found


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
