# SPDX-License-Identifier: Apache-2.0
"""Branch attributes that act on open: coo_reg and coo_all copy up, moo moves up (docs/aufs.md §1.3)."""

from __future__ import annotations

import contextlib
import os

from unionfs.branches.branch import OpenBranch
from unionfs.handles.handles import is_pinned
from unionfs.operations.copyup import CopyUps
from unionfs.operations.policy import writable_above
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union


class OnOpen:
    """Applies the attributes; always bottom-up whatever the copy-up policy, never to the target's own attribute."""

    def __init__(self, union: Union, copyups: CopyUps) -> None:
        self._union = union
        self._copyups = copyups

    def prepare_file(self, node: Node) -> None:
        """Before a regular file is opened; errors as of a copy-up (ENOSPC, EIO …), EROFS excepted: then nothing is done."""
        branch = node.branch
        assert branch is not None
        if not branch.copy_on_open or node.removed:
            return
        target = self._above(branch)
        if target is None or is_pinned(node) or protection.of_file(self._union, node):
            return
        moves = branch.copy_on_open == "moo" and branch.writable and node.ino not in self._union.plinks
        parent, name = node.parent, node.name
        assert parent is not None
        self._copyups.to_branch(node, target)
        fd = self._union.fd_on(parent, branch)
        if not moves or fd is None or self._union.plinks.get(node.ino):
            return
        if not self._union.shows_below(parent, name, target, without=branch):
            os.unlink(name, dir_fd=fd)

    def prepare_directory(self, node: Node) -> None:
        """Before a directory is opened: coo_all copies the directory itself, not what is in it."""
        branch = node.branch
        assert branch is not None
        if branch.copy_on_open != "coo_all" or node.removed or node is self._union.root:
            return
        target = self._above(branch)
        if target is not None:
            self._copyups.directory_on(node, target)

    def _above(self, branch: OpenBranch) -> OpenBranch | None:
        index = self._union.index(branch)
        with contextlib.suppress(OSError):
            if index > 0:
                return writable_above(self._union.branches, index - 1)
        return None
