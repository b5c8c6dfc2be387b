# SPDX-License-Identifier: Apache-2.0
"""Listings of directories that nobody opens: the kernel reads them by the directory alone (FUSE's no_opendir).

A listing that begins at offset 0 is new, one that goes on is found by the directory and by what its offset carries: the
generation of its snapshot, or 0 for the stream of an only copy. What was read to its end is dropped, except snapshots of
which the kernel may have cached a part and ask for the rest. A listing that is missed is made again; it goes on at the same
place as long as the directory did not change.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Iterator

from unionfs.branch import OpenBranch
from unionfs.descriptor import Descriptor, Errand
from unionfs.emptiness import open_list
from unionfs.merge import POSITION_BITS
from unionfs.nodes import Node
from unionfs.readdir import Listing, Place
from unionfs.union import Union

_GENERATIONS = 1 << 63 - POSITION_BITS
# So many listings are kept, and so many bytes of entries in memory; of those that were read to their end fewer.
_MOST = 256
_MEMORY = 16 << 20
_MEMORY_ENDED = 2 << 20
# The kernel asks for at most so many bytes at a time for most programs: it gets a smaller listing at once.
_AT_ONCE = 1 << 15
_SMALL = 1 << 16
_SPOOLED = 1 << 18  # what one on disk counts as

Key = tuple[Node, int]


class _Kept:
    """A listing, by how many it is being read, and what it takes."""

    __slots__ = ("descriptors", "ended", "listing", "memory", "readers")

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.readers = 1
        self.ended = False
        self.descriptors = len(listing.descriptors)
        self.memory = 0


class Listings:
    """The listings of one union that are being read; bounded in number, memory and descriptors."""

    def __init__(self, union: Union) -> None:
        self._union = union
        union.on_forgotten = self.drop
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()  # least recently used first
        self._generations: dict[Node, set[int]] = {}  # of the listings of each directory
        self._ends: OrderedDict[Node, int] = (
            OrderedDict()
        )  # the offset at which each directory's last listing ended
        self._last = 0  # the generation of the newest snapshot
        self._highest = 0  # of any so far
        self._memory = 0
        self._descriptors = 0
        self._most_descriptors = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)

    def __len__(self) -> int:
        """Return how many listings are kept."""
        return len(self._kept)

    @property
    def descriptors(self) -> int:
        """Return how many descriptors they have open."""
        return self._descriptors

    def read(
        self, node: Node, offset: int, size: int, *, placed: bool = False
    ) -> tuple[bytes, Iterator[Place] | None]:
        """Return records of a directory from `offset` in at most `size` bytes, none at the end.

        With `placed` also where each is, if that is known (`Listing.copies`).
        """
        if offset == 0:
            if not node.removed and (node, 0) not in self._kept:
                return self._read_new(node, size, placed=placed)
        elif self._ends.get(node) == offset:
            return b"", None
        key, kept = self._find(node, offset)
        listing = kept.listing
        records = listing.packed(offset, size)
        if key is None:
            return records, None
        places = listing.copies(offset) if placed else None
        listing.close_finished()
        self._has_read(key, kept)
        return records, places

    def _read_new(self, node: Node, size: int, *, placed: bool) -> tuple[bytes, Iterator[Place] | None]:
        """Begin a listing; one that this reads to its end is not kept, unless the kernel may come back for a part of it."""
        listing, generation = self._new(node, borrow=True)
        try:
            records = listing.packed(0, size)
            places = listing.copies(0) if placed else None
            if self._union.trust and listing.unmarked:
                self._union.known.know_unmarked(node, listing.dirs)
            if (end := listing.end) and listing.size <= _AT_ONCE:
                listing.close()
                self._ended(node, end)
                return records, places
            listing.part()
        except BaseException:
            listing.close()
            raise
        key = node, generation
        self._has_read(key, self._keep(key, listing))
        return records, places

    def _has_read(self, key: Key, kept: _Kept) -> None:
        listing = kept.listing
        self._account(kept)
        if listing.end:
            self._end(key, kept, listing.end)
        elif self._memory > _MEMORY or self._descriptors > self._most_descriptors:
            self._shrink(kept)

    def _find(self, node: Node, offset: int) -> tuple[Key | None, _Kept]:
        if offset and not node.removed:
            for generation in (offset >> POSITION_BITS, 0):
                key = node, generation
                kept = self._kept.get(key)
                if kept is not None:
                    if generation and offset == generation << POSITION_BITS:
                        break  # sought: nothing ends there
                    self._kept.move_to_end(key)
                    return key, kept
        return self._begin(node, former=bool(offset) and not 0 < offset >> POSITION_BITS <= self._highest)

    def _begin(self, node: Node, *, former: bool = False) -> tuple[Key | None, _Kept]:
        """Begin a listing; one of a removed directory holds nothing and is not kept.

        `former`: the offset is of the stream of an only copy, while there may be more copies by now.
        """
        if node.removed:
            self.drop(node)
            return None, _Kept(Listing(self._union, node))
        known = self._kept.get((node, 0))
        if known is not None and known.listing.dirs is node.dirs:
            known.readers += 1
            self._ends.pop(node, None)
            self._kept.move_to_end((node, 0))
            return (node, 0), known
        listing, generation = self._new(node, former=former)
        key = node, generation
        return key, self._keep(key, listing)

    def _new(self, node: Node, *, former: bool = False, borrow: bool = False) -> tuple[Listing, int]:
        """Return a new listing and its generation."""
        generation = self._last % (_GENERATIONS - 1) + 1
        listing = Listing(self._union, node, generation, former=former, borrow=borrow)
        if not listing.is_snapshot:
            self._ends.pop(node, None)  # there may be more since
            return listing, 0
        self._last = generation
        if generation > self._highest:
            self._highest = generation
        return listing, generation

    def _keep(self, key: Key, listing: Listing) -> _Kept:
        node, generation = key
        kept = _Kept(listing)
        if key in self._kept:
            kept.readers += self._kept[key].readers
            self._close(key)
        self._kept[key] = kept
        self._generations.setdefault(node, set()).add(generation)
        self._descriptors += kept.descriptors
        if len(self._kept) > _MOST:
            self._close(next(iter(self._kept)))
        return kept

    def _account(self, kept: _Kept) -> None:
        listing = kept.listing
        memory, descriptors = listing.memory, len(listing.descriptors)
        self._memory += memory - kept.memory
        self._descriptors += descriptors - kept.descriptors
        kept.memory, kept.descriptors = memory, descriptors

    def _end(self, key: Key, kept: _Kept, offset: int) -> None:
        """Drop what one reader has read to its end, unless the kernel may come back for a part of it.

        What is left for that reader to be told is that there is no more.
        """
        self._ended(key[0], offset)
        kept.readers -= 1
        if kept.listing.size <= _AT_ONCE:
            if kept.readers <= 0:
                self._close(key)
            return
        kept.ended = True
        room = _MEMORY_ENDED
        for other in reversed(list(self._kept)):
            if self._kept[other].ended:
                room -= self._kept[other].memory or _SPOOLED
                if room < 0:
                    self._close(other)

    def _ended(self, node: Node, offset: int) -> None:
        self._ends[node] = offset
        self._ends.move_to_end(node)
        if len(self._ends) > _MOST:
            self._ends.popitem(last=False)

    def _shrink(self, used: _Kept) -> None:
        """Move entries to disk and close copies, of what was not used for longest first."""
        for key, kept in list(self._kept.items()):
            if self._memory <= _MEMORY and self._descriptors <= self._most_descriptors:
                return
            if kept is used:
                continue
            if self._descriptors > self._most_descriptors and not kept.listing.finish():
                self._close(key)
                continue
            kept.listing.spool()
            self._account(kept)

    def _close(self, key: Key) -> None:
        kept = self._kept.pop(key)
        generations = self._generations[key[0]]
        generations.discard(key[1])
        if not generations:
            del self._generations[key[0]]
        kept.listing.close()
        self._memory -= kept.memory
        self._descriptors -= kept.descriptors

    def write_back(self, node: Node) -> Errand:
        """Return what writes a directory back on its writable branches."""
        copies = [] if node.removed else [fd for branch, fd in self._union.dirs(node) if branch.writable]
        opened: list[Descriptor] = []
        try:
            for fd in copies:
                opened.append(Descriptor(open_list(fd)))
        except BaseException:
            for descriptor in opened:
                descriptor.drop()
            raise

        def work() -> None:
            for descriptor in opened:
                os.fsync(descriptor.fd)

        return Errand(work, tuple(opened))

    def drop(self, node: Node) -> None:
        """Drop every listing of a directory."""
        self._ends.pop(node, None)
        for generation in list(self._generations.get(node, ())):
            self._close((node, generation))

    def leave(self, branch: OpenBranch) -> None:
        """Close every descriptor on a branch, which is about to be removed; snapshots can be read on."""
        for key, kept in list(self._kept.items()):
            if any(candidate.id == branch.id for candidate, _ in kept.listing.descriptors):
                if kept.listing.finish():
                    self._account(kept)
                else:
                    self._close(key)

    def give_back(self) -> None:
        """Give memory back: nobody lists anything just now."""
        for key, kept in list(self._kept.items()):
            if kept.ended:
                self._close(key)
            elif kept.memory > _SMALL or not kept.listing.is_snapshot:
                kept.listing.spool()
                self._account(kept)

    def close(self) -> None:
        """Close every listing."""
        self._ends.clear()
        for key in list(self._kept):
            self._close(key)
