# SPDX-License-Identifier: Apache-2.0
"""Rename in the union: decide the branch, bring the source there, hide the old name, rename on that branch.

A directory moves only if one branch holds all of it (else EXDEV, as AUFS answers; mv(1) then copies). Each step before the
rename itself changes nothing that is seen, and is undone when a later one fails; what follows it cannot fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from unionfs.branches import leftovers, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import few_marks, is_covered, is_empty
from unionfs.branches.metadata import try_to_restore_times
from unionfs.branches.redirects import has_redirect
from unionfs.kernel import syscalls
from unionfs.lookup.find import open_directory
from unionfs.operations.copy_directories import stage_like
from unionfs.operations.copyup import CopyUps
from unionfs.operations.policy import Policies
from unionfs.operations.reconsider import ask_again
from unionfs.operations.remove import Remover, take_back_whiteout
from unionfs.plinks.pseudolinks import is_entry_of, losing, materialize
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union


class _Side(NamedTuple):
    """One name of a rename with what is there, and on which branch it shows."""

    parent: Node
    name: bytes
    node: Node | None
    branch: OpenBranch | None


class Places(NamedTuple):
    """The old and the new name as descriptors of their directories on the one branch that renames."""

    old_fd: int
    old: bytes
    new_fd: int
    new: bytes
    branch: OpenBranch

    def rename(self, flags: int = 0) -> None:
        """Rename the old name to the new one."""
        if flags:
            syscalls.renameat2(
                self.old, self.new, src_dir_fd=self.old_fd, dst_dir_fd=self.new_fd, flags=flags
            )
        else:
            os.rename(self.old, self.new, src_dir_fd=self.old_fd, dst_dir_fd=self.new_fd)

    def exchange(self) -> None:
        """Let the two change places."""
        syscalls.exchange(self.old, self.new, self.old_fd, self.new_fd)


Tidy = Callable[[], None]  # what is left to be done when a rename is done; raises nothing


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
        if node.is_directory:
            self._union.directories.check_known(new.node)
            if not is_empty(self._union.dirs(new.node)):
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
        self._union.directories.check_known(node)
        top, *lower = layers = self._union.dirs(node)
        if self._union.options.whiteout == "overlay" and (lower or top[0] is not target):
            raise _error(errno.EXDEV)
        if top[0] is target:
            if not lower or is_covered(top, lower):
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
        if node.is_directory:
            self._check_directory(node, target)
        old_fd = self._bring(old, node, branch, target)
        new_fd = old_fd if new.parent is old.parent else self._copyups.directory_on(new.parent, target)
        if node.is_directory:
            self._prepare_opaque(node, target, new, new_fd)
        status = self._copy_of(node, target)
        place = Places(old_fd, old.name, new_fd, new.name, target)
        there = whiteout.exists(new_fd, new.name) if new.node is not None else None
        hide = union.shows_below(old.parent, old.name, target)
        union.numbers.keep(node, new.parent, target, new_fd)
        if new.node is not None:
            self._remover.bury(new.node)
        try:
            with losing(union, new.node, new.parent, new.name, target, new_fd):
                if union.options.whiteout == "overlay":
                    tidy = self._rename_overlay(old, new, place, there, hide=hide)
                else:
                    tidy = self._rename_aufs(old, new, place, there, hide=hide)
                self._settle(old, node, new, place, status, physical=there is not None)
        except BaseException:
            if new.node is not None:
                self._remover.dig_up(new.node)
            ask_again(union, old.parent, old.name)
            ask_again(union, new.parent, new.name)
            raise
        for work in tidy:
            work()

    def _copy_of(self, node: Node, target: OpenBranch) -> os.stat_result | None:
        """Return the stat of a directory's copy, by which it is known when it has its new name; None for a file."""
        if not node.is_directory:
            return None
        fd = self._union.fd_on(node, target)
        assert fd is not None
        return os.fstat(fd)

    def _rename_aufs(
        self, old: _Side, new: _Side, place: Places, there: os.stat_result | None, *, hide: bool
    ) -> list[Tidy]:
        """Whiteout first, then the rename; what was done is undone if a step fails. Returns what remains to be done."""
        union = self._union
        marked = union.may_hide(new.parent, place.branch, place.new_fd, new.name) and whiteout.has_mark(
            place.new_fd, new.name
        )
        tidy: list[Tidy] = []
        if marked:
            tidy.append(partial(leftovers.discard_whiteout, place.new_fd, new.name))
        if not hide and (there is None or not stat.S_ISDIR(there.st_mode)):
            place.rename()
            return tidy
        with contextlib.ExitStack() as undo:
            if hide:
                times = os.fstat(place.old_fd)
                union.make_whiteout(old.parent, place.branch, place.old_fd, old.name)
                undo.callback(take_back_whiteout, place.old_fd, old.name, times)
            if self._holds_something(place, there):
                if not marked and union.shows_below(new.parent, new.name, place.branch):
                    times = os.fstat(place.new_fd)
                    union.make_whiteout(new.parent, place.branch, place.new_fd, new.name)
                    undo.callback(self._take_back_beside, place, times)
                    tidy.append(partial(leftovers.discard_whiteout, place.new_fd, new.name))
                tidy.append(self._empty_out(place, undo, opaque=False))
            place.rename()
            undo.pop_all()
        return tidy

    def _rename_overlay(
        self, old: _Side, new: _Side, place: Places, there: os.stat_result | None, *, hide: bool
    ) -> list[Tidy]:
        """The whiteout takes the old name: by RENAME_WHITEOUT in one step where the filesystem can."""
        is_directory = old.node is not None and old.node.is_directory
        if is_directory and there is None and whiteout.exists(place.new_fd, new.name) is not None:
            # A whiteout device, which a directory cannot replace: the two change places.
            place.exchange()
            return [] if hide else [partial(leftovers.discard_device, place.old_fd, old.name)]
        with contextlib.ExitStack() as undo:
            tidy = [self._empty_out(place, undo, opaque=True)] if self._holds_something(place, there) else []
            if hide:
                self._rename_leaving(old, place)
            else:
                place.rename()
            undo.pop_all()
        return tidy

    def _rename_leaving(self, old: _Side, place: Places) -> None:
        try:
            place.rename(syscalls.RENAME_WHITEOUT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                raise
            # Two steps, where the filesystem has no single one.
            place.rename()
            self._union.make_whiteout(old.parent, place.branch, place.old_fd, old.name)

    def _holds_something(self, place: Places, there: os.stat_result | None) -> bool:
        """Tell whether a (logically empty) directory at the new place has marks in it, so that nothing can replace it."""
        if there is None or not stat.S_ISDIR(there.st_mode):
            return False
        return few_marks(place.new_fd, place.new, 0) is None

    def _empty_out(self, place: Places, undo: contextlib.ExitStack, *, opaque: bool) -> Tidy:
        """Let an empty directory like it take the place of one that is empty but for marks; return what deletes that one.

        `opaque` says in overlayfs' way that it hides what is below; in AUFS' form a whiteout beside it does.
        """
        undo.callback(try_to_restore_times, place.new_fd, os.fstat(place.new_fd))
        with self._union.root_kept(place.branch.root, place.new_fd):
            staging, staged = stage_like(self._union, place.new_fd, place.new, place.branch, opaque=opaque)
            undo.callback(leftovers.discard, staging, staged)
            syscalls.exchange(staged, place.new, staging, place.new_fd)
        undo.callback(syscalls.exchange, staged, place.new, staging, place.new_fd)
        return partial(self._remover.delete, staging, staged)

    def _take_back_beside(self, place: Places, times: os.stat_result) -> None:
        """Take back the whiteout of the new place, unless the emptied directory is still there, which needs it."""
        if few_marks(place.new_fd, place.new, 0) is None:
            take_back_whiteout(place.new_fd, place.new, times)

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
            times = os.fstat(fd)
            whiteout.make_opaque(target, fd, union.options.whiteout)
            try_to_restore_times(fd, times)

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
        place: Places,
        status: os.stat_result | None,
        *,
        physical: bool,
    ) -> None:
        """Bring nodes, names and times in line with what was renamed; raises nothing."""
        union = self._union
        if new.node is not None:
            self._remover.lose_name(new.node, new.parent, new.name, physical=physical)
        if status is not None:
            union.reparent(node, new.parent, new.name, place.branch, status)
        else:
            moved_home = node.parent is old.parent and node.name == old.name
            if moved_home:
                node.make_home(new.parent, new.name)
            else:
                node.add_name(new.parent, new.name)
            node.remove_name(old.parent, old.name)
        union.touched(old.parent, place.branch, place.old_fd)
        if new.parent is not old.parent:
            union.touched(new.parent, place.branch, place.new_fd)

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
        for moving, side, fd in ((node, new, new_fd), (other, old, old_fd)):
            union.numbers.keep(moving, side.parent, target, fd)
            if moving.is_directory:
                self._prepare_opaque(moving, target, side, fd)
        statuses = self._copy_of(node, target), self._copy_of(other, target)
        try:
            Places(old_fd, old.name, new_fd, new.name, target).exchange()
        except BaseException:
            ask_again(union, old.parent, old.name)
            ask_again(union, new.parent, new.name)
            raise
        node.remove_name(old.parent, old.name)
        other.remove_name(new.parent, new.name)
        for moving, status, side in ((node, statuses[0], new), (other, statuses[1], old)):
            if status is not None:
                union.reparent(moving, side.parent, side.name, target, status)
            else:
                moving.add_name(side.parent, side.name)
        union.touched(old.parent, target, old_fd)
        union.touched(new.parent, target, new_fd)
