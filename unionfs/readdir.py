# SPDX-License-Identifier: Apache-2.0
"""List a directory of the union: merge its copies, leave out marks and what they hide.

A directory with one copy is streamed with the branch filesystem's own offsets and takes no memory. Several copies give a
snapshot in which an offset is a byte position; it is spooled to disk when it grows. Nothing here is quadratic.

Entries are kept packed in the form of FUSE's READDIR reply (`fuse_dirent`): on this path a Python object for each entry
would cost more than everything else.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from struct import Struct
from typing import IO, NamedTuple

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.emptiness import is_device_mark, open_list
from unionfs.identity import INO_MASK
from unionfs.nodes import Node
from unionfs.sieve import Sieve
from unionfs.syscalls import DIRENT64, DirectoryReader
from unionfs.union import Union
from unionfs.whiteout import Layers

# Each record is ino, offset of the next one, length of the name, d_type; then the name, padded to 8 bytes.
RECORD = Struct("=QQII")
_PADDING = [bytes(-length & 7) for length in range(256)]

_SPOOL_LIMIT = 8 << 20
_CHUNK = 1 << 16
# Names of upper copies kept in memory while merging; of further ones a sieve knows which may be there, and those are probed
# by stat.
_NAMES_LIMIT = 1 << 18

_reader = DirectoryReader()


class Entry(NamedTuple):
    """One entry: the number the union shows, d_type, name, and the offset of the next entry."""

    ino: int
    kind: int
    name: bytes
    offset: int


def entries_of(packed: bytes) -> Iterator[Entry]:
    """Yield the entries of packed records."""
    position, end, unpack = 0, len(packed), RECORD.unpack_from
    while position < end:
        ino, offset, length, kind = unpack(packed, position)
        position += 24
        yield Entry(ino, kind, packed[position : position + length], offset)
        position += length + 7 & ~7


class Listing:
    """The entries of one open directory."""

    def __init__(self, union: Union, node: Node) -> None:
        """Open every copy; if one cannot be opened none is, and its error is raised."""
        self._layers: list[tuple[OpenBranch, int]] = []
        self._source: _Stream | _Merged | None = None
        self._node = node
        self._dirs = () if node.removed else union.dirs(node)
        self._fixed = union.trust and not any(branch.writable for branch, _ in self._dirs)
        if node.removed:
            return
        try:
            for branch, fd in self._dirs:
                self._layers.append((branch, open_list(fd)))
        except BaseException:
            self.close()
            raise
        if len(self._layers) > 1:
            self._source = _Merged(union, node, self._layers)
        else:
            self._source = _Stream(_Copy(union, node, *self._layers[0]))

    @property
    def descriptors(self) -> list[tuple[OpenBranch, int]]:
        """Return the (branch, descriptor) pairs that are open."""
        return self._layers

    def packed(self, offset: int, size: int) -> bytes:
        """Return records from `offset`, which is 0 or what an earlier one carried, in at most `size` bytes; none at the end."""
        return self._source.packed(offset, size) if self._source is not None else b""

    def copies(self, offset: int) -> Iterator[tuple[OpenBranch, int]] | None:
        """Return, for each entry from `offset` that `packed` has returned, where it is; None if that may have changed.

        It cannot while nobody but us changes the branches, and all copies are on branches that are not written to.
        """
        source = self._source
        if not isinstance(source, _Merged) or not self._fixed or self._node.dirs is not self._dirs:
            return None
        return source.copies(offset)

    def read(self, offset: int) -> Iterator[Entry]:
        """Yield the entries from `offset`."""
        while chunk := self.packed(offset, _CHUNK):
            for entry in entries_of(chunk):
                offset = entry.offset
                yield entry

    def close(self) -> None:
        """Close the descriptors."""
        for _, fd in self._layers:
            os.close(fd)
        self._layers = []
        if isinstance(self._source, _Merged):
            self._source.close()
        self._source = None


class _Copy:
    """One copy of a directory that is being read: which of its entries show, and under which number."""

    def __init__(self, union: Union, node: Node, branch: OpenBranch, fd: int) -> None:
        self.union = union
        self.node = node
        self.branch = branch
        self.fd = fd
        self.device = os.fstat(fd).st_dev

    def shows(self, name: bytes, kind: int) -> bool:
        """Tell whether an entry is none of the union's marks: the reserved prefix with something behind it, or a device."""
        if name[:4] == whiteout.PREFIX and len(name) > len(whiteout.PREFIX):
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


