# SPDX-License-Identifier: Apache-2.0
"""Create files, directories, symbolic links and special files in the union.

AUFS' order: make the entry, then remove the old whiteout, which hides nothing any more: failing to do so fails nothing. Where
overlayfs' whiteout has the name itself, the new entry is staged and takes its place in one step.
Modes, default ACLs and set-group-ID directories are left to the branch filesystem, which applies its own rules; the owner is set
afterwards since the server is the one that creates.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.metadata import try_to_restore_times
from unionfs.kernel import syscalls
from unionfs.lookup.find import Found
from unionfs.operations.copyup import CopyUps
from unionfs.operations.policy import Policies
from unionfs.tree import protection
from unionfs.tree.nodes import NO_CAPABILITIES, Attributes, Node
from unionfs.tree.union import Union

_SERVER_UID = os.geteuid()
_SERVER_GID = os.getegid()
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID = stat.S_ISUID | stat.S_ISGID


class Caller(NamedTuple):
    """Who asks: the process behind a request."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


class Creator:
    """Creates entries in one union."""

    def __init__(self, union: Union, policies: Policies, copyups: CopyUps) -> None:
        self._union = union
        self._policies = policies
        self._copyups = copyups

    # -- public operations --------------------------------------------------------------------------------------

    def file(self, parent: Node, name: bytes, mode: int, caller: Caller) -> tuple[Attributes, int]:
        """Create a regular file and return its attributes and a read-write descriptor of it; EEXIST, EROFS …"""
        union = self._union
        branch, fd = self._place(parent, name)
        hidden = union.is_hidden(parent, branch, fd, name)
        if hidden and union.options.whiteout == "overlay":
            return self._file_over_device(parent, branch, fd, name, mode, caller)
        before = None if not hidden and _is_server(caller) else os.fstat(fd)
        if mode & caller.umask:
            previous = os.umask(caller.umask)
            try:
                created = os.open(name, _NEW_FILE, mode & 0o7777, dir_fd=fd)
            finally:
                os.umask(previous)
        else:
            created = os.open(name, _NEW_FILE, mode & 0o7777, dir_fd=fd)
        try:
            if before is not None:
                self._give(created, before, caller)
            attributes = self._enter(parent, branch, fd, name, os.fstat(created), hidden=hidden)
            if union.trust:
                attributes.node.bare = NO_CAPABILITIES
            return attributes, created
        except BaseException:
            os.close(created)
            _undo(fd, name, before)
            raise

    def unnamed(self, parent: Node, mode: int, caller: Caller) -> tuple[Attributes, int]:
        """Create a regular file without a name (O_TMPFILE) where one in `parent` would be; EOPNOTSUPP from the branch."""
        union = self._union
        protection.check_new_name(union, parent)
        branch = self._policies.for_create(union.branches, union.dirs(parent), b"")
        fd = self._copyups.directory_on(parent, branch)
        previous = os.umask(caller.umask)
        try:
            created = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, stat.S_IMODE(mode), dir_fd=fd)
        finally:
            os.umask(previous)
        try:
            self._give(created, os.fstat(fd), caller)
            return union.unnamed(branch, created), created
        except BaseException:
            os.close(created)
            raise

    def directory(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Attributes:
        """Create a directory; opaque if the name was whited out on its branch or `diropq=always`; errors as of `file`."""
        branch, fd = self._place(parent, name, directory=True)
        hidden = self._union.is_hidden(parent, branch, fd, name)
        opaque = hidden or self._union.options.diropq == "a"
        if hidden and self._union.options.whiteout == "overlay":
            attributes = self._directory_over_device(parent, branch, fd, name, mode, caller)
        else:
            before = os.fstat(fd) if opaque or not _is_server(caller) else None
            self._masked(caller, lambda: os.mkdir(name, stat.S_IMODE(mode), dir_fd=fd))
            try:
                if before is not None:
                    self._finish_directory(branch, fd, name, before, caller, opaque=opaque)
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                attributes = self._enter(parent, branch, fd, name, status, hidden=hidden)
            except BaseException:
                _undo(fd, name, before)
                raise
        self._union.directories.know_empty(attributes.node)
        return attributes

    def _directory_over_device(
        self, parent: Node, branch: OpenBranch, fd: int, name: bytes, mode: int, caller: Caller
    ) -> Attributes:
        """No directory can replace the device that is the whiteout: the two change places, then the device goes."""
        staged, before = stage.stage_name(name), os.fstat(fd)
        self._masked(caller, lambda: os.mkdir(staged, stat.S_IMODE(mode), dir_fd=fd))
        try:
            self._finish_directory(branch, fd, staged, before, caller, opaque=True)
            status = os.stat(staged, dir_fd=fd, follow_symlinks=False)
            attributes = self._publish(
                parent, branch, fd, name, status, lambda: syscalls.exchange(staged, name, fd, fd)
            )
        except BaseException:
            _undo(fd, staged, before)
            raise
        leftovers.discard(fd, staged)  # the device
        return attributes

    def _finish_directory(
        self,
        branch: OpenBranch,
        fd: int,
        name: bytes,
        parent: os.stat_result,
        caller: Caller,
        *,
        opaque: bool,
    ) -> None:
        """Give a new directory its owner and its mark."""
        created = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            self._give(created, parent, caller)
            if opaque:
                whiteout.make_opaque(branch, created, self._union.options.whiteout)
        finally:
            os.close(created)

    def symlink(self, parent: Node, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """Create a symbolic link to `target`; errors as of `file`."""
        branch, fd = self._place(parent, name)
        return self._special(
            parent, branch, fd, name, caller, lambda entry: os.symlink(target, entry, dir_fd=fd)
        )

    def special(self, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> Attributes:
        """Create a FIFO, socket, device or regular file by mknod; EPERM for a 0:0 device where that is a whiteout."""
        branch, fd = self._place(parent, name)
        if stat.S_ISCHR(mode) and rdev == 0 and branch.overlay:
            raise OSError(errno.EPERM, "a 0:0 character device is a whiteout here")
        return self._special(
            parent, branch, fd, name, caller,
            lambda entry: self._masked(caller, lambda: os.mknod(entry, mode, rdev, dir_fd=fd)),
        )  # fmt: skip

    # -- parts --------------------------------------------------------------------------------------------------

    def _place(self, parent: Node, name: bytes, *, directory: bool = False) -> tuple[OpenBranch, int]:
        """Return the branch and the parent's descriptor there for a new name; EEXIST, EROFS, ENOENT."""
        union = self._union
        if len(name) > union.name_max or name[:4] == whiteout.PREFIX:
            union.check_name(name)
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if union.find_new(parent, name) is not None:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        top = union.dirs(parent)[0]
        protection.check_new_name(union, parent)
        if self._policies.top_first and top[0].writable:
            return top
        branch = self._policies.for_create(union.branches, union.dirs(parent), name, directory=directory)
        return branch, self._copyups.directory_on(parent, branch)

    def _masked(self, caller: Caller, make: Callable[[], None]) -> None:
        """Run `make` under the caller's umask: the branch applies it unless the directory has a default ACL."""
        previous = os.umask(caller.umask)
        try:
            make()
        finally:
            os.umask(previous)

    def _give(self, created: int, parent: os.stat_result, caller: Caller) -> None:
        """Make the caller the owner; the group stays that of the directory `parent` where it has the set-group-ID bit."""
        if _is_server(caller) or _SERVER_UID != 0:
            return  # an unprivileged server cannot give files away; docs/semantics.md
        inherits = parent.st_mode & stat.S_ISGID
        path = whiteout.proc_path(created)
        status = os.fstat(created)
        os.chown(path, caller.uid, -1 if inherits else caller.gid)
        if status.st_mode & _SET_ID and not stat.S_ISDIR(status.st_mode):  # chown has cleared them
            os.chmod(path, stat.S_IMODE(status.st_mode))

    def _special(
        self,
        parent: Node,
        branch: OpenBranch,
        fd: int,
        name: bytes,
        caller: Caller,
        make: Callable[[bytes], None],
    ) -> Attributes:
        hidden = self._union.is_hidden(parent, branch, fd, name)
        over_device = hidden and self._union.options.whiteout == "overlay"
        entry = stage.stage_name(name) if over_device else name
        before = None if not hidden and _is_server(caller) else os.fstat(fd)
        make(entry)
        try:
            if before is not None:
                self._give_special(entry, fd, before, caller)
            status = os.stat(entry, dir_fd=fd, follow_symlinks=False)
            if over_device:
                return self._publish(
                    parent, branch, fd, name, status,
                    lambda: os.rename(entry, name, src_dir_fd=fd, dst_dir_fd=fd),
                )  # fmt: skip
            return self._enter(parent, branch, fd, name, status, hidden=hidden)
        except BaseException:
            _undo(fd, entry, before)
            raise

    def _give_special(self, entry: bytes, fd: int, parent: os.stat_result, caller: Caller) -> None:
        created = os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            self._give(created, parent, caller)
        finally:
            os.close(created)

    def _file_over_device(
        self, parent: Node, branch: OpenBranch, fd: int, name: bytes, mode: int, caller: Caller
    ) -> tuple[Attributes, int]:
        """Overlayfs' whiteout has the name itself: the new file replaces it by one rename."""
        staged, before = stage.stage_name(name), os.fstat(fd)
        previous = os.umask(caller.umask)
        try:
            created = os.open(staged, _NEW_FILE, stat.S_IMODE(mode), dir_fd=fd)
        finally:
            os.umask(previous)
        try:
            self._give(created, before, caller)
            attributes = self._publish(
                parent, branch, fd, name, os.fstat(created),
                lambda: os.rename(staged, name, src_dir_fd=fd, dst_dir_fd=fd),
            )  # fmt: skip
            return attributes, created
        except BaseException:
            os.close(created)
            _undo(fd, staged, before)
            raise

    def _enter(
        self, parent: Node, branch: OpenBranch, fd: int, name: bytes, status: os.stat_result, *, hidden: bool
    ) -> Attributes:
        """Enter what was made as `name` and is `status`, and tidy up; `hidden`: beside its former whiteout, in AUFS' form."""
        union = self._union
        found = Found([(branch, status)])
        if parent.children and name in parent.children:
            union.drop_stale_child(parent, name)
        node = union.node_for(parent, name, found, made=True)
        if hidden:
            leftovers.discard_whiteout(fd, name)
        union.touched(parent, branch, fd)
        return union.attributes_of(node, found)

    def _publish(
        self,
        parent: Node,
        branch: OpenBranch,
        fd: int,
        name: bytes,
        status: os.stat_result,
        put: Callable[[], None],
    ) -> Attributes:
        """Enter what is staged and is `status`, then let `put` give it its name, after which nothing can fail."""
        union = self._union
        union.drop_stale_child(parent, name)
        node = union.node_for(parent, name, Found([(branch, status)]), made=True)
        try:
            put()
        except BaseException:
            node.remove_name(parent, name)
            union.nodes.release(node)
            raise
        union.touched(parent, branch, fd)
        with contextlib.suppress(OSError):  # the rename gave it another ctime
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return union.attributes_of(node, Found([(branch, status)]))


def _is_server(caller: Caller) -> bool:
    """Tell whether what the server makes belongs to the caller already."""
    return caller.uid == _SERVER_UID and caller.gid == _SERVER_GID


def _undo(fd: int, name: bytes, before: os.stat_result | None) -> None:
    """Remove what was made in a directory and cannot stay, and give it the times that it had `before`, where that is known.

    It is not where a step could hardly fail, for the price of asking each time.
    """
    leftovers.discard(fd, name)
    if before is not None:
        try_to_restore_times(fd, before)
