# SPDX-License-Identifier: Apache-2.0
"""link(2) in the union: a lower file is copied up under its new name, or brought up first where there are no pseudo-links."""

from __future__ import annotations

import contextlib
import errno
import os

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.operations.copyup import CopyUps
from unionfs.operations.policy import Policies
from unionfs.operations.reconsider import ask_again
from unionfs.plinks.pseudolinks import gaining
from unionfs.tree import protection
from unionfs.tree.nodes import Attributes, Node
from unionfs.tree.union import Union


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
        if protection.of_file(union, node):
            raise protection.refused()
        assert node.branch is not None
        self._copyups.complete(node)
        target = self._policies.lifted(union.branches, union.dirs(parent), name, self._copyups.target(node))
        # Overlayfs copies the old name up; AUFS gives the copy the new name only and remembers the old one as a pseudo-link.
        pseudo = union.options.plink and union.options.whiteout == "aufs"
        if target is not node.branch and not pseudo:
            self._copyups.to_branch(node, target)
        fd = self._copyups.directory_on(parent, target)
        union.numbers.keep(node, parent, target, fd)
        hidden = union.is_hidden(parent, target, fd, name)
        try:
            if target is not node.branch:
                status = union.status(node)
                self._copyups.to_branch(node, target, place=(parent, name))
                with contextlib.suppress(OSError):
                    status = union.status(node)
            elif hidden and union.options.whiteout == "overlay":
                with gaining(union, node, parent, name):
                    status = self._link_over_device(node, target, fd, name)
            else:
                with gaining(union, node, parent, name):
                    status = self._link_on_branch(node, fd, name)
        except OSError:
            ask_again(union, parent, name)
            raise
        self._settle(node, parent, name)
        if hidden and union.options.whiteout == "aufs":
            leftovers.discard_whiteout(fd, name)
        union.touched(parent, target, fd)
        return union.attributes_now(node, status)

    def _link_on_branch(self, node: Node, parent_fd: int, name: bytes) -> os.stat_result:
        """Make one more physical name of a file on its branch, also of one that was removed and is held open; return its stat."""
        union = self._union
        if node.removed:
            held = whiteout.proc_path(union.held_fd(node))
            os.link(held, name, dst_dir_fd=parent_fd, follow_symlinks=True)
        else:
            source_fd, source = union.found_home(node)
            os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        try:
            return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except BaseException:
            leftovers.discard(parent_fd, name)
            raise

    def _link_over_device(
        self, node: Node, branch: OpenBranch, parent_fd: int, name: bytes
    ) -> os.stat_result:
        """Let the new name replace overlayfs' whiteout in one step."""
        staging, staged = self._union.stage_dir(branch, parent_fd), stage.stage_name(name)
        with self._union.root_kept(branch.root, parent_fd):
            status = self._link_on_branch(node, staging, staged)
            try:
                os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=parent_fd)
            except BaseException:
                leftovers.discard(staging, staged)
                raise
        with contextlib.suppress(OSError):  # the rename gave it another ctime
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        return status

    def _settle(self, node: Node, parent: Node, name: bytes) -> None:
        """Bring the node in line with the new name; raises nothing."""
        union = self._union
        union.drop_stale_child(parent, name)
        node.add_name(parent, name)
        union.let_go(node)
