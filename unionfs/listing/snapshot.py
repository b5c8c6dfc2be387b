# SPDX-License-Identifier: Apache-2.0
"""List a directory with several copies, so that the place of an entry depends on nothing that others do meanwhile.

Where nobody writes to the lowest copy it is streamed: whatever it has is listed there, at its filesystem's own offset, also what
upper copies replace. What only they have follows in the order of what the names hash to, and that is the offset. Where the lowest
copy may change all names are listed that way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain

from unionfs.branches.branch import OpenBranch
from unionfs.listing.listed import Copy
from unionfs.listing.merge import END, FIRST, MOST, TAIL, Merge, Ordered, is_ours, is_streamed
from unionfs.listing.stream import Stream
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

_RECORD_MEMORY = 250  # bytes, about, that a name takes in a merge
_NOTHING = Merge(TAIL)


class Snapshot:
    """The entries of a directory with several copies, as far as they were read."""

    def __init__(
        self, union: Union, node: Node, layers: list[tuple[OpenBranch, int]], *, streamed: bool
    ) -> None:
        """Read nothing yet; `streamed`: the lowest copy is."""
        self._copies = [Copy(union, node, branch, fd) for branch, fd in layers]
        self._uppers = self._copies[:-1] if streamed else self._copies
        self._stream = Stream(self._copies[-1]) if streamed else None
        self._above = _NOTHING  # what the upper copies have
        self._ordered: Ordered | None = None
        self.is_new = True  # the copies are where they were when they were opened
        self._begun = False
        self._marked = False
        self._streamed = False  # whether the records that were returned last begin in the stream
        self.end = 0

    @property
    def streams(self) -> bool:
        """Tell whether the lowest copy is streamed."""
        return self._stream is not None

    @property
    def memory(self) -> int:
        """Return how many bytes are held in memory."""
        held = 0
        if self._stream is not None:
            held = self._stream.memory + len(self._above.records) * _RECORD_MEMORY
        return held + (self._ordered.memory if self._ordered is not None else 0)

    @property
    def size(self) -> int:
        """Return how many bytes of records are known, at least."""
        size = self._stream.size if self._stream is not None else 0
        return size + (self._ordered.size if self._ordered is not None else 0)

    @property
    def marked(self) -> bool:
        """Tell whether something that was read may be a whiteout."""
        return self._marked or (self._stream is not None and self._stream.marked)

    @property
    def finished(self) -> bool:
        """Tell whether all entries have been read."""
        ordered = self._ordered
        if ordered is None or ordered.after or ordered.before != END:
            return False
        return self._stream is None or self._stream.finished

    @property
    def needed(self) -> int:
        """Return how many of the copies, from the lowest on, must stay open."""
        if self._stream is None:
            return 0
        return 1 if self._above.complete else len(self._copies)

    def use(self, fds: list[int]) -> None:
        """Read on through other descriptors, which have the same positions."""
        for copy, fd in zip(self._copies, fds, strict=True):
            copy.fd = fd

    def has_moved(self) -> None:
        """Take note that somebody has read through the descriptor of the lowest copy."""
        self.is_new = False
        if self._stream is not None:
            self._stream.spool()

    def covers(self, offset: int) -> bool:
        """Tell whether what follows an offset can be told from what is held."""
        if is_streamed(offset) != self.streams:
            return False
        return self._begun if self.streams else self._ordered is not None and self._ordered.covers(offset)

    def spool(self) -> None:
        """Hold nothing in memory that can be read again from the lowest copy."""
        if self._stream is not None:
            self._stream.spool()

    def has(self, offset: int) -> bool:
        """Tell whether an offset is certainly one of this listing, and what follows can be told."""
        if self._stream is not None and (not is_ours(offset) or offset == TAIL):
            return True
        return self._ordered is not None and self._ordered.has(offset)

    def packed(self, offset: int, size: int, *, placed: bool = False) -> bytes:
        """Return records from an offset in at most `size` bytes."""
        # At 0 also after rewinddir(3), which promises to show changes.
        if offset == 0 or not self._begun:
            self._begin()
        self._streamed = self._stream is not None and not is_ours(offset)
        if self._stream is None or not self._streamed:
            return self._packed_ordered(offset, size, placed=placed)
        records = self._stream.packed(offset, size)
        self.end = 0
        if not self._stream.end:
            return records
        more = self._packed_ordered(TAIL, size - len(records), placed=placed)
        if not more and self.end:
            self.end = self._stream.end
        return records + more

    def _packed_ordered(self, offset: int, size: int, *, placed: bool) -> bytes:
        while self._ordered is None or not self._ordered.covers(offset):
            self._ordered = self._order(offset, placed=placed)
            if not self._ordered.count and self._ordered.before != END:
                offset = self._ordered.before - 1
        records, self.end = self._ordered.packed(offset, size)
        return records

    def _begin(self) -> None:
        self._begun = True
        self._ordered = None
        self._marked = False
        if self._stream is None:
            return
        new = self.is_new
        self._above = Merge(TAIL, sieved=True)
        self._add_uppers(self._above)
        self._stream = Stream(self._copies[-1], self._uppers, self._above)
        if not new:
            self._stream.spool()

    def _add_uppers(self, merge: Merge) -> None:
        new, self.is_new = self.is_new, False
        for copy in self._uppers:
            if not new:
                os.lseek(copy.fd, 0, os.SEEK_SET)
            merge.add(copy, dots=self._stream is None)
        self._marked |= merge.marked

    def _order(self, offset: int, *, placed: bool) -> Ordered:
        """Return what follows an offset behind the stream."""
        stream, above = self._stream, self._above
        base = TAIL if stream is not None else FIRST
        after = offset if offset > base else 0
        if stream is not None and above.complete:
            return Ordered(above, self._met(stream), placed=placed)
        merge = Merge(base, after, self._before(base, after))
        self._add_uppers(merge)
        return Ordered(merge, stream.scan(merge) if stream is not None else (), placed=placed)

    def _met(self, stream: Stream) -> set[bytes]:
        """Return what the lowest copy has of the names above it; the rest of it is added to those."""
        if stream.finished and stream.at_rest:
            stream.add_rest(self._above)
            return stream.met
        return stream.scan(self._above)

    def _before(self, base: int, after: int) -> int:
        """Return where a merge that begins at an offset had better end, as the last one had so many names."""
        last = self._ordered
        if not after or last is None or not last.count:
            return END
        span = last.before - max(last.after, base)
        return min(END, after + span * MOST // last.count * 9 // 10)

    def copies(self, offset: int) -> Iterator[int | None] | None:
        """Return which copy each entry from `offset` that was returned last is of; None where that is not known."""
        ordered = self._ordered
        if not self._streamed or self._stream is None:
            return (
                iter(known) if ordered is not None and (known := ordered.copies(offset)) is not None else None
            )
        lowest, upper = len(self._copies) - 1, self._stream.upper
        first = (None if position in upper else lowest for position in range(self._stream.count))
        known = ordered.copies(TAIL) if ordered is not None and self._stream.end else None
        return chain(first, known) if known is not None else first

    def close(self) -> None:
        """Hold nothing any more."""
        self._begun = False
        self._ordered = None
        self._above = _NOTHING
