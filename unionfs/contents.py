# SPDX-License-Identifier: Apache-2.0
"""What is known of the names in one copy of a directory, so that lookups need not ask the branch for what is not there.

A read-only copy's names are read once it was looked into often enough, and are believed as long as nobody but us may change
the branch (udba=none), else as long as its change time stays. Of a writable copy only the absence of marks is kept.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from unionfs import whiteout
from unionfs.branch import OpenBranch

if TYPE_CHECKING:
    from unionfs.nodes import Node

# A directory of so many bytes is taken to hold a name for each _BYTES_A_NAME of them (ext4: about 4096 for 60 to 100).
_BYTES_A_NAME = 48
# Reading names pays when at most so many are read for each lookup that was made so far.
_NAMES_A_FIND = 16
# Bigger directories are never read: it would take too long between two requests, and too much memory.
_MAX_NAMES = 1 << 16
# A change within one tick of the clock after the reading would not show in the change time (as in git's index).
_RACY_NS = 20_000_000


class Contents(NamedTuple):
    """The names in one copy of a directory (None: not known), and whether some of them are whiteouts."""

    names: frozenset[bytes] | None
    marked: bool
    changed_ns: int  # st_ctime of the directory; 0 if it need not be looked at

    def is_current(self, fd: int) -> bool:
        """Tell whether the directory is as it was read."""
        return self.changed_ns == 0 or os.fstat(fd).st_ctime_ns == self.changed_ns


def learn(branch: OpenBranch, fd: int, finds: int, *, trust: bool) -> Contents | None:
    """Read the names of a copy if that pays after `finds` lookups, else None. `trust`: nobody but us changes branches."""
    if branch.writable and not (trust and branch.whable):
        return None
    status = os.fstat(fd)
    if status.st_size > min(finds * _NAMES_A_FIND, _MAX_NAMES) * _BYTES_A_NAME + 4096:
        return None
    if not trust and time.time_ns() - status.st_ctime_ns < _RACY_NS:
        return None
    try:
        names: list[bytes] = os.listdir(whiteout.proc_path(fd))
    except OSError:
        return None  # unreadable for the server; a lookup may still succeed
    marked = any(name[:4] == whiteout.PREFIX for name in names)
    if branch.writable:
        return None if marked else Contents(None, False, 0)
    if len(names) > _MAX_NAMES:
        return None
    return Contents(frozenset(names), marked, 0 if trust else status.st_ctime_ns)


def known_contents(
    node: Node, dirs: tuple[tuple[OpenBranch, int], ...], trust: bool
) -> tuple[Contents | None, ...]:
    """Return what is known of the names in each of `dirs`, a directory's copies; learn it when asked often enough."""
    node.finds = finds = node.finds + 1
    known = node.contents
    if finds > 1 and finds & (finds - 1) == 0:  # at powers of two
        old = known or (None,) * len(dirs)
        known = node.contents = tuple(
            was or learn(branch, fd, finds, trust=trust) for was, (branch, fd) in zip(old, dirs, strict=True)
        )
    if known and not trust:
        for position, (_, fd) in enumerate(dirs):
            one = known[position]
            if one is not None and not one.is_current(fd):
                known = node.contents = (*known[:position], None, *known[position + 1 :])
    return known
