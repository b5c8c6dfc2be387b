# SPDX-License-Identifier: Apache-2.0
"""The pseudo-links of a union: which files on lower branches are names of which copy.

A name is told by the file that it leads to on its branch, not by the union's number of that file: when branches are changed
directly, two files may claim one number, and then one of them is shown with another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identity


@dataclass(slots=True)
class Plink:
    """A pseudo-link: the copy of a hard-linked lower file, which names on lower branches share (AUFS' plink).

    The copy is `name` in the pseudo-link directory of `branch`; `ino` and `nlink` are what the union shows. Of one that was
    `recovered` after a crash the files that are its names are not known but by their number; one of an older version was not
    `counted`: its `nlink` is a guess, so that it stays until a flush.
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
    note: tuple[OpenBranch, bytes] | None = None  # what is on disk of a change under way


class PlinkTable:
    """Pseudo-links by number, and by the files that are their names."""

    def __init__(self) -> None:
        self._plinks: dict[int, Plink] = {}
        self._by_identity: dict[Identity, Plink] = {}
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
            self.remove(plink.ino)
        self._plinks[plink.ino] = plink
        for identity in (plink.copy, *plink.origins):
            self._by_identity[identity] = plink

    def remove(self, ino: int) -> Plink:
        """Take a pseudo-link out and return it."""
        plink = self._plinks.pop(ino)
        for identity in (plink.copy, *plink.origins):
            if self._by_identity.get(identity) is plink:
                del self._by_identity[identity]
        return plink

    def clear(self) -> None:
        """Take all out; what is on disk stays."""
        self.leftovers.clear()
        self._plinks.clear()
        self._by_identity.clear()

    def of_file(self, identity: Identity) -> Plink | None:
        """Return the pseudo-link that a file is the copy or an origin of, or None."""
        return self._by_identity.get(identity)

    def add_origin(self, plink: Plink, identity: Identity) -> None:
        """Let a file be a name of a pseudo-link that is in the table."""
        plink.origins.add(identity)
        self._by_identity[identity] = plink

    def lose_origin(self, identity: Identity) -> None:
        """Note that the inode of a file that was copied is another file's now: its names were taken away directly."""
        plink = self._by_identity.get(identity)
        if plink is not None and identity != plink.copy:
            plink.origins.discard(identity)
            del self._by_identity[identity]

    def has_recovered(self) -> bool:
        """Tell whether some pseudo-link was found after a crash."""
        return any(plink.recovered for plink in self._plinks.values())
