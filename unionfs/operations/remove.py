# SPDX-License-Identifier: Apache-2.0
"""Remove names: unlink and rmdir, by whiteout where a lower branch would show the name again.

AUFS' order: make the whiteout, which hides nothing yet, then remove the entry; one branch only is changed. In overlayfs' form
the whiteout takes the entry's place in one step. What follows that step cannot fail.
"""

from __future__ import annotations

import errno
import logging
import os
import stat

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import few_marks, is_empty
from unionfs.branches.metadata import try_to_restore_times
from unionfs.kernel import syscalls
from unionfs.lookup.find import Found
from unionfs.operations.copyup import CopyUps
from unionfs.operations.policy import Policies
from unionfs.operations.reconsider import ask_again
from unionfs.plinks.pseudolinks import drop_name, losing
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

log = logging.getLogger(__name__)


class Remover:
    """Removes entries of one union."""

    def __init__(self, union: Union, policies: Policies, copyups: CopyUps) -> None:
        self._union = union
        self._policies = policies
        self._copyups = copyups

    def unlink(self, parent: Node, name: bytes) -> Node | None:
        """Remove a name that is not a directory; return the node that lost it, if the kernel knew it.

        ENOENT, EISDIR for a directory, EPERM for what is immutable or append-only, EROFS if nothing can hide it.
        """
        union = self._union
        node = union.only_name(parent, name)
        if node is not None and node.branch is not None:
            source = node.branch
        else:
            found = self._find(parent, name)
            if found.is_directory:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            node, source = union.node_for(parent, name, found), found.branch
        protection.check_lost_name(union, parent, node)
        target = self._target(parent, source)
        fd = self._copyups.directory_on(parent, target)
        self.bury(node)
        try:
            if union.plinks and node.ino in union.plinks:
                with losing(union, node, parent, name, target, fd):
                    self._unlink(node, parent, target, fd, name, physical=target is source)
            else:
                self._unlink(node, parent, target, fd, name, physical=target is source)
        except BaseException:
            self.dig_up(node)
            ask_again(union, parent, name)
            raise
        union.touched(parent, target, fd)
        return node

    def _unlink(
        self, node: Node, parent: Node, branch: OpenBranch, fd: int, name: bytes, *, physical: bool
    ) -> None:
        if physical:
            self._hide_entry(parent, branch, fd, name)
        else:
            self._union.make_whiteout(parent, branch, fd, name)
        self.lose_name(node, parent, name, physical=physical)

    def rmdir(self, parent: Node, name: bytes) -> Node | None:
        """Remove a directory that is empty in the union (it may hold whiteouts); ENOTEMPTY, ENOTDIR."""
        union = self._union
        node = union.known_directory(parent, name)
        if node is None:
            found = self._find(parent, name)
            if not found.is_directory:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            node = union.node_for(parent, name, found)
        protection.check_lost_name(union, parent, node)
        source = union.dirs(node)[0][0]
        if source.writable and len(union.dirs(node)) == 1:
            fd = self._copyups.directory_on(parent, source)
            if self._remove_bare(node, parent, source, fd, name):
                union.touched(parent, source, fd)
                return node
        union.directories.check_known(node)
        if not is_empty(union.dirs(node)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        target = self._target(parent, source)
        fd = self._copyups.directory_on(parent, target)
        self.bury(node)
        aside = None
        try:
            if target is source:
                aside = self._remove_directory(parent, target, fd, name)
            else:
                union.make_whiteout(parent, target, fd, name)
        except BaseException:
            self.dig_up(node)
            ask_again(union, parent, name)
            raise
        self.lose_name(node, parent, name, physical=True)
        union.touched(parent, target, fd)
        if aside is not None:
            self.delete(*aside)
        return node

    def _remove_bare(self, node: Node, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> bool:
        """Remove a directory that has one copy, with not even a whiteout in it, where no lower one shows; tell whether it was."""
        if self._union.shows_below(parent, name, branch):
            return False
        held = node.lookups or node.opens
        dead_fd = self._union.directories.take(node) if held else -1
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if dead_fd >= 0:
                os.close(dead_fd)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        if dead_fd >= 0:
            self._union.hold(node, dead_fd)
        self.lose_name(node, parent, name, physical=True)
        return True

    # -- parts, also used by rename -----------------------------------------------------------------------------

    def bury(self, node: Node) -> None:
        """Before the last known name goes: keep the file reachable for those who hold it."""
        if node.parent is not None and not node.traits.aliases:
            self._union.bury(node)

    def dig_up(self, node: Node) -> None:
        """After a name did not go: let go of what `bury` keeps."""
        if node.parent is not None:
            self._union.let_go(node)

    def lose_name(self, node: Node, parent: Node, name: bytes, *, physical: bool) -> None:
        """Take a name off a node after it was removed; `physical`: from its own branch, so that st_nlink counts it.

        That is done, so it raises nothing.
        """
        union = self._union
        node.remove_name(parent, name)
        if node.ino in union.plinks:
            try:
                drop_name(union, node)
            except OSError as error:
                log.warning("the links of file %d are miscounted from now on: %s", node.ino, error.strerror)
        elif not physical:
            node.hide_link()
        if node.is_directory:
            union.forget_children(node)
        union.nodes.release(node)

    def set_aside(self, branch: OpenBranch, fd: int, name: bytes) -> tuple[int, bytes]:
        """Move an entry out of sight by one rename; return where it is."""
        staging = self._union.stage_dir(branch, fd)
        staged = stage.stage_name(name)
        with self._union.root_kept(branch.root, fd):
            os.rename(name, staged, src_dir_fd=fd, dst_dir_fd=staging)
        return staging, staged

    def delete(self, staging: int, staged: bytes) -> None:
        """Delete a directory that was set aside, later if it holds more than `dirwh` whiteouts; raises nothing."""
        try:
            names = few_marks(staging, staged, self._union.options.dirwh)
            if names is None:
                self._union.session.delete_later(staging, staged)
                return
            with self._union.root_kept(staging):
                for name in names:
                    os.unlink(staged + b"/" + name, dir_fd=staging)
                os.rmdir(staged, dir_fd=staging)
        except OSError:
            leftovers.discard(staging, staged)

    def _find(self, parent: Node, name: bytes) -> Found:
        union = self._union
        union.check_name(name)
        found = union.find(parent, name)
        if found is None:
            union.drop_stale_child(parent, name)
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found

    def _target(self, parent: Node, source: OpenBranch) -> OpenBranch:
        union = self._union
        return self._policies.for_copy_up(union.branches, union.dirs(parent), source)

    def _hide_entry(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> None:
        union = self._union
        if not union.shows_below(parent, name, branch):
            os.unlink(name, dir_fd=fd)
        elif union.options.whiteout == "overlay":
            self._replace_by_device(branch, fd, name)
        else:
            times = os.fstat(fd)
            union.make_whiteout(parent, branch, fd, name)
            try:
                os.unlink(name, dir_fd=fd)
            except BaseException:
                take_back_whiteout(fd, name, times)
                raise

    def _replace_by_device(self, branch: OpenBranch, fd: int, name: bytes) -> None:
        with self._union.root_kept(branch.root, fd):
            staging, staged = self._stage_device(branch, fd, name)
            try:
                os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=fd)
            except BaseException:
                leftovers.discard(staging, staged)
                raise

    def _stage_device(self, branch: OpenBranch, fd: int, name: bytes) -> tuple[int, bytes]:
        """Make overlayfs' whiteout of a name out of sight; return where it is."""
        staging = self._union.stage_dir(branch, fd)
        staged = stage.stage_name(name)
        os.mknod(staged, stat.S_IFCHR, 0, dir_fd=staging)
        return staging, staged

    def _remove_directory(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> tuple[int, bytes]:
        """Remove a directory's own copy and hide those below; return where it is now."""
        union = self._union
        if not union.shows_below(parent, name, branch):
            return self.set_aside(branch, fd, name)
        if union.options.whiteout == "overlay":
            return self._swap_for_device(branch, fd, name)
        times = os.fstat(fd)
        union.make_whiteout(parent, branch, fd, name)
        try:
            return self.set_aside(branch, fd, name)
        except BaseException:
            take_back_whiteout(fd, name, times)
            raise

    def _swap_for_device(self, branch: OpenBranch, fd: int, name: bytes) -> tuple[int, bytes]:
        """Let a directory and a whiteout change places: nothing can replace a directory that is not empty."""
        with self._union.root_kept(branch.root, fd):
            staging, staged = self._stage_device(branch, fd, name)
            try:
                syscalls.exchange(staged, name, staging, fd)
            except BaseException:
                leftovers.discard(staging, staged)
                raise
        return staging, staged


def take_back_whiteout(fd: int, name: bytes, times: os.stat_result) -> None:
    """Remove AUFS' whiteout of an entry that was to go and did not, and give the directory the times that it had.

    If the entry has gone all the same (EIO may mean that) the whiteout stays, and the operation is done.
    """
    try:
        if whiteout.exists(fd, name) is None:
            return
    except OSError:
        return  # beside its entry it hides nothing
    leftovers.discard_whiteout(fd, name)
    try_to_restore_times(fd, times)
