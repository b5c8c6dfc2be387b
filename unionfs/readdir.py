# SPDX-License-Identifier: Apache-2.0
"""List a directory of the union: open its copies, and read them from any offset that an entry carried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import repeat

from unionfs.branch import OpenBranch
from unionfs.emptiness import open_list
from unionfs.merge import POSITION_BITS, Copy, Snapshot, Stream
from unionfs.nodes import Node
from unionfs.records import Entry, entries_of
from unionfs.union import Union

_CHUNK = 1 << 16

Place = tuple[OpenBranch, int]  # the branch, and a descriptor of the directory there


class Listing:
    """The entries of one open directory."""

    def __init__(
        self, union: Union, node: Node, generation: int = 0, *, former: bool = False, borrow: bool = False
    ) -> None:
        """Open every copy; if one cannot be opened none is, and its error is raised.

        `generation`, below 1 << 23, gets into the offsets of a snapshot. `former`: go on listing the lowest copy, which was the
        only one when the listing began; what the others have is newer, or has been listed under the same name. `borrow`: read
        through the node's descriptors if they are new, until `part` is called.
        """
        self._layers: list[tuple[OpenBranch, int]] = []
        self._source: Stream | Snapshot | None = None
        self._node = node
        dirs: tuple[Place, ...] = ()
        self._borrowed = False
        if borrow:
            dirs, self._borrowed = union.directories.dirs_to_list(node)
        elif not node.removed:
            dirs = union.dirs(node)
        former = former and len(dirs) > 1
        self.dirs = () if former else dirs
        self._trust = union.trust
        self._fixed = not any(branch.writable for branch, _ in self.dirs)
        if node.removed:
            return
        if self._borrowed:
            self._layers = list(dirs)
        else:
            self._open(dirs[-1:] if former else dirs)
        if len(self._layers) > 1:
            self._source = Snapshot(union, node, self._layers, generation << POSITION_BITS)
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
        if source is None or source.finished:
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
        """Tell whether offsets mean something in this listing only; else they are those of the only copy."""
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
        """Return how many bytes of entries a snapshot has, in memory or on disk."""
        return self._source.size if isinstance(self._source, Snapshot) else 0

    def spool(self) -> None:
        """Hold no entries in memory any more."""
        if self._source is not None:
            self._source.spool()

    def finish(self) -> bool:
        """Make a snapshot independent of the copies, which are closed; False for what is no snapshot."""
        if not isinstance(self._source, Snapshot):
            return False
        self._source.finish()
        self._close_layers()
        return True

    def close_finished(self) -> None:
        """Close the copies if a snapshot has all of their entries."""
        if self._layers and isinstance(self._source, Snapshot) and self._source.finished:
            self._close_layers()

    @property
    def descriptors(self) -> list[tuple[OpenBranch, int]]:
        """Return the (branch, descriptor) pairs that are open."""
        return self._layers

    def packed(self, offset: int, size: int) -> bytes:
        """Return records from `offset`, which is 0 or what an earlier one carried, in at most `size` bytes; none at the end."""
        return self._source.packed(offset, size) if self._source is not None else b""

    def copies(self, offset: int) -> Iterator[Place] | None:
        """Return, for each entry from `offset` that `packed` has just returned, where it is; None if that may have changed.

        It cannot while nobody but us changes the branches, if the listing began just now, or no copy is written to.
        """
        if not self._trust or (offset and not self._fixed) or self._node.dirs is not self.dirs:
            return None
        source = self._source
        if isinstance(source, Stream):
            return repeat(self.dirs[0])
        if source is None or len(self.dirs) > 256:
            return None
        return map(self.dirs.__getitem__, source.copies(offset))

    def read(self, offset: int) -> Iterator[tuple[Entry, Place | None]]:
        """Yield the entries from `offset`, and where each is if that is known (`copies`)."""
        while chunk := self.packed(offset, _CHUNK):
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

    def _close_layers(self) -> None:
        for _, fd in () if self._borrowed else self._layers:
            os.close(fd)
        self._layers = []
