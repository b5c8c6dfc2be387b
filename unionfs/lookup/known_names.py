# SPDX-License-Identifier: Apache-2.0
"""What is known of the names in one copy of a directory, so that lookups need not ask the branch for what is not there.

A read-only copy's names are read once it was looked into often enough, and are believed as long as nobody but us may change
the branch (udba=none), else as long as its change time stays. Of a writable copy only the whiteouts are kept.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Protocol

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.kernel.dirents import dirents
from unionfs.kernel.syscalls import DirectoryReader

# A directory of so many bytes is taken to hold a name for each _BYTES_A_NAME of them (ext4: about 4096 for 60 to 100).
_BYTES_A_NAME = 48
# So many lookups are made before: most directories on a path see one or two, and reading four copies takes 20 system calls.
_FIRST_FINDS = 8
# Reading names pays when at most so many are read for each lookup that was made so far.
_NAMES_A_FIND = 16
# Bigger directories are never read: it would take too long between two requests, and too much memory.
_MAX_NAMES = 1 << 16
_BITS_A_NAME = 32
# So many bytes are kept in all: a million names.
_MAX_BYTES = 8 << 20
_OBJECT = 130  # bytes for a name that is kept as such
# A change within one tick of the clock after the reading would not show in the change time (as in git's index).
_RACY_NS = 20_000_000

_reader = DirectoryReader()


class Contents(NamedTuple):
    """The names in one copy of a directory, and which whiteouts there are among them.

    Of a name is kept one bit in a field of `mask` + 1, at its hash: so an absent name is taken for one that may be there in one
    of 32 cases, which costs a look, and a name takes 8 bytes at most (a set of names: 130). Of a writable copy only `marks` is
    kept, the names that whiteouts hide; it grows with each whiteout that is made and keeps those that are removed.
    """

    bits: bytes | None  # None: not known
    mask: int
    marked: bool
    changed_ns: int  # st_ctime of the directory; 0 if it need not be looked at
    marks: set[bytes] | None = None

    def may_hold(self, name: bytes) -> bool:
        """Tell whether a name may be there; False is certain."""
        bits = self.bits
        key = hash(name) & self.mask
        return bits is None or bits[key >> 3] >> (key & 7) & 1 != 0

    def may_hide(self, name: bytes) -> bool:
        """Tell whether a whiteout of a name may be there; False is certain."""
        if self.marks is not None:
            return name in self.marks
        return self.marked and self.may_hold(whiteout.PREFIX + name)

    def is_current(self, fd: int) -> bool:
        """Tell whether the directory is as it was read."""
        return self.changed_ns == 0 or os.fstat(fd).st_ctime_ns == self.changed_ns


# What a listing tells of a read-only copy that has no whiteouts.
_UNMARKED = Contents(None, 0, False, 0)


def learn(branch: OpenBranch, fd: int, finds: int, *, trust: bool) -> Contents | None:
    """Read the names of a copy if that pays after `finds` lookups, else None. `trust`: nobody but us changes branches."""
    if branch.writable and not (trust and branch.whable):
        return None
    status = os.fstat(fd)
    if status.st_size > min(finds * _NAMES_A_FIND, _MAX_NAMES) * _BYTES_A_NAME + 4096:
        return None
    if not trust and time.time_ns() - status.st_ctime_ns < _RACY_NS:
        return None
    names = _names(fd)
    if names is None or len(names) > _MAX_NAMES:
        return None
    if branch.writable:
        return Contents(None, 0, True, 0, {name[4:] for name in names if name[:4] == whiteout.PREFIX})
    marked = any(name[:4] == whiteout.PREFIX for name in names)
    mask = (1 << (_BITS_A_NAME * len(names) | 63).bit_length()) - 1
    bits = bytearray(mask + 1 >> 3)
    for name in names:
        key = hash(name) & mask
        bits[key >> 3] |= 1 << (key & 7)
    return Contents(bytes(bits), mask, marked, 0 if trust else status.st_ctime_ns)


def _names(fd: int) -> list[bytes] | None:
    """Return the names in a directory, None if the server may not read it (a lookup may still succeed)."""
    try:
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return None
    names: list[bytes] = []
    try:
        while data := _reader.read_raw(readable):
            names += [name for _, _, _, name, _ in dirents(data)]
    except OSError:
        return None
    finally:
        os.close(readable)
    return names


def empty(branch: OpenBranch) -> Contents | None:
    """Return what is known of a copy that was made just now and that nobody but us changes."""
    return Contents(None, 0, True, 0, set()) if branch.writable and branch.whable else None


class Directory(Protocol):
    """What keeps the names of a directory: for each of its copies what is known of them, after so many lookups."""

    finds: int
    contents: tuple[Contents | None, ...]


class KnownNames:
    """What is known of the names in the directories of one union, up to `budget` bytes; the least recently used goes first."""

    def __init__(self, budget: int = _MAX_BYTES) -> None:
        self.budget = budget
        self._sizes: dict[Directory, int] = {}  # of directories that have names, least recently used first
        self._last: Directory | None = None  # the most recently used
        self.bytes = 0

    def of(
        self, node: Directory, dirs: tuple[tuple[OpenBranch, int], ...], trust: bool
    ) -> tuple[Contents | None, ...]:
        """Return what is known of the names in each of `dirs`, a directory's copies; learn it when asked often enough."""
        node.finds = finds = node.finds + 1
        known = node.contents
        if finds >= _FIRST_FINDS and finds & (finds - 1) == 0:  # at powers of two
            old = known or (None,) * len(dirs)
            known = tuple(
                was
                if was is not None and (was.bits or was.marks is not None)
                else learn(branch, fd, finds, trust=trust) or was
                for was, (branch, fd) in zip(old, dirs, strict=True)
            )
            self._keep(node, known)
        if node is not self._last:
            self._last = node
            if known and node in self._sizes:
                self._sizes[node] = self._sizes.pop(node)
        if known and not trust:
            for position, (_, fd) in enumerate(dirs):
                one = known[position]
                if one is not None and not one.is_current(fd):
                    known = (*known[:position], None, *known[position + 1 :])
                    self._keep(node, known)
        return known

    def know_unmarked(self, node: Directory, dirs: tuple[tuple[OpenBranch, int], ...]) -> None:
        """Note that no copy of a directory has a whiteout, as was just read. Only while nobody but us changes the branches."""
        if not node.contents:
            node.contents = tuple([empty(branch) if branch.writable else _UNMARKED for branch, _ in dirs])

    def grew(self, node: Directory) -> None:
        """Count one more mark."""
        size = _OBJECT
        self._sizes[node] = self._sizes.get(node, 0) + size
        self._bound(size)

    def forget(self, node: Directory) -> None:
        """Drop what is known of a directory's names."""
        node.contents = ()
        self.bytes -= self._sizes.pop(node, 0)
        if node is self._last:
            self._last = None

    def clear(self) -> None:
        """Drop what is known of every directory."""
        for node in list(self._sizes):
            self.forget(node)

    def _keep(self, node: Directory, known: tuple[Contents | None, ...]) -> None:
        self.forget(node)
        node.contents = known
        size = sum(len(one.bits or b"") + _OBJECT * len(one.marks or ()) for one in known if one is not None)
        if size:
            self._sizes[node] = size
            self._bound(size)

    def _bound(self, more: int) -> None:
        self.bytes += more
        while self.bytes > self.budget and len(self._sizes) > 1:
            self.forget(next(iter(self._sizes)))
