# SPDX-License-Identifier: Apache-2.0
"""Inode numbers of the union: made from a branch file's own, or recorded when a copy keeps those of its origin.

The numbers of inodes are made in identity.py; docs/formats.md describes the two xattrs, and docs/decisions/inode-numbers.md why.
"""

from __future__ import annotations

import errno
import os

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identities, Identity, number_of
from unionfs.tree.directories import Directories
from unionfs.tree.nodes import Node
from unionfs.tree.plink_table import Plink
from unionfs.tree.pristine import Fresh

_PRIVILEGED = os.geteuid() == 0
_NO_MARKS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
ORIGIN_XATTR = ("trusted" if _PRIVILEGED else "user") + ".unionfs.origin"
IMPURE_XATTR = ("trusted" if _PRIVILEGED else "user") + ".unionfs.impure"


class Numbers:
    """Tells the number of each entry, and records those that its inode would not give."""

    def __init__(self, identities: Identities, directories: Directories) -> None:
        self._identities = identities
        self._fd_on = directories.fd_on
        # Numbers of copied-up files on filesystems that keep no xattrs; lost at umount, as in AUFS.
        self.origins: dict[Identity, int] = {}
        self._refusing: set[int] = set()  # ids of branches that take no such attribute from us
        self.marked = Fresh(identities)  # the directories that have the mark

    def of_entry(self, parent: Node, branch: OpenBranch, name: bytes, identity: Identity) -> int:
        """Return the union's number of an entry: the recorded one of a copied-up file, else one made from its own."""
        impure = parent.impure.get(branch.id) if parent.impure is not None else None
        if impure is None:
            impure = self.is_impure(parent, branch)
        if impure:
            fd = self._fd_on(parent, branch)
            recorded = whiteout.read_xattr(fd, ORIGIN_XATTR, name) if fd is not None else None
            if recorded is not None and recorded.isdigit():
                return int(recorded) & ((1 << 63) - 1)
        if self.origins:
            known = self.origins.get(identity)
            if known is not None:
                return known
        return number_of(identity)

    def of_inode(self, device: int, ino: int) -> int:
        """Return the union's number of an inode of a branch filesystem."""
        return number_of(self._identities.of_inode(device, ino))

    def is_impure(self, parent: Node, branch: OpenBranch, readable: int = -1) -> bool:
        """Tell whether some entry of `parent` on `branch` may have a recorded number (saves an xattr read per lookup).

        `readable` is a descriptor of that copy that is open for reading, if there is one: it spares a path.
        """
        known = self.marked.holds(parent, branch)
        if known is not None:
            return known
        if parent.impure is None:
            parent.impure = {}
        known = parent.impure.get(branch.id)
        if known is None:
            if readable >= 0:
                known = whiteout.has_xattr(readable, IMPURE_XATTR)
            else:
                fd = self._fd_on(parent, branch)
                known = fd is not None and whiteout.read_xattr(fd, IMPURE_XATTR) is not None
            parent.impure[branch.id] = known
        return known

    def record(self, node_ino: int, fd: int, parent: Node, branch: OpenBranch, parent_fd: int) -> None:
        """Record on the copy behind `fd` (and on its directory that there is such a child) the number the union shows.

        Where that cannot be, it is known until umount. OSError if the number can be neither kept nor taken back.
        """
        if branch.id in self._refusing or not self._recorded(node_ino, fd, branch):
            self.origins[self._identities.of(os.fstat(fd))] = node_ino
            return
        try:
            self._mark_impure(parent, branch, parent_fd)
        except OSError:
            # Names in marked directories would have it, and this one not: after a remount they would be two files.
            os.removexattr(whiteout.proc_path(fd), ORIGIN_XATTR)
            self.origins[self._identities.of(os.fstat(fd))] = node_ino

    def _recorded(self, node_ino: int, fd: int, branch: OpenBranch) -> bool:
        try:
            os.setxattr(whiteout.proc_path(fd), ORIGIN_XATTR, b"%d" % node_ino)
        except OSError as error:
            if error.errno == errno.EPERM and _PRIVILEGED:
                self._refusing.add(branch.id)  # to every file: we are root of a user namespace only
            return False
        return True

    def _mark_impure(self, parent: Node, branch: OpenBranch, parent_fd: int) -> None:
        """Mark a directory as holding children with recorded numbers."""
        if parent.impure is None or not parent.impure.get(branch.id):
            self.marked.leave(branch, parent_fd)
            os.setxattr(whiteout.proc_path(parent_fd), IMPURE_XATTR, b"y")
            if parent.impure is None:
                parent.impure = {}
            parent.impure[branch.id] = True

    def mark(self, plink: Plink, parent: Node, parent_fd: int) -> None:
        """Before a link of a pseudo-linked copy is made in `parent`: let lookups there read the recorded number; OSError."""
        self._mark_if_possible(parent, plink.branch, parent_fd)

    def keep(self, node: Node, parent: Node, branch: OpenBranch, parent_fd: int) -> None:
        """Before a rename or link into `parent`: mark it if the node's number is not the one its inode would give.

        After it would be too late: killed between the two, names of one file would have two numbers. OSError for that reason.
        """
        if number_of(node.identity) != node.ino:
            self._mark_if_possible(parent, branch, parent_fd)

    def _mark_if_possible(self, parent: Node, branch: OpenBranch, parent_fd: int) -> None:
        """Mark a directory; OSError, but not where the filesystem has no such marks or lets nobody like us make one."""
        try:
            self._mark_impure(parent, branch, parent_fd)
        except OSError as error:
            if error.errno not in _NO_MARKS:
                raise
