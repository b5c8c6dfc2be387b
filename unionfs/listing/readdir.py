# SPDX-License-Identifier: Apache-2.0
"""List a directory of the union: open its copies, and read them from any offset that an entry carried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import repeat

from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import open_list
from unionfs.kernel.dirents import dirents
from unionfs.listing.listed import Copy, reader
from unionfs.listing.merge import FIRST, is_ours, is_streamed
from unionfs.listing.records import Entry, entries_of
from unionfs.listing.snapshot import Snapshot
from unionfs.listing.stream import Stream
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

_CHUNK = 1 << 16


Place = tuple[OpenBranch, int]  # the branch, and a descriptor of the directory there


class Listing:
    """The entries of one open directory."""

    def __init__(
        self,
        union: Union,
        node: Node,
        *,
        former: bool = False,
        streamed: bool | None = None,
        borrow: bool = False,
    ) -> None:
        """Open every copy; if one cannot be opened none is, and its error is raised.

        `former`: go on listing the lowest copy, which was the only one when the listing began; what the others have is newer, or
        has been listed under the same name. `streamed`: whether the listing goes on at an offset of one whose lowest copy is.
        `borrow`: read through the node's descriptors if they are new, until `part`.
        """
        self._layers: list[tuple[OpenBranch, int]] = []
        self._source: Stream | Snapshot | None = None
        # For who began when the directory had one copy, or the lowest one was not written to.
        self._former: Stream | Snapshot | None = None
        self._union = union
        self._node = node
        dirs: tuple[Place, ...] = ()
        self._borrowed = False
        if borrow:
            dirs, self._borrowed = union.directories.dirs_to_list(node)
        elif not node.removed:
            dirs = union.dirs(node)
        former = former and len(dirs) > 1
        self.dirs: tuple[Place, ...] = () if former else dirs
        self._trust = union.trust
        self._fixed = not any(branch.writable for branch, _ in self.dirs)
        if node.removed:
            return
        if self._borrowed:
            self._layers = list(dirs)
        else:
            self._open(dirs[-1:] if former else dirs)
        if len(self._layers) > 1:
            self._source = Snapshot(
                union,
                node,
                self._layers,
                streamed=_may_stream(union, self._layers[-1][0]) if streamed is None else streamed,
            )
        else:
            self._source = Stream(Copy(union, node, *self._layers[0]))

    def _open(self, dirs: tuple[Place, ...]) -> None:
        try:
            for branch, fd in dirs:
                self._layers.append((branch, open_list(fd)))
        except BaseException:
            self.close()
            raise

    def part(self) -> None:
        """Read on, if there is more to be read, through descriptors of our own: the node may close its before that."""
        if not self._borrowed:
            return
        borrowed, self._layers, self._borrowed = self._layers, [], False
        source = self._source
        if source is None or (source.finished if isinstance(source, Stream) else not source.needed):
            return
        for branch, fd in borrowed:
            self._layers.append((branch, os.dup(fd)))  # which has the same position
        source.use([fd for _, fd in self._layers])

    @property
    def end(self) -> int:
        """Return the offset of the end if what `packed` returned last were the last records there are, else 0."""
        return self._source.end if self._source is not None else 0

    @property
    def is_snapshot(self) -> bool:
        """Tell whether there are several copies."""
        return isinstance(self._source, Snapshot)

    @property
    def unmarked(self) -> bool:
        """Tell whether all copies of several have been read and have no whiteouts."""
        source = self._source
        return isinstance(source, Snapshot) and source.finished and not source.marked

    @property
    def memory(self) -> int:
        """Return how many bytes of entries are held in memory."""
        return self._source.memory if self._source is not None else 0

    @property
    def size(self) -> int:
        """Return how many bytes of entries a snapshot holds."""
        return self._source.size if isinstance(self._source, Snapshot) else 0

    def is_next(self, offset: int) -> bool:
        """Tell whether an offset is where the only copy has been read to."""
        return isinstance(self._source, Stream) and self._source.offset == offset

    def has(self, offset: int) -> bool:
        """Tell whether an offset is that of an entry in a snapshot, and what follows is known."""
        return isinstance(self._source, Snapshot) and self._source.has(offset)

    def covers(self, offset: int) -> bool:
        """Tell whether what follows an offset is known by a snapshot."""
        return isinstance(self._source, Snapshot) and self._source.covers(offset)

    def release(self) -> None:
        """Close those copies of a snapshot that are not read any more."""
        if isinstance(self._source, Snapshot):
            self._close_layers(keep=self._source.needed)

    def spool(self) -> None:
        """Hold nothing in memory that can be read again."""
        if self._source is not None:
            self._source.spool()

    @property
    def descriptors(self) -> list[tuple[OpenBranch, int]]:
        """Return the (branch, descriptor) pairs that are open."""
        return self._layers

    def packed(self, offset: int, size: int, *, placed: bool = False) -> bytes:
        """Return records from `offset`, which is 0 or what an earlier one carried, in at most `size` bytes; none at the end.

        `placed`: `copies` will be asked for. The offset may also be one of the lowest copy's, from when it was the only one.
        """
        source = self._source
        if source is None or self._node.removed:
            return b""
        if isinstance(source, Stream):
            return source.packed(offset, size)
        if offset and not source.has(offset) and len(self._layers) > 1:
            source = self._find_former(source, offset)
        if isinstance(source, Stream):
            return source.packed(offset, size)
        return source.packed(offset, size, placed=placed)

    def _find_former(self, source: Snapshot, offset: int) -> Stream | Snapshot:
        """Return what goes on at an offset that is perhaps none of a snapshot's."""
        source.has_moved()
        if not is_ours(offset) or not has_offset(self._layers[-1][1], offset):
            streamed = is_streamed(offset)
            if streamed == source.streams:
                return source
            if not isinstance(self._former, Snapshot):
                self._former = Snapshot(self._union, self._node, self._layers, streamed=streamed)
                self._former.has_moved()
            return self._former
        if not isinstance(self._former, Stream):
            self._former = Stream(Copy(self._union, self._node, *self._layers[-1]))
        self._former.spool()
        return self._former

    def copies(self, offset: int) -> Iterator[Place | None] | None:
        """Return, for each entry from `offset` that `packed` has just returned, where it is; None if that may have changed.

        It cannot while nobody but us changes the branches, if the listing began just now, or no copy is written to. Of single
        entries it may not be known.
        """
        if not self._trust or (offset and not self._fixed) or self._node.dirs is not self.dirs:
            return None
        if self._former is not None:
            return None
        source = self._source
        if isinstance(source, Stream):
            return repeat(self.dirs[0])
        where = source.copies(offset) if source is not None else None
        if where is None:
            return None
        return (self.dirs[position] if position is not None else None for position in where)

    def read(self, offset: int) -> Iterator[tuple[Entry, Place | None]]:
        """Yield the entries from `offset`, and where each is if that is known (`copies`)."""
        while chunk := self.packed(offset, _CHUNK, placed=True):
            places: Iterator[Place | None] | None = self.copies(offset)
            if places is None:
                places = repeat(None)
            for entry, place in zip(entries_of(chunk), places, strict=False):
                offset = entry.offset
                yield entry, place

    def close(self) -> None:
        """Close the descriptors."""
        self._close_layers()
        if isinstance(self._source, Snapshot):
            self._source.close()
        self._source = None

    def _close_layers(self, keep: int = 0) -> None:
        """Close the copies but for some of the lowest."""
        if self._borrowed:
            self._layers = []
        while len(self._layers) > keep:
            os.close(self._layers.pop(0)[1])


def _may_stream(union: Union, lowest: OpenBranch) -> bool:
    """Tell whether entries of the lowest copy stay where they are, whatever is done while they are listed."""
    if lowest.writable or not lowest.counts:
        return False
    return lowest.steady or union.trust or lowest.permission == "rr"


def has_offset(fd: int, offset: int) -> bool:
    """Tell whether an offset that looks like ours is one of the filesystem's own, in a directory open for listing."""
    os.lseek(fd, FIRST, os.SEEK_SET)
    while data := reader.read_raw(fd):
        if any(following == offset for _, following, _, _, _ in dirents(data)):
            return True
    return False
