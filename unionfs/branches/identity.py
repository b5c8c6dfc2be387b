# SPDX-License-Identifier: Apache-2.0
"""Which file of which branch filesystem something is, as one number, and the number that the union shows for such a file.

For nearly every file the two are one and the same object: of a million nodes each needs one number instead of two.
"""

import os
import zlib
from collections.abc import Iterable

from unionfs.branches.branch import OpenBranch

# What names the filesystem, then 45 bits of inode number; of an inode number that is longer, the complement of that with 64 bits.
Identity = int

# With them a number has 60, which take 16 bytes less than 61 would: Python keeps 30 together.
_INO_BITS = 45
INO_MASK = (1 << _INO_BITS) - 1
_PREFIX_MASK = 0x7FFF
_END = 1 << 63  # of the numbers that the union shows


class Identities:
    """The filesystems of one union's branches, by device number, and what stands for each in the identities of its files."""

    def __init__(self, branches: Iterable[OpenBranch]) -> None:
        self._places: dict[int, int] = {}  # where the identities of its files begin
        self.add_branches(branches)

    def add_branches(self, branches: Iterable[OpenBranch]) -> None:
        """Learn the filesystems of branches; those of branches that go are kept, as nodes may."""
        for branch in branches:
            self._add(branch.device, branch.number_prefix)

    def of(self, status: os.stat_result) -> Identity:
        """Return the identity of what was looked at."""
        return self.of_inode(status.st_dev, status.st_ino)

    def of_inode(self, device: int, ino: int) -> Identity:
        """Return the identity of an inode."""
        place = self._places.get(device)
        if place is None:
            # A filesystem inside the branch: a btrfs subvolume, a covered mount of an ordinary user.
            place = self._add(device, zlib.crc32(device.to_bytes(8, "little")) % 0x7FFE + 1)
        return place | ino if ino <= INO_MASK else ~(place << 64 - _INO_BITS | ino)

    def _add(self, device: int, prefix: int) -> int:
        """Give a filesystem its place: the one of its prefix, or a later one if another filesystem has that."""
        others = {place for other, place in self._places.items() if other != device}
        place = prefix << _INO_BITS
        while place in others:
            place += _END
        self._places[device] = place
        return place


def number_of(identity: Identity) -> int:
    """Return the union's number of a file: 15 bits of filesystem, 45 bits of inode; mostly the identity itself.

    Two branches on different filesystems thus never share numbers, and a number does not depend on the order of branches.
    """
    if 0 <= identity < _END:
        return identity
    if identity >= 0:
        return identity & _END - 1
    prefix, ino = ~identity >> 64 & _PREFIX_MASK, ~identity & (1 << 64) - 1
    return prefix << _INO_BITS | (ino ^ (ino >> _INO_BITS) * 0x9E3779B97F4B) & INO_MASK


def filesystem_of(identity: Identity) -> int:
    """Return a number that all files of a filesystem have in common, and no others."""
    return identity >> _INO_BITS if identity >= 0 else ~identity >> 64
