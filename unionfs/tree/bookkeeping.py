# SPDX-License-Identifier: Apache-2.0
"""The directories in the roots of branches that hold what the union does not show: pseudo-links, and entries in the making."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.metadata import restore_times, try_to_restore_times
from unionfs.lookup.find import open_directory


class Bookkeeping:
    """Those directories of one mounted union, each opened when it is first needed."""

    def __init__(self, root_moved: Callable[[], None]) -> None:
        """Begin with none open; `root_moved` is told that the change time of the root of a branch moved."""
        self.in_overlay_form = False  # staged entries lie in the roots themselves
        self._root_moved = root_moved
        self._fds: dict[tuple[int, bytes], int] = {}

    def plink_dir(self, branch: OpenBranch) -> int:
        """Return the descriptor of a branch's pseudo-link directory, made if it is missing."""
        return self._directory(branch, whiteout.PLINK_DIR)

    def stage_dir(self, branch: OpenBranch, dirfd: int) -> int:
        """Return the directory in which an entry for `dirfd` is staged: on the same filesystem, out of users' sight."""
        if os.fstat(dirfd).st_dev != branch.device:
            return dirfd  # a subvolume or a mount inside the branch: a rename could not cross
        if self.in_overlay_form:
            return branch.root
        return self._directory(branch, whiteout.ORPHAN_DIR)

    @contextlib.contextmanager
    def root_kept(self, root: int, changed: int = -1) -> Iterator[None]:
        """Keep the times of a branch's root where entries are staged in it, unless it is what is to be `changed` anyway."""
        before = os.fstat(root) if self.in_overlay_form and changed != root else None
        try:
            yield
        finally:
            if before is not None:
                try_to_restore_times(root, before)
                self._root_moved()

    def _directory(self, branch: OpenBranch, name: bytes) -> int:
        fd = self._fds.get((branch.id, name))
        if fd is None:
            status = os.fstat(branch.root)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=branch.root)
                restore_times(branch.root, status)
                self._root_moved()
            fd = self._fds[branch.id, name] = open_directory(branch.root, name)
        return fd

    def drop(self, branch: OpenBranch) -> None:
        """Close the directories of a branch that is no longer written to, or leaves."""
        for key in [key for key in self._fds if key[0] == branch.id]:
            os.close(self._fds.pop(key))

    def remove_plink_dirs(self, branches: Iterable[OpenBranch]) -> None:
        """Remove empty directories of pseudo-links: a branch in overlayfs' form is to hold nothing of ours in the end."""
        for branch in branches:
            if (branch.id, whiteout.PLINK_DIR) in self._fds:
                status = os.fstat(branch.root)
                with contextlib.suppress(OSError):
                    os.rmdir(whiteout.PLINK_DIR, dir_fd=branch.root)
                    restore_times(branch.root, status)
