# SPDX-License-Identifier: Apache-2.0
"""What a listing shows of one copy of a directory: which entries are none of the union's marks, and their numbers."""

from __future__ import annotations

import os

from unionfs.branches import stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import is_device_mark
from unionfs.kernel.syscalls import DirectoryReader
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

reader = DirectoryReader()  # one buffer for all listings


class Copy:
    """One copy of a directory that is being read: which of its entries show, and under which number."""

    def __init__(self, union: Union, node: Node, branch: OpenBranch, fd: int) -> None:
        self.union = union
        self.node = node
        self.branch = branch
        self.fd = fd
        self.device = branch.device if branch.one_device else os.fstat(fd).st_dev

    def shows(self, name: bytes, kind: int) -> bool:
        """Tell whether an entry is none of the union's marks: the reserved prefix, also with nothing behind it, or a device."""
        if name[:4] == whiteout.PREFIX:
            if name.startswith(whiteout.META_PREFIX):
                self._sweep(name)
                return False
            return self.union.options.shwh
        return not (self.branch.overlay and is_device_mark(self.fd, name, kind))

    def _sweep(self, name: bytes) -> None:
        """Remove what a killed server left here, where nothing that takes longer than one operation is staged."""
        union, node = self.union, self.node
        since = union.locks.alone_since(self.branch)
        if not since or node is union.root or os.fstat(self.fd).st_dev != self.branch.device:
            return
        if stage.sweep_left(self.fd, name, since):
            union.times_moved(node)

    def hides(self, name: bytes, kind: int) -> bytes | None:
        """Return the name that an entry hides on lower branches."""
        if name[:4] == whiteout.PREFIX and self.branch.whable and not name.startswith(whiteout.META_PREFIX):
            return name[len(whiteout.PREFIX) :] or None
        if self.branch.overlay and is_device_mark(self.fd, name, kind):
            return name
        return None

    @property
    def prefix(self) -> int:
        """Return what the union's number of an inode here has beside the inode's own."""
        return self.union.numbers.of_inode(self.device, 0)

    def number(self, name: bytes, ino: int, *, recorded: bool) -> int:
        """Return d_ino of an entry, the number that stat shows; `recorded`: some entries carry a number of their own."""
        node = self.node
        if name == b".":
            return node.ino
        if name == b"..":
            return node.parent.ino if node.parent is not None else node.ino
        child = node.children.get(name) if node.children else None
        if child is not None:
            return child.ino
        if recorded:
            status = whiteout.exists(self.fd, name)
            if status is not None:
                identity = self.union.identity_of(status)
                return self.union.numbers.of_entry(node, self.branch, name, identity)
        return self.union.numbers.of_inode(self.device, ino)

    def records_numbers(self) -> bool:
        """Tell whether some entries carry numbers of their own."""
        return bool(self.union.numbers.origins) or self.union.numbers.is_impure(
            self.node, self.branch, self.fd
        )
