# SPDX-License-Identifier: Apache-2.0
"""Which branch takes a change: AUFS' create and copy-up policies (docs/aufs.md §4).

Decides only; how the change is made is the operations' concern. Raises EROFS where no writable branch will do.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.options.aufs import Options

Layers = whiteout.Layers


def read_only() -> OSError:
    """Return EROFS."""
    return OSError(errno.EROFS, os.strerror(errno.EROFS))


def writable_above(branches: Sequence[OpenBranch], index: int) -> OpenBranch:
    """Return the nearest writable branch at or above `index` (bottom-up); EROFS if there is none."""
    for branch in reversed(branches[: index + 1]):
        if branch.writable:
            return branch
    raise read_only()


def top_down_parent(branches: Sequence[OpenBranch], layers: Layers) -> OpenBranch:
    """AUFS' tdp: the topmost branch that has the parent, else the nearest writable one above it; else EROFS."""
    top = layers[0][0]
    return top if top.writable else writable_above(branches, branches.index(top))


class Policies:
    """The policies of one mount, with what they remember: round-robin position and free-space readings."""

    def __init__(self, options: Options) -> None:
        self._next = -1
        self._free: dict[int, tuple[float, int]] = {}
        self.set_options(options)

    def set_options(self, options: Options) -> None:
        """Use other policies from now on."""
        self._options = options
        self.top_first = (
            options.create == "tdp"
        )  # then a directory's topmost copy is taken where it is writable
        self._create: Callable[[Sequence[OpenBranch], Layers, bytes, bool], OpenBranch] = {
            "tdp": lambda branches, layers, name, directory: top_down_parent(branches, layers),
            "rr": self._round_robin,
            "mfs": self._most_free,
            "mfsrr": self._most_free_round_robin,
            "pmfs": self._parent_most_free,
            "pmfsrr": self._parent_most_free_round_robin,
            "tdmfs": self._top_down_most_free,
        }[options.create]

    def for_create(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, *, directory: bool = False
    ) -> OpenBranch:
        """Return the branch on which `name` is to be created in the directory `layers`."""
        chosen = self._create(branches, layers, name, directory)
        return chosen if self._options.create == "tdp" else self.lifted(branches, layers, name, chosen)

    def lifted(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, chosen: OpenBranch
    ) -> OpenBranch:
        """Move a choice up where a whiteout or an opaque parent on a higher branch would hide the new entry.

        The highest writable branch with such a mark wins; for a read-only one it is the nearest writable branch above it,
        EROFS if there is none.
        """
        position = branches.index(chosen)
        for branch, fd in layers:
            index = branches.index(branch)
            if index >= position:
                break
            if branch.marks and (whiteout.is_opaque(branch, fd) or whiteout.is_whited_out(branch, fd, name)):
                return branch if branch.writable else writable_above(branches, index)
        return chosen

    def for_copy_up(self, branches: Sequence[OpenBranch], layers: Layers, source: OpenBranch) -> OpenBranch:
        """Return the branch to which an entry of `source` in the directory `layers` is copied up; `source` if writable.

        EROFS if no writable branch is above it.
        """
        if source.writable:
            return source
        position = branches.index(source)
        having = [branch for branch, _ in layers if branch.writable and branches.index(branch) < position]
        if self._options.copy_up == "bu":
            return writable_above(branches, position)
        if having:
            return having[0] if self._options.copy_up == "tdp" else having[-1]
        if self._options.copy_up == "tdp":
            return writable_above(branches, position)
        return writable_above(branches, branches.index(layers[0][0]))

    # -- create policies ----------------------------------------------------------------------------------------

    def _writable(self, branches: Sequence[OpenBranch]) -> list[OpenBranch]:
        chosen = [branch for branch in branches if branch.writable]
        if not chosen:
            raise read_only()
        return chosen

    def _round_robin(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, directory: bool
    ) -> OpenBranch:
        """Count down over the branches, lowest first; a mkdir uses the position without moving it."""
        self._writable(branches)
        position = self._next if 0 <= self._next < len(branches) else len(branches) - 1
        while not branches[position].writable:
            position = (position - 1) % len(branches)
        self._next = position if directory else (position - 1) % len(branches)
        return branches[position]

    def free_bytes(self, branch: OpenBranch) -> int:
        """Return the free space of a branch, read at most every `create_seconds` seconds."""
        now = time.monotonic()
        read, free = self._free.get(branch.id, (float("-inf"), 0))
        if now - read >= self._options.create_seconds:
            status = os.statvfs(branch.root)
            free = status.f_bavail * status.f_frsize
            self._free[branch.id] = (now, free)
        return free

    def _most_free(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, directory: bool
    ) -> OpenBranch:
        return max(reversed(self._writable(branches)), key=self.free_bytes)  # a tie goes to the lower branch

    def _most_free_round_robin(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, directory: bool
    ) -> OpenBranch:
        best = self._most_free(branches, layers, name, directory)
        if self.free_bytes(best) < self._options.create_low:
            return self._round_robin(branches, layers, name, directory)
        return best

    def _parent_most_free(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, directory: bool
    ) -> OpenBranch:
        having = [branch for branch, _ in layers if branch.writable]
        if len(layers) < 2 or not having:
            return top_down_parent(branches, layers)
        return max(having, key=self.free_bytes)  # a tie goes to the upper branch

    def _parent_most_free_round_robin(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, directory: bool
    ) -> OpenBranch:
        best = self._parent_most_free(branches, layers, name, directory)
        if self.free_bytes(best) < self._options.create_low:
            return self._most_free_round_robin(branches, layers, name, directory)
        return best

    def _top_down_most_free(
        self, branches: Sequence[OpenBranch], layers: Layers, name: bytes, directory: bool
    ) -> OpenBranch:
        tail = branches.index(layers[-1][0])
        for branch in branches[: tail + 1]:
            if branch.writable and self.free_bytes(branch) > self._options.create_low:
                return branch
        return self._most_free(branches, layers, name, directory)
