# SPDX-License-Identifier: Apache-2.0
"""The pseudo-links of a union: which files on lower branches are names of which copy.

A name is told by the file that it leads to on its branch, not by the union's number of that file: when branches are changed
directly, two files may claim one number, and then one of them is shown with another. A filesystem gives the inode number of a
removed file to a new one, though: so each file that was copied is held open here, which keeps its number from that. What was
not held all the time, for want of descriptors or because the server died, is told by its birth time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identity, number_of
from unionfs.kernel import syscalls
from unionfs.kernel.reserve import room

# Of a copied-up file these tell the birth of the copy.
_CHANGING_BIRTHS = (0x794C7630, 0x65735546)  # overlayfs, FUSE
_NANOSECONDS = 10**9
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Plink:
    """A pseudo-link: the copy of a hard-linked lower file, which names on lower branches share (AUFS' plink).

    The copy is `name` in the pseudo-link directory of `branch`; `ino` and `nlink` are what the union shows. Of one that was
    `recovered` after a crash the files that are its names are not known but by their number and `birth`; one of an older version
    was not `counted`: its `nlink` is a guess, so that it stays until a flush.
    """

    ino: int
    branch: OpenBranch
    name: bytes
    nlink: int
    copy: Identity
    origins: set[Identity] = field(default_factory=set)  # the files that were copied
    recovered: bool = False
    seen: bool = False  # the file that was copied is on a branch of this mount
    counted: bool = True
    birth: int | None = None  # of the file that the number is made of, as `birth_of` returns it
    note: tuple[OpenBranch, bytes] | None = None  # what is on disk of a change under way


class PlinkTable:
    """Pseudo-links by number, and by the files that are their names."""

    def __init__(self, identity_of: Callable[[os.stat_result], Identity]) -> None:
        self._identity_of = identity_of
        self._plinks: dict[int, Plink] = {}
        self._by_identity: dict[Identity, Plink] = {}
        self._held: dict[Identity, int] = {}  # descriptors of origins
        # Entries on disk that could not be removed when they should have been: (branch, name).
        self.leftovers: list[tuple[OpenBranch, bytes]] = []

    def __len__(self) -> int:
        return len(self._plinks)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._plinks))

    def __contains__(self, ino: int) -> bool:
        return ino in self._plinks

    def __getitem__(self, ino: int) -> Plink:
        return self._plinks[ino]

    def get(self, ino: int) -> Plink | None:
        """Return the pseudo-link of a number, or None."""
        return self._plinks.get(ino)

    def add(self, plink: Plink) -> None:
        """Enter a pseudo-link. One of its number that is there already was its origin: those names are its names now."""
        old = self._plinks.get(plink.ino)
        if old is not None:
            plink.origins |= old.origins
            self._take_out(old)
        self._plinks[plink.ino] = plink
        for identity in (plink.copy, *plink.origins):
            self._by_identity[identity] = plink

    def remove(self, ino: int) -> Plink:
        """Take a pseudo-link out and return it."""
        plink = self._plinks[ino]
        self._take_out(plink)
        for identity in plink.origins:
            if identity not in self._by_identity:
                self._let_go(identity)
        return plink

    def _take_out(self, plink: Plink) -> None:
        del self._plinks[plink.ino]
        for identity in (plink.copy, *plink.origins):
            if self._by_identity.get(identity) is plink:
                del self._by_identity[identity]

    def clear(self) -> None:
        """Take all out; what is on disk stays."""
        self.leftovers.clear()
        self._plinks.clear()
        self._by_identity.clear()
        for identity in list(self._held):
            self._let_go(identity)

    def of_file(self, identity: Identity) -> Plink | None:
        """Return the pseudo-link that a file is the copy or an origin of, or None."""
        return self._by_identity.get(identity)

    def add_origin(self, plink: Plink, identity: Identity, fd: int) -> None:
        """Let a file, which is behind `fd`, be a name of a pseudo-link that is in the table."""
        plink.origins.add(identity)
        self._by_identity[identity] = plink
        self.hold(identity, fd)

    def hold(self, identity: Identity, fd: int) -> None:
        """Keep the inode number of an origin, which is behind `fd`, from another file, as long as it is one.

        Where descriptors are few that is left: `is_name` looks at the file then.
        """
        if identity not in self._held and room.may_hold_origin(len(self._held)):
            with contextlib.suppress(OSError):
                self._held[identity] = os.dup(fd)
                room.held += 1

    def _let_go(self, identity: Identity) -> None:
        fd = self._held.pop(identity, None)
        if fd is not None:
            room.held -= 1
            os.close(fd)

    def is_name(self, plink: Plink, identity: Identity, directory: int | None, name: bytes) -> bool:
        """Tell whether `name` in `directory`, found to be `identity`, is a pseudo-link's, not another file with the inode number.

        Asks nobody about a file that is held; one that is found to be its name is held from then on.
        """
        if identity == plink.copy or identity in self._held:
            return True
        if directory is None:
            return False
        birth = plink.birth if number_of(identity) == plink.ino else None
        if identity in self._by_identity and _has_birth(directory, name, birth):
            return True
        fd = self._open(directory, name, identity)
        if fd < 0:
            return False
        try:
            if _has_birth(fd, b"", birth):
                self.add_origin(plink, identity, fd)
                return True
            self.lose_origin(identity)
            return False
        finally:
            os.close(fd)

    def _open(self, directory: int, name: bytes, identity: Identity) -> int:
        """Return a descriptor of what was found at a name; -1 if it is not there any more."""
        try:
            fd = os.open(name, _PATH_FLAGS, dir_fd=directory)
        except FileNotFoundError:
            return -1
        if self._identity_of(os.fstat(fd)) == identity:
            return fd
        os.close(fd)
        return -1

    def lose_origin(self, identity: Identity) -> None:
        """Note that the inode of a file that was copied is another file's now: its names were taken away directly."""
        plink = self._by_identity.get(identity)
        if plink is not None and identity != plink.copy:
            plink.origins.discard(identity)
            del self._by_identity[identity]
            self._let_go(identity)

    def has_recovered(self) -> bool:
        """Tell whether some pseudo-link was found after a crash."""
        return any(plink.recovered for plink in self._plinks.values())


def birth_of(fd: int) -> int | None:
    """Return when an inode was made, in nanoseconds since 1970; None where nobody recorded that, or that may change."""
    if syscalls.filesystem_magic(fd) in _CHANGING_BIRTHS:
        return None
    time = syscalls.birth(fd).time
    if time is None or time[0] < 0:
        return None
    return time[0] * _NANOSECONDS + time[1]


def _has_birth(fd: int, name: bytes, birth: int | None) -> bool:
    """Tell whether what is behind a descriptor, or at a name there, was made at a time, as far as that is known."""
    if birth is None:
        return True
    try:
        return syscalls.birth(fd, name).time in (None, divmod(birth, _NANOSECONDS))
    except FileNotFoundError:
        return False
