# SPDX-License-Identifier: Apache-2.0
"""List a directory of the union: merge its copies, leave out marks and what they hide.

A directory with one copy is streamed with the branch filesystem's own offsets and takes no memory. Several copies give a
snapshot in which an offset is a byte position; it is spooled to disk when it grows. Nothing here is quadratic.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.nodes import Node
from unionfs.syscalls import DirectoryReader
from unionfs.union import Union
from unionfs.whiteout import Layers

_DT_CHR, _DT_REG = 2, 8
_RECORD = struct.Struct("=QBB")  # ino, d_type, length of the name that follows
_SPOOL_LIMIT = 8 << 20
# Names of upper copies kept in memory while merging; beyond this, upper copies are probed by stat instead.
_NAMES_LIMIT = 1 << 18

_reader = DirectoryReader()


class Entry(NamedTuple):
    """One entry: the number the union shows, d_type, name, and the offset of the next entry."""

    ino: int
    kind: int
    name: bytes
    offset: int


def open_list(fd: int) -> int:
    """Return a readable descriptor of the directory behind an O_PATH one."""
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)


def raw_entries(fd: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (ino, next offset, d_type, name) from the descriptor's position to the end."""
    while batch := _reader.read(fd):
        yield from batch


def is_hidden_name(name: bytes) -> bool:
    """Tell whether a name of a branch never shows: the reserved prefix with something behind it."""
    return name.startswith(whiteout.PREFIX) and len(name) > len(whiteout.PREFIX)


class Listing:
    """The entries of one open directory."""

    def __init__(self, union: Union, node: Node) -> None:
        """Open every copy; if one cannot be opened none is, and its error is raised."""
        self._union = union
        self._node = node
        self._layers: list[tuple[OpenBranch, int]] = []
        self._merged: _Merged | None = None
        self._batch: list[tuple[int, int, int, bytes]] = []
        self._index = 0
        self._start = 0
        if node.removed:
            return
        try:
            for branch, fd in union.dirs(node):
                self._layers.append((branch, open_list(fd)))
        except BaseException:
            self.close()
            raise
        if len(self._layers) > 1:
            self._merged = _Merged(union, node, self._layers)

    @property
    def descriptors(self) -> list[tuple[OpenBranch, int]]:
        """Return the (branch, descriptor) pairs that are open."""
        return self._layers

    def read(self, offset: int) -> Iterator[Entry]:
        """Yield entries from `offset`, which is 0 or what an earlier entry carried."""
        if self._merged is not None:
            if offset == 0:
                self._merged.rewind()
            return self._merged.read(offset)
        return self._stream(offset)

    def _stream(self, offset: int) -> Iterator[Entry]:
        """Continue where the last call stopped if the offset says so (a reply takes a fraction of a getdents buffer)."""
        if not self._layers:
            return
        branch, fd = self._layers[0]
        batch, index = self._batch, self._index
        while index > 0 and batch[index - 1][1] != offset:
            index -= 1  # an entry that did not fit is asked for again
        if index == 0 and not (batch and self._start == offset):
            os.lseek(fd, offset, os.SEEK_SET)
            batch = []
        while True:
            while index < len(batch):
                ino, following, kind, name = batch[index]
                index += 1
                self._index = index
                if is_shown(self._union, branch, fd, name, kind):
                    yield Entry(
                        entry_number(self._union, self._node, branch, fd, name, ino), kind, name, following
                    )
            self._start = batch[-1][1] if batch else offset
            batch = self._batch = _reader.read(fd)
            index = self._index = 0
            if not batch:
                return

    def close(self) -> None:
        """Close the descriptors."""
        for _, fd in self._layers:
            os.close(fd)
        self._layers = []
        if self._merged is not None:
            self._merged.close()


def is_shown(union: Union, branch: OpenBranch, fd: int, name: bytes, kind: int) -> bool:
    """Tell whether an entry is none of the union's marks."""
    if name[:4] == b".wh." and is_hidden_name(name):
        return union.options.shwh and not name.startswith(whiteout.META_PREFIX)
    return not (branch.overlay and _is_device_mark(fd, name, kind))


def _is_device_mark(fd: int, name: bytes, kind: int) -> bool:
    if kind not in (_DT_CHR, _DT_REG, 0):
        return False
    status = whiteout.exists(fd, name)
    return status is not None and whiteout.is_overlay_whiteout(fd, name, status)


def entry_number(union: Union, node: Node, branch: OpenBranch, fd: int, name: bytes, ino: int) -> int:
    """Return d_ino of an entry: the same number that stat shows."""
    if name == b".":
        return node.ino
    if name == b"..":
        return node.parent.ino if node.parent is not None else node.ino
    child = node.children.get(name) if node.children else None
    if child is not None:
        return child.ino
    if union.origins or union.is_impure(node, branch):
        status = whiteout.exists(fd, name)
        if status is not None:
            return union.number_of(node, branch, name, status)
    return union.number(os.fstat(fd).st_dev, ino)


