# SPDX-License-Identifier: Apache-2.0
"""Offsets of merged listings: those of names with the same hash, and which ones can be told from a filesystem's."""

from unionfs.listing.merge import is_ours, spread
from unionfs.listing.records import PACK, RECORD, name_of

HASH = (1 << 63) - (1 << 53) + 5


def _record(offset: int, name: bytes) -> bytes:
    return PACK[len(name)](7, offset, len(name), 8, name)


def _spread(entries: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    offsets = [offset for offset, _ in entries]
    records = [_record(offset, name) for offset, name in entries]
    spread(offsets, records)
    assert offsets == [RECORD.unpack_from(record)[1] for record in records]
    return [(offset, name_of(record)) for offset, record in zip(offsets, records, strict=True)]


def test_spread_names_of_one_hash_gives_each_its_offset_by_name() -> None:
    """Whatever order they were read in, a name has the same offset while the others are there; those behind give way."""
    want = [(HASH, b"a"), (HASH + 1, b"b"), (HASH + 2, b"c"), (HASH + 9, b"later")]
    assert _spread([(HASH, b"b"), (HASH, b"a"), (HASH + 1, b"c"), (HASH + 9, b"later")]) == want
    assert _spread([(HASH, b"a"), (HASH, b"b"), (HASH + 1, b"c"), (HASH + 9, b"later")]) == want


def test_offsets_of_filesystems_are_told_apart() -> None:
    """Counted offsets and nearly all hashes of 63 bits do not look like ours."""
    assert is_ours(HASH)
    assert not any(is_ours(offset) for offset in (0, 1, 512, 1 << 31, 1 << 40, 1 << 62, HASH - (1 << 53)))
