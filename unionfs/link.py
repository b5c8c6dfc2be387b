# SPDX-License-Identifier: Apache-2.0
"""link(2) in the union: a lower file is copied up under its new name, or brought up first where there are no pseudo-links."""

from __future__ import annotations

import contextlib
import errno
import os

from unionfs import protection, whiteout
from unionfs.branch import OpenBranch
from unionfs.copyup import CopyUps
from unionfs.nodes import Attributes, Node
from unionfs.plinks import gaining
from unionfs.policy import Policies
from unionfs.union import Union


class Linker:
    """Makes hard links in one union."""

    def __init__(self, union: Union, policies: Policies, copyups: CopyUps) -> None:
        self._union = union
        self._policies = policies
        self._copyups = copyups

    def link(self, node: Node, parent: Node, name: bytes) -> Attributes:
        """Make a hard link and return the file's attributes; EPERM (directories, reserved names), EEXIST, EMLINK, ENOSPC."""
        union = self._union
        union.check_name(name)
        if node.is_directory or name.startswith(whiteout.PREFIX):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if union.find_new(parent, name) is not None:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        protection.check_new_name(union, parent)
        assert node.branch is not None
        self._copyups.complete(node)
        target = self._policies.lifted(union.branches, union.dirs(parent), name, self._copyups.target(node))
        # Overlayfs copies the old name up; AUFS gives the copy the new name only and remembers the old one as a pseudo-link.
        pseudo = union.options.plink and union.options.whiteout == "aufs"
        if target is not node.branch and not pseudo:
            self._copyups.to_branch(node, target)
        fd = self._copyups.directory_on(parent, target)
        union.numbers.keep(node, parent, target, fd)
        with contextlib.ExitStack() as undo:
            if union.options.whiteout == "overlay" and whiteout.is_whited_out(target, fd, name):
                whiteout.remove(target, fd, name, "overlay")
                undo.callback(whiteout.make, target, fd, name, "overlay")
            if target is not node.branch:
                self._copyups.to_branch(node, target, place=(parent, name))
            else:
                with gaining(union, node, parent, name):
                    self._link_on_branch(node, fd, name)
            undo.pop_all()
        self._settle(node, parent, name, target, fd)
        return union.attributes(node)

    def _link_on_branch(self, node: Node, parent_fd: int, name: bytes) -> None:
        """Make one more physical name of a file on its branch, also of one that was removed and is held open."""
        union = self._union
        if node.removed:
            held = whiteout.proc_path(union.held_fd(node))
            os.link(held, name, dst_dir_fd=parent_fd, follow_symlinks=True)
        else:
            source_fd, source = union.found_home(node)
            os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)

    def _settle(self, node: Node, parent: Node, name: bytes, target: OpenBranch, fd: int) -> None:
        """Bring the node, link counts, numbers and times in line with the new name."""
        union = self._union
        whiteout.remove(target, fd, name, "aufs")
        union.drop_stale_child(parent, name)
        node.add_name(parent, name)
        union.let_go(node)
        union.touched(parent, target, fd)
