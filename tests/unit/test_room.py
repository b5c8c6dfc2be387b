# SPDX-License-Identifier: Apache-2.0
"""How the server's descriptors are shared out."""

import errno

import pytest

from unionfs.kernel.reserve import Room


def _most(room: Room, check: str) -> int:
    """Return how many are held when one more is refused."""
    while True:
        try:
            getattr(room, check)()
        except OSError as error:
            assert error.errno == errno.ENFILE
            return room.held
        room.held += 1


@pytest.mark.parametrize(
    ("limit", "files", "removed", "directories", "caches"),
    [
        (96, 48, 60, 72, 12),
        (256, 192, 208, 224, 16),
        (1024, 768, 832, 896, 64),
        (65536, 65536 - 1024, 65536 - 768, 65536 - 512, 256),
        (1 << 20, (1 << 20) - 1024, (1 << 20) - 768, (1 << 20) - 512, 256),
    ],
)
def test_room_leaves_a_reserve(limit: int, files: int, removed: int, directories: int, caches: int) -> None:
    """A quarter, but 64 to 1024, is not for files; a part of it is for open directories; with very few it is half of all."""
    room = Room()
    room.set_limit(limit)
    assert _most(room, "check_file") == files
    assert _most(room, "check_removed") == removed
    assert _most(room, "check_directory") == directories
    assert room.for_caches == caches
