# SPDX-License-Identifier: Apache-2.0
"""Entries of directories, packed in the form of FUSE's READDIR reply (`fuse_dirent`).

On the way of a listing a Python object for each entry would cost more than everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

# Each record is ino, offset of the next one, length of the name, d_type; then the name, padded to 8 bytes.
RECORD = Struct("=QQII")
_PADDED = {length: Struct(f"=QQII{length}s").pack for length in range(0, 264, 8)}
PACK = [_PADDED[length + 7 & ~7] for length in range(256)]  # by length of the name
DT_DIR = 4


class Entry(NamedTuple):
    """One entry: the number the union shows, d_type, name, and the offset of the next entry."""

    ino: int
    kind: int
    name: bytes
    offset: int

    @property
    def is_single(self) -> bool:
        """Tell whether this cannot be a directory, which may have several copies."""
        return self.kind not in (0, DT_DIR)


def name_of(record: bytes) -> bytes:
    """Return the name in one record."""
    return record[24 : 24 + RECORD.unpack_from(record)[2]]


def entries_of(packed: bytes) -> Iterator[Entry]:
    """Yield the entries of packed records."""
    position, end, unpack = 0, len(packed), RECORD.unpack_from
    while position < end:
        ino, offset, length, kind = unpack(packed, position)
        position += 24
        yield Entry(ino, kind, packed[position : position + length], offset)
        position += length + 7 & ~7
