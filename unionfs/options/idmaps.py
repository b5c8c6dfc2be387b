# SPDX-License-Identifier: Apache-2.0
"""Other user and group ids in the union than on its branches: fuse-overlayfs' uidmapping= and gidmapping=, squash_to_uid=.

Branches keep their ids; owners, ACLs and the callers of creating requests are translated on the way in and out. An id that has
none on the other side is shown as the kernel's overflow id, as in fuse-overlayfs, or as the mount wants it, and cannot be given
to a file (EOVERFLOW, as with idmapped mounts). What such a caller makes is the overflow id's on the branch: podman makes
entries in a container's root as a user whom --userns=auto leaves out. Where all is squashed, every file shows one owner, who
need not be on any branch: a container of one id would else find each file somebody else's.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import NamedTuple

from unionfs.options.table import IdRange, Options

_OVERFLOW = 65534
_MOST = 1 << 32
_ACL_ENTRY = struct.Struct("=HHI")  # tag, permissions, id
_ACL_HEADER = 4
_ACL_USER, _ACL_GROUP = 0x02, 0x08


class IdMap(NamedTuple):
    """Ranges of ids: the first on branches, the first in the union, how many. None at all: every id is the same."""

    ranges: tuple[IdRange, ...]
    unmapped: int
    squash: int | None = None  # whose all files look, whatever the ranges say of new ones

    def shown(self, number: int) -> int:
        """Return the union's id of an owner on a branch."""
        return self.named(number) if self.squash is None else self.squash

    def named(self, number: int) -> int:
        """Return the union's id of one that an ACL on a branch names."""
        if not self.ranges:
            return number
        for on_branch, in_union, count in self.ranges:
            if on_branch <= number < on_branch + count:
                return in_union + number - on_branch
        return self.unmapped

    def kept(self, number: int) -> int:
        """Return the branches' id of one in the union; EOVERFLOW if there is none."""
        found = self._kept(number)
        if found is None:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return found

    def maker(self, number: int) -> int:
        """Return the branches' id for what a caller makes: the overflow id if there is none of the caller's."""
        found = self._kept(number)
        return _OVERFLOW if found is None else found

    def _kept(self, number: int) -> int | None:
        if not self.ranges:
            return number
        for on_branch, in_union, count in self.ranges:
            if in_union <= number < in_union + count:
                return on_branch + number - in_union
        return None


class IdMaps(NamedTuple):
    """The maps of one mount."""

    users: IdMap
    groups: IdMap

    @classmethod
    def of(cls, options: Options) -> IdMaps | None:
        """Return the maps that a mount was given, None if ids are the same everywhere."""
        users = IdMap(options.uid_map, options.unmapped, options.squash_uid)
        groups = IdMap(options.gid_map, options.unmapped, options.squash_gid)
        changed = users.ranges or groups.ranges or (users.squash, groups.squash) != (None, None)
        return cls(users, groups) if changed else None

    def status(self, status: os.stat_result) -> os.stat_result:
        """Return a stat with the union's ids."""
        fields = list(status)
        fields[4], fields[5] = self.users.shown(status.st_uid), self.groups.shown(status.st_gid)
        rest = {name: getattr(status, name) for name in _REST}
        return os.stat_result(fields, rest)

    def shown_acl(self, acl: bytes) -> bytes:
        """Return a POSIX ACL, as the kernel passes it, with the union's ids."""
        return self._translated(acl, shown=True)

    def kept_acl(self, acl: bytes) -> bytes:
        """Return a POSIX ACL with the branches' ids; EOVERFLOW."""
        return self._translated(acl, shown=False)

    def _translated(self, acl: bytes, *, shown: bool) -> bytes:
        if len(acl) < _ACL_HEADER or (len(acl) - _ACL_HEADER) % _ACL_ENTRY.size:
            return acl  # the branch says what it thinks of it
        parts = [acl[:_ACL_HEADER]]
        for tag, permissions, number in _ACL_ENTRY.iter_unpack(acl[_ACL_HEADER:]):
            ids = {_ACL_USER: self.users, _ACL_GROUP: self.groups}.get(tag)
            if ids is not None:
                number = ids.named(number) if shown else ids.kept(number)
            parts.append(_ACL_ENTRY.pack(tag, permissions, number))
        return b"".join(parts)


_REST = (
    "st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_blocks", "st_rdev",
)  # fmt: skip


def parse_ranges(text: str) -> tuple[IdRange, ...]:
    """Read `ID:ID:COUNT` any number of times, a colon before it allowed; maps of ids to themselves are none.

    ValueError for anything else, for ids over 32 bits and for ranges that overlap on one side.
    """
    numbers = [_number(word) for word in text.removeprefix(":").split(":")]
    if len(numbers) % 3:
        raise ValueError(text)
    ranges = tuple(zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True))
    for side in (0, 1):
        taken = sorted((entry[side], entry[side] + entry[2]) for entry in ranges)
        ends = [0, *(end for _, end in taken)]
        if any(start < end for (start, _), end in zip(taken, ends, strict=False)) or ends[-1] > _MOST:
            raise ValueError(text)
    return () if all(first == second for first, second, _ in ranges) else ranges


def parse_id(text: str) -> int:
    """Read one id; ValueError for anything else, and for the number that is none (chown's -1)."""
    number = _number(text)
    if number >= _MOST - 1:
        raise ValueError(text)
    return number


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 10:
        raise ValueError(word)
    return int(word)