class _Merged:
    """A snapshot of a directory with several copies, made as far as it is read."""

    def __init__(self, union: Union, node: Node, layers: list[tuple[OpenBranch, int]]) -> None:
        self._union = union
        self._node = node
        self._layers = layers
        self._spool: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._size = 0
        self._source: Iterator[bytes] = iter(())
        self.rewind()

    def rewind(self) -> None:
        """Start a new snapshot, as rewinddir(3) promises to show changes."""
        self.close()
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_LIMIT)  # noqa: SIM115  # closed by close()
        self._size = 0
        self._source = self._merge()

    def read(self, offset: int) -> Iterator[Entry]:
        position = offset
        while True:
            while position >= self._size:
                if not self._extend():
                    return
            assert self._spool is not None
            self._spool.seek(position)
            ino, kind, length = _RECORD.unpack(self._spool.read(_RECORD.size))
            name = self._spool.read(length)
            position += _RECORD.size + length
            yield Entry(ino, kind, name, position)

    def _extend(self) -> bool:
        record = next(self._source, None)
        if record is None:
            return False
        assert self._spool is not None
        self._spool.seek(self._size)
        self._spool.write(record)
        self._size += len(record)
        return True

    def _merge(self) -> Iterator[bytes]:
        """Scan top to tail: an entry shows unless an upper copy has, or hides, its name."""
        seen: set[bytes] = set()
        for position, (branch, fd) in enumerate(self._layers):
            os.lseek(fd, 0, os.SEEK_SET)
            last = position == len(self._layers) - 1
            above = self._layers[:position]
            hidden: set[bytes] = set()
            for ino, _, kind, name in raw_entries(fd):
                mark = self._marked(branch, fd, name, kind)
                if mark is not None and not last:
                    hidden.add(mark)
                if not is_shown(self._union, branch, fd, name, kind):
                    continue
                if name in seen or (len(seen) >= _NAMES_LIMIT and self._is_above(above, name)):
                    continue
                if not last and len(seen) < _NAMES_LIMIT:
                    seen.add(name)
                number = entry_number(self._union, self._node, branch, fd, name, ino)
                yield _RECORD.pack(number, kind, len(name)) + name
            seen |= hidden

    def _marked(self, branch: OpenBranch, fd: int, name: bytes, kind: int) -> bytes | None:
        """Return the name that an entry hides on lower branches."""
        if branch.whable and is_hidden_name(name) and not name.startswith(whiteout.META_PREFIX):
            return name[len(whiteout.PREFIX) :]
        if branch.overlay and _is_device_mark(fd, name, kind):
            return name
        return None

    def _is_above(self, above: Layers, name: bytes) -> bool:
        return any(
            whiteout.exists(fd, name) is not None or whiteout.is_whited_out(branch, fd, name)
            for branch, fd in above
        )

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def is_empty(layers: Layers) -> bool:
    """Tell whether a directory is logically empty: every name is covered by a whiteout on its branch or above.

    Here `.wh.` names count as whiteouts on every branch, also plain read-only ones, as in AUFS (test_empty).
    """
    hidden: set[bytes] = set()
    for branch, fd in layers:
        readable = open_list(fd)
        try:
            names = []
            for _, _, kind, name in raw_entries(readable):
                if name in (b".", b".."):
                    continue
                if name.startswith(whiteout.PREFIX):
                    hidden.add(name[len(whiteout.PREFIX) :])
                elif branch.overlay and _is_device_mark(fd, name, kind):
                    hidden.add(name)
                else:
                    names.append(name)
                    if name not in hidden and len(names) > len(hidden) + 64:
                        break  # more entries than whiteouts can cover: no need to read a million of them
            if any(name not in hidden for name in names):
                return False
        finally:
            os.close(readable)
    return True


def is_covered(upper: tuple[OpenBranch, int], lower: Layers) -> bool:
    """Tell whether every child on lower copies is whited out, so that the upper copy alone is the directory (AUFS §3.2)."""
    branch, fd = upper
    for lower_branch, lower_fd in lower:
        readable = open_list(lower_fd)
        try:
            for _, _, kind, name in raw_entries(readable):
                if name in (b".", b"..") or name.startswith(whiteout.PREFIX):
                    continue
                if lower_branch.overlay and _is_device_mark(lower_fd, name, kind):
                    continue
                if not whiteout.is_whited_out(branch, fd, name):
                    return False
        finally:
            os.close(readable)
    return True


def count_marks(dirfd: int, name: bytes, limit: int) -> int:
    """Count the entries of a directory that is to be deleted, up to `limit`."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        count = 0
        for _ in raw_entries(fd):
            count += 1
            if count >= limit + 2:  # "." and ".."
                break
        return count - 2
    finally:
        os.close(fd)


def kind_of(mode: int) -> int:
    """Return d_type for a mode."""
    return stat.S_IFMT(mode) >> 12