class _Stream:
    """The only copy of a directory, read as far as it is asked for."""

    def __init__(self, copy: _Copy) -> None:
        self._copy = copy
        self._data = b""
        self._position = 0
        self._offset = 0  # of the entry at `_position`
        self._begun = False

    def packed(self, offset: int, size: int) -> bytes:
        copy = self._copy
        fd = copy.fd
        recorded = copy.records_numbers()
        overlay = copy.branch.overlay
        if offset != self._offset or (offset == 0 and self._begun):
            os.lseek(fd, offset, os.SEEK_SET)
            self._data, self._position = b"", 0
        self._begun = True
        data, position = self._data, self._position
        parts: list[bytes] = []
        pack, unpack, paddings = RECORD.pack, DIRENT64.unpack_from, _PADDING
        prefix, plain = copy.prefix, not (recorded or copy.node.children)
        while True:
            if position >= len(data):
                data = _reader.read_raw(fd)
                position = 0
                if not data:
                    break
            ino, following, length, kind = unpack(data, position)
            name = data[position + 19 : data.index(0, position + 19)]
            if (name[:4] != b".wh." and not overlay) or copy.shows(name, kind):
                size_of_name = len(name)
                size -= size_of_name + 31 & ~7
                if size < 0:
                    break
                if plain and ino <= INO_MASK and name[:1] != b".":
                    ino |= prefix
                else:
                    ino = copy.number(name, ino, recorded=recorded)
                parts += (pack(ino, following, size_of_name, kind), name, paddings[size_of_name])
            position += length
            offset = following
        self._data, self._position, self._offset = data, position, offset
        return b"".join(parts)


class _Merged:
    """A snapshot of a directory with several copies, made as far as it is read."""

    def __init__(self, union: Union, node: Node, layers: list[tuple[OpenBranch, int]]) -> None:
        self._copies = [_Copy(union, node, branch, fd) for branch, fd in layers]
        self._layers = layers
        self._memory = bytearray()  # the records, while they are few; then they are in `_spool`
        self._spool: IO[bytes] | None = None
        self._begun = False
        self._ends = array("Q")  # where each record ends
        self._where = bytearray()  # which copy each is of; not for more than 256 copies
        self._source: Iterator[bytes] = iter(())

    def packed(self, offset: int, size: int) -> bytes:
        # At 0 also after rewinddir(3), which promises to show changes. In the middle when the kernel had the beginning cached
        # from another open of the directory, and lost it: what did not change is merged in the same order.
        if offset == 0 or not self._begun:
            self._start()
        while self._size < offset + size:
            records = next(self._source, None)
            if records is None:
                break
            self._keep(records)
        position = bisect_right(self._ends, offset + size)
        end = self._ends[position - 1] if position else 0
        if end <= offset:
            return b""
        if self._spool is None:
            return bytes(self._memory[offset:end])
        self._spool.seek(offset)
        return self._spool.read(end - offset)

    def _keep(self, records: bytes) -> None:
        if self._spool is None:
            self._memory += records
            if len(self._memory) < _SPOOL_LIMIT:
                return
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
            records = bytes(self._memory)
            self._memory = bytearray()
        self._spool.seek(0, os.SEEK_END)
        self._spool.write(records)

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _start(self) -> None:
        self.close()
        for copy in self._copies if self._begun else ():
            os.lseek(copy.fd, 0, os.SEEK_SET)
        self._begun = True
        self._ends = array("Q")
        self._where = bytearray()
        self._source = self._merge()

    def copies(self, offset: int) -> Iterator[tuple[OpenBranch, int]] | None:
        if len(self._layers) > 256:
            return None
        first = bisect_right(self._ends, offset) if offset else 0
        return map(self._layers.__getitem__, self._where[first:])

    def _merge(self) -> Iterator[bytes]:
        """Scan top to tail: an entry shows unless an upper copy has, or hides, its name. Yields many records at a time."""
        seen: set[bytes] = set()
        further: Sieve | None = None
        ends = self._ends
        end = 0
        pack, unpack, paddings = RECORD.pack, DIRENT64.unpack_from, _PADDING
        for position, copy in enumerate(self._copies):
            last = position == len(self._copies) - 1
            above = self._layers[:position]
            overlay = copy.branch.overlay
            recorded = copy.records_numbers()
            prefix, plain = copy.prefix, not (recorded or copy.node.children)
            hidden: set[bytes] = set()
            while data := _reader.read_raw(copy.fd):
                parts: list[bytes] = []
                at, stop = 0, len(data)
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
                    if name in seen or (further is not None and name in further and _is_above(above, name)):
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
                    if plain and ino <= INO_MASK and name[:1] != b".":
                        ino |= prefix
                    else:
                        ino = copy.number(name, ino, recorded=recorded)
                    parts += (pack(ino, end, size, kind), name, paddings[size])
                self._where += bytes((position & 255,)) * (len(ends) - len(self._where))
                if parts:
                    yield b"".join(parts)
            seen |= hidden

    def close(self) -> None:
        self._memory = bytearray()
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def _is_above(above: Layers, name: bytes) -> bool:
    return any(
        whiteout.exists(fd, name) is not None or whiteout.is_whited_out(branch, fd, name)
        for branch, fd in above
    )
