# SPDX-License-Identifier: Apache-2.0
"""What the union left in branches that held nothing when they came: other directories there need not be asked for it.

Only while nobody else changes the branches (udba=none). One `Fresh` is for one kind of thing.
"""

from __future__ import annotations

import os

from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identities, Identity
from unionfs.tree.nodes import Node

# So many directories of a branch are remembered, else all are asked.
_MOST = 4096


class Fresh:
    """The directories in which something was left, by branch."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._left: dict[int, set[Identity]] = {}  # by branch id

    def begin(self, branch: OpenBranch) -> None:
        """Note that a branch holds nothing yet."""
        self._left[branch.id] = set()

    def leave(self, branch: OpenBranch, fd: int) -> None:
        """Note that something is left in the directory behind `fd`."""
        left = self._left.get(branch.id)
        if left is not None:
            left.add(self._identities.of(os.fstat(fd)))
            if len(left) > _MOST:
                del self._left[branch.id]

    def holds(self, directory: Node, branch: OpenBranch) -> bool | None:
        """Tell whether something was left in a directory's copy on `branch`; None: not known."""
        left = self._left.get(branch.id)
        if left is None or directory.branch is not branch:
            return None
        return directory.identity in left

    def doubt(self) -> None:
        """Somebody else may change the branches from now on."""
        self._left.clear()
