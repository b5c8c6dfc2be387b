# SPDX-License-Identifier: Apache-2.0
"""Listings of directories that nobody opens: the kernel reads them by the directory alone (FUSE's no_opendir).

A listing that begins at offset 0 is new. One that goes on is found by the directory and the offset, which means the same in
every listing of it: so all readers of a directory go on in the newest one, which has whatever was there when any of them began,
and one that is missed is made again. What was read to its end is dropped, except snapshots of which the kernel may have cached a
part and ask for the rest.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Iterator

from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import open_list
from unionfs.kernel.descriptor import Descriptor, Errand
from unionfs.listing.merge import is_ours, is_streamed
from unionfs.listing.readdir import Listing, Place, has_offset
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

# So many listings are kept, and so many bytes of entries in memory; of those that were read to their end fewer.
_MOST = 256
_MEMORY = 16 << 20
_MEMORY_ENDED = 2 << 20
# The kernel asks for at most so many bytes at a time for most programs: it gets a smaller listing at once.
_AT_ONCE = 1 << 15
_SMALL = 1 << 16
_STREAM = 0

Key = tuple[Node, int]  # the second is _STREAM for an only copy, else the snapshot's own


class _Kept:
    """A listing, by how many it is being read, and what it takes."""

    __slots__ = ("descriptors", "ended", "listing", "memory", "readers")

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.readers = 1
        self.ended = False
        self.descriptors = 0
        self.memory = 0


class Listings:
    """The listings of one union that are being read; bounded in number, memory and descriptors."""

    def __init__(self, union: Union) -> None:
        self._union = union
        union.on_forgotten = self.drop
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()  # least recently used first
        self._of: dict[Node, set[int]] = {}  # the listings of each directory
        # The offset at which each directory's newest listing ended.
        self._ends: OrderedDict[Node, int] = OrderedDict()
        self._last = 0  # the newest snapshot
        self._memory = 0
        self._descriptors = 0
        self._most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def __len__(self) -> int:
        """Return how many listings are kept."""
        return len(self._kept)

    @property
    def descriptors(self) -> int:
        """Return how many descriptors they have open."""
        return self._descriptors

    def read(
        self, node: Node, offset: int, size: int, *, placed: bool = False
    ) -> tuple[bytes, Iterator[Place | None] | None]:
        """Return records of a directory from `offset` in at most `size` bytes, none at the end.

        With `placed` also where each is, if that is known (`Listing.copies`).
        """
        if node.removed:
            self.drop(node)
            return b"", None
        if offset == 0:
            shared = self._shared(node)
            if shared is None:
                return self._read_new(node, size, placed=placed)
            key, kept = shared
        elif self._ends.get(node) == offset:
            return b"", None
        else:
            key, kept = self._find(node, offset)
        listing = kept.listing
        records = listing.packed(offset, size, placed=placed)
        places = listing.copies(offset) if placed else None
        listing.release()
        self._has_read(key, kept)
        return records, places

    def _shared(self, node: Node) -> tuple[Key, _Kept] | None:
        """Return the listing of an only copy that others read too, for one that begins."""
        key = node, _STREAM
        kept = self._kept.get(key)
        if kept is None or kept.listing.dirs is not node.dirs:
            return None
        kept.readers += 1
        self._ends.pop(node, None)  # there may be more since
        self._kept.move_to_end(key)
        return key, kept

    def _read_new(
        self, node: Node, size: int, *, placed: bool
    ) -> tuple[bytes, Iterator[Place | None] | None]:
        """Begin a listing; one that this reads to its end is not kept, unless the kernel may come back for a part of it."""
        self._ends.pop(node, None)
        listing = Listing(self._union, node, borrow=True)
        try:
            records = listing.packed(0, size, placed=placed)
            places = listing.copies(0) if placed else None
            if self._union.trust and listing.unmarked:
                self._union.known.know_unmarked(node, listing.dirs)
            if listing.is_snapshot:
                self._drop_all(
                    node
                )  # whoever reads one may do so in this one, and who begins now may not in them
            if (end := listing.end) and listing.size <= _AT_ONCE:
                listing.close()
                self._ended(node, end)
                return records, places
            listing.part()
            listing.release()
        except BaseException:
            listing.close()
            raise
        key = self._key(node, listing)
        self._has_read(key, self._keep(key, listing))
        return records, places

    def _has_read(self, key: Key, kept: _Kept) -> None:
        listing = kept.listing
        self._account(kept)
        if listing.end:
            self._end(key, kept, listing.end)
        elif self._memory > _MEMORY or self._descriptors > self._most_descriptors:
            self._shrink(kept)

    def _find(self, node: Node, offset: int) -> tuple[Key, _Kept]:
        """Return the listing in which a reader goes on."""
        keys = [(node, number) for number in self._of.get(node, ())]
        key = next((key for key in keys if self._goes_on(key, offset)), None)
        alone = False
        if key is None:
            alone = len(self._union.dirs(node)) == 1 or self._began_alone(node, offset)
            for candidate in keys:
                if self._kept[candidate].listing.covers(offset) if not alone else candidate[1] == _STREAM:
                    key = candidate
        if key is None:
            listing = Listing(self._union, node, former=alone, streamed=is_streamed(offset))
            key = self._key(node, listing)
            return key, self._keep(key, listing)
        self._kept.move_to_end(key)
        return key, self._kept[key]

    def _goes_on(self, key: Key, offset: int) -> bool:
        """Tell whether an offset certainly is one of a listing."""
        listing = self._kept[key].listing
        return listing.has(offset) or listing.is_next(offset)

    def _began_alone(self, node: Node, offset: int) -> bool:
        """Tell whether an offset that looks like ours is the lowest copy's, from when the directory had no other."""
        if not is_ours(offset):
            return False
        fd = open_list(self._union.dirs(node)[-1][1])
        try:
            return has_offset(fd, offset)
        finally:
            os.close(fd)

    def _key(self, node: Node, listing: Listing) -> Key:
        if not listing.is_snapshot:
            return node, _STREAM
        self._last += 1
        return node, self._last

    def _keep(self, key: Key, listing: Listing) -> _Kept:
        kept = _Kept(listing)
        if key in self._kept:
            kept.readers += self._kept[key].readers
            self._close(key)
        self._kept[key] = kept
        self._of.setdefault(key[0], set()).add(key[1])
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
                room -= self._kept[other].memory
                if room < 0:
                    self._close(other)

    def _ended(self, node: Node, offset: int) -> None:
        self._ends[node] = offset
        self._ends.move_to_end(node)
        if len(self._ends) > _MOST:
            self._ends.popitem(last=False)

    def _shrink(self, used: _Kept) -> None:
        """Close what was not used for longest: it is made again if somebody goes on reading it."""
        for key, kept in list(self._kept.items()):
            if self._memory <= _MEMORY and self._descriptors <= self._most_descriptors:
                return
            if kept is not used:
                self._close(key)

    def _close(self, key: Key) -> None:
        kept = self._kept.pop(key)
        numbers = self._of[key[0]]
        numbers.discard(key[1])
        if not numbers:
            del self._of[key[0]]
        kept.listing.close()
        self._memory -= kept.memory
        self._descriptors -= kept.descriptors

    def _drop_all(self, node: Node) -> None:
        for number in list(self._of.get(node, ())):
            self._close((node, number))

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
        self._drop_all(node)

    def leave(self, branch: OpenBranch) -> None:
        """Close every descriptor on a branch, which is about to be removed."""
        for key, kept in list(self._kept.items()):
            if any(candidate.id == branch.id for candidate, _ in kept.listing.descriptors):
                self._close(key)

    def abandon(self, branch: OpenBranch) -> None:
        """Drop what is read from a branch that cannot be read, or that could not before."""
        for key, kept in list(self._kept.items()):
            if any(candidate.id == branch.id for candidate, _ in kept.listing.descriptors):
                self._close(key)

    def make_room(self) -> None:
        """Close every listing that has a descriptor; whoever reads on gets a new one."""
        for key, kept in list(self._kept.items()):
            if kept.listing.descriptors:
                self._close(key)

    def give_back(self) -> None:
        """Give memory back: nobody lists anything just now."""
        for key, kept in list(self._kept.items()):
            if kept.ended or kept.memory > _SMALL:
                self._close(key)
            else:
                kept.listing.spool()
                self._account(kept)

    def close(self) -> None:
        """Close every listing."""
        self._ends.clear()
        for key in list(self._kept):
            self._close(key)
