# SPDX-License-Identifier: Apache-2.0
"""Rename in the union: decide the branch, bring the source there, rename on that branch, hide the old name.

A directory moves only if one branch holds all of it (else EXDEV, as AUFS answers; mv(1) then copies). Each step before the
rename itself is undone when a later one fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import NamedTuple

from unionfs import protection, syscalls, whiteout
from unionfs.branch import OpenBranch
from unionfs.copyup import CopyUps
from unionfs.emptiness import is_covered, is_empty
from unionfs.lookup import open_directory
from unionfs.nodes import Node
from unionfs.plinks import is_entry_of, losing, materialize
from unionfs.policy import Policies
from unionfs.redirects import has_redirect
from unionfs.remove import Remover
from unionfs.union import Union


class _Side(NamedTuple):
    """One name of a rename with what is there, and on which branch it shows."""

    parent: Node
    name: bytes
    node: Node | None
    branch: OpenBranch | None


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Renamer:
    """Renames within one union."""

    def __init__(self, union: Union, policies: Policies, copyups: CopyUps, remover: Remover) -> None:
        self._union = union
        self._policies = policies
        self._copyups = copyups
        self._remover = remover

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> None:
        """Rename with renameat2's flags NOREPLACE and EXCHANGE; WHITEOUT is EINVAL.

        ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR and EXDEV (a directory that lower branches hold too) as AUFS has them.
        """
        if flags & ~(syscalls.RENAME_NOREPLACE | syscalls.RENAME_EXCHANGE):
            raise _error(errno.EINVAL)
        replaces = not flags & syscalls.RENAME_EXCHANGE
        old, new = self._side(parent, name), self._side(new_parent, new_name, new=replaces)
        if old.node is None or old.branch is None:
            raise _error(errno.ENOENT)
        if flags & syscalls.RENAME_NOREPLACE and new.node is not None:
            raise _error(errno.EEXIST)
        protection.check_lost_name(self._union, parent, old.node)
        if new.node is not None:
            protection.check_lost_name(self._union, new_parent, new.node)
        protection.check_new_name(self._union, new_parent)
        if flags & syscalls.RENAME_EXCHANGE:
            if new.node is None or new.branch is None:
                raise _error(errno.ENOENT)
            if old.node is not new.node:
                self._exchange(old, old.node, old.branch, new, new.node, new.branch)
            return
        if old.node is new.node:
            return  # two names of one file: POSIX says to do nothing
        self._check_types(old.node, new)
        self._move(old, old.node, old.branch, new)

    # -- deciding -----------------------------------------------------------------------------------------------

    def _side(self, parent: Node, name: bytes, *, new: bool = False) -> _Side:
        union = self._union
        if len(name) > union.name_max or name[:4] == whiteout.PREFIX:
            union.check_name(name)
            raise _error(errno.EPERM)
        node = union.only_name(parent, name)
        if node is not None:
            return _Side(parent, name, node, node.branch)
        found = union.find_new(parent, name) if new else union.find(parent, name)
        if found is None:
            return _Side(parent, name, None, None)
        node = union.node_for(parent, name, found)
        # A lower name of a pseudo-linked file is as high as the copy: on a branch below that it would be another file.
        plink = union.plinks.get(node.ino) if union.plinks else None
        return _Side(parent, name, node, found.branch if plink is None or new else plink.branch)

    def _check_types(self, node: Node, new: _Side) -> None:
        if new.node is None:
            return
        if node.is_directory != new.node.is_directory:
            raise _error(errno.ENOTDIR if node.is_directory else errno.EISDIR)
        if node.is_directory and not is_empty(self._union.dirs(new.node)):
            raise _error(errno.ENOTEMPTY)

    def _target(self, old: _Side, branch: OpenBranch, new: _Side) -> OpenBranch:
        """Return the branch to rename on: the source's, or a higher one if the new place would be hidden there."""
        union = self._union
        chosen = branch
        if new.branch is not None and union.index(new.branch) < union.index(chosen):
            chosen = new.branch
        if not chosen.writable:
            chosen = self._policies.for_copy_up(union.branches, union.dirs(old.parent), chosen)
        if union.dirs(new.parent)[0][0] is chosen:
            return chosen  # no copy of the new place is higher
        return self._policies.lifted(union.branches, union.dirs(new.parent), new.name, chosen)

    def _check_directory(self, node: Node, target: OpenBranch) -> None:
        """Refuse with EXDEV a directory that would leave entries of lower branches behind.

        AUFS lets logically empty ones pass; overlayfs (without redirects) refuses whatever has a lower copy.
        """
        layers = self._union.dirs(node)
        if self._union.options.whiteout == "overlay" and (len(layers) > 1 or layers[0][0] is not target):
            raise _error(errno.EXDEV)
        if layers[0][0] is target:
            if len(layers) == 1 or is_covered(layers[0], layers[1:]):
                return
        elif is_empty(layers):
            return
        raise _error(errno.EXDEV)

    # -- doing --------------------------------------------------------------------------------------------------

    def _bring(self, side: _Side, node: Node, branch: OpenBranch, target: OpenBranch) -> int:
        """Make `side` exist physically on `target`; return the descriptor of its directory there."""
        union = self._union
        if branch is not target:
            if node.is_directory:
                self._copyups.directory_on(node, target)
            elif node.branch is not target:
                if not node.is_directory and node.ino not in union.plinks:
                    node.make_home(side.parent, side.name)
                self._copyups.to_branch(node, target)
        self._copyups.complete(node)  # its data is found by its name
        fd = self._copyups.directory_on(side.parent, target)
        if node.ino in union.plinks and not is_entry_of(union, node, fd, side.name):
            materialize(union, union.plinks[node.ino], side.parent, fd, side.name)
        return fd

    def _move(self, old: _Side, node: Node, branch: OpenBranch, new: _Side) -> None:
        union = self._union
        target = self._target(old, branch, new)
        is_directory = node.is_directory
        if is_directory:
            self._check_directory(node, target)
        old_fd = self._bring(old, node, branch, target)
        new_fd = old_fd if new.parent is old.parent else self._copyups.directory_on(new.parent, target)
        if new.node is not None:
            self._remover.bury(new.node)
        if is_directory:
            self._prepare_opaque(node, target, new, new_fd)
        union.numbers.keep(node, new.parent, target, new_fd)
        hide = union.shows_below(old.parent, old.name, target)
        on_target = new.node is not None and whiteout.exists(new_fd, new.name) is not None
        with losing(union, new.node, new.parent, new.name, target, new_fd):
            if union.options.whiteout == "overlay":
                self._rename_overlay(old, old_fd, new, new_fd, target, hide=hide)
            else:
                self._rename_aufs(old, old_fd, new, new_fd, target, hide=hide)
            self._settle(old, node, new, target, old_fd, new_fd, physical=on_target)

    def _rename_aufs(
        self, old: _Side, old_fd: int, new: _Side, new_fd: int, target: OpenBranch, *, hide: bool
    ) -> None:
        """Whiteout first, then the rename; what was done is undone if a step fails."""
        if not hide and new.node is None and self._union.trust:
            marked = self._union.may_hide(new.parent, target, new_fd, new.name)
            if not marked or len(self._union.dirs(new.parent)) == 1:  # nothing to prepare or to clear
                os.rename(old.name, new.name, src_dir_fd=old_fd, dst_dir_fd=new_fd)
                if marked:
                    whiteout.remove(target, new_fd, new.name, "aufs")
                return
        with contextlib.ExitStack() as undo:
            if hide:
                self._union.make_whiteout(old.parent, target, old_fd, old.name)
                undo.callback(whiteout.remove, target, old_fd, old.name, "aufs")
            aside = self._clear_directory(new, new_fd, target, undo)
            os.rename(old.name, new.name, src_dir_fd=old_fd, dst_dir_fd=new_fd)
            undo.pop_all()
        whiteout.remove(target, new_fd, new.name, "aufs")
        if aside is not None:
            self._remover.delete(*aside)

    def _rename_overlay(
        self, old: _Side, old_fd: int, new: _Side, new_fd: int, target: OpenBranch, *, hide: bool
    ) -> None:
        """The whiteout takes the old name: by RENAME_WHITEOUT in one step where the filesystem can."""
        with contextlib.ExitStack() as undo:
            aside = self._clear_directory(new, new_fd, target, undo)
            status = whiteout.exists(new_fd, new.name)
            if status is not None and old.node is not None and old.node.is_directory:
                os.unlink(new.name, dir_fd=new_fd)  # a whiteout device: a directory cannot replace it
                undo.callback(whiteout.make, target, new_fd, new.name, "overlay")
            self._rename_leaving(old, old_fd, new, new_fd, target, hide=hide)
            undo.pop_all()
        if aside is not None:
            self._remover.delete(*aside)

    def _rename_leaving(
        self, old: _Side, old_fd: int, new: _Side, new_fd: int, target: OpenBranch, *, hide: bool
    ) -> None:
        if hide:
            try:
                syscalls.renameat2(
                    old.name, new.name, src_dir_fd=old_fd, dst_dir_fd=new_fd, flags=syscalls.RENAME_WHITEOUT
                )
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                    raise
        os.rename(old.name, new.name, src_dir_fd=old_fd, dst_dir_fd=new_fd)
        if hide:
            self._union.make_whiteout(old.parent, target, old_fd, old.name)

    def _clear_directory(
        self, new: _Side, new_fd: int, target: OpenBranch, undo: contextlib.ExitStack
    ) -> tuple[int, bytes] | None:
        """Move a (logically empty) directory out of the new place."""
        status = whiteout.exists(new_fd, new.name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return None
        staging, staged = self._remover.set_aside(target, new_fd, new.name)
        undo.callback(os.rename, staged, new.name, src_dir_fd=staging, dst_dir_fd=new_fd)
        return staging, staged

    def _prepare_opaque(self, node: Node, target: OpenBranch, new: _Side, new_fd: int) -> None:
        """Mark a directory opaque when its new name would let lower entries through."""
        union = self._union
        fd = union.fd_on(node, target)
        assert fd is not None
        if whiteout.is_opaque(target, fd):
            return
        redirected = target.overlay and has_redirect(fd)  # whose lower copies are none, or are covered
        hidden = union.is_hidden(new.parent, target, new_fd, new.name)
        below = union.shows_below(new.parent, new.name, target)
        replaced = self._is_opaque_directory(target, new_fd, new.name)
        if hidden or below or replaced or redirected or union.options.diropq == "a":
            whiteout.make_opaque(target, fd, union.options.whiteout)

    def _is_opaque_directory(self, branch: OpenBranch, dirfd: int, name: bytes) -> bool:
        status = whiteout.exists(dirfd, name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        fd = open_directory(dirfd, name)
        try:
            return whiteout.is_opaque(branch, fd)
        finally:
            os.close(fd)

    def _settle(
        self,
        old: _Side,
        node: Node,
        new: _Side,
        target: OpenBranch,
        old_fd: int,
        new_fd: int,
        *,
        physical: bool,
    ) -> None:
        """Bring nodes, numbers and times in line with what was renamed."""
        union = self._union
        if new.node is not None:
            self._remover.lose_name(new.node, new.parent, new.name, physical=physical)
        if node.is_directory:
            union.reparent(node, new.parent, new.name, target)
        else:
            moved_home = node.parent is old.parent and node.name == old.name
            if moved_home:
                node.make_home(new.parent, new.name)
            else:
                node.add_name(new.parent, new.name)
            node.remove_name(old.parent, old.name)
        union.touched(old.parent, target, old_fd)
        if new.parent is not old.parent:
            union.touched(new.parent, target, new_fd)

    def _exchange(
        self, old: _Side, node: Node, branch: OpenBranch, new: _Side, other: Node, other_branch: OpenBranch
    ) -> None:
        """Swap two names; both are brought to one branch, and directories become opaque where lower names show."""
        union = self._union
        higher = min(branch, other_branch, key=union.index)
        target = self._policies.for_copy_up(union.branches, union.dirs(old.parent), higher)
        for candidate in (node, other):
            if candidate.is_directory:
                self._check_directory(candidate, target)
        old_fd = self._bring(old, node, branch, target)
        new_fd = self._bring(new, other, other_branch, target)
        for moving, place, fd in ((node, new, new_fd), (other, old, old_fd)):
            union.numbers.keep(moving, place.parent, target, fd)
            if moving.is_directory:
                self._prepare_opaque(moving, target, place, fd)
        syscalls.renameat2(
            old.name, new.name, src_dir_fd=old_fd, dst_dir_fd=new_fd, flags=syscalls.RENAME_EXCHANGE
        )
        node.remove_name(old.parent, old.name)
        other.remove_name(new.parent, new.name)
        for moving, place in ((node, new), (other, old)):
            if moving.is_directory:
                union.reparent(moving, place.parent, place.name, target)
            else:
                moving.add_name(place.parent, place.name)
        union.touched(old.parent, target, old_fd)
        union.touched(new.parent, target, new_fd)
