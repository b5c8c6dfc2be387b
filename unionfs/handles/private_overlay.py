# SPDX-License-Identifier: Apache-2.0
"""A private mount of the kernel's overlayfs: a branch that is not writable, below an empty directory of one that is.

A file opened through it is the branch's own, with the branch's page cache, until somebody opens it there for writing: then
overlayfs copies it into the directory and lets all who have it open read the copy. That is what neither FUSE's passthrough nor
any descriptor of ours can do. The mount is detached: no mount table shows it, and it ends with its last descriptor.

Owns the mount and its directories. Which files are opened through it, and when, is decided in `following`. Source: Linux,
fs/overlayfs/file.c (`ovl_real_file`), copy_up.c; Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.metadata import restore_times, try_to_restore_times
from unionfs.kernel import syscalls
from unionfs.tree import protection

log = logging.getLogger(__name__)

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
# Nothing of one mount is ever found by another, so no mark is needed that would tell; and no link is followed that a branch may
# have of other overlays. Without `volatile` every copy, and the end of the mount, would write back the whole writable branch.
_FLAGS = ("volatile",)
_WORDS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"), ("xino", "off"))
_UPPER, _WORK = b"upper", b"work"
_NAME = b"follow"


class PrivateOverlay:
    """The mount of `lower`, from its directory `start` on, below a directory of its own in `staging`, which is on `upper`.

    Raises OSError if it cannot be made.
    """

    def __init__(self, lower: OpenBranch, upper: OpenBranch, staging: int, start: bytes = b"") -> None:
        self.lower_id, self.upper_id = lower.id, upper.id
        self.lower_device = lower.device
        self._staging = os.dup(staging)
        self._name = stage.stage_name(_NAME)
        self._times = os.fstat(staging)
        self._made = -1
        self.directory = -1
        self.mount = -1
        self.usable = True  # open, and the kernel registers files of it
        self.unhidden: list[bytes] = []  # names of copies that nobody holds and that could not be hidden yet
        self.copied: set[int] = (
            set()
        )  # files that are copies here by now: no new reader is to begin with those
        try:
            self._make(lower, upper, start)
        except BaseException:
            self.close()
            raise

    def _make(self, lower: OpenBranch, upper: OpenBranch, start: bytes) -> None:
        os.mkdir(self._name, 0o700, dir_fd=self._staging)
        restore_times(self._staging, self._times)
        self._made = os.open(self._name, _DIRECTORY, dir_fd=self._staging)
        for name in (_UPPER, _WORK):
            os.mkdir(name, 0o700, dir_fd=self._made)
        self.directory = os.open(_UPPER, _DIRECTORY, dir_fd=self._made)
        with contextlib.ExitStack() as opened:
            work = os.open(_WORK, _DIRECTORY, dir_fd=self._made)
            opened.callback(os.close, work)
            below = syscalls.openat2(start or b".", _DIRECTORY, dir_fd=lower.root)
            opened.callback(os.close, below)
            if os.fstat(below).st_dev != lower.device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), lower.path)
            try:
                self.mount = _mount(below, self.directory, work)
            except OSError:
                # Before Linux 6.15 a layer must be in a mount table, which the branches' descriptors are not.
                place = os.path.join(os.fsencode(upper.path), self._relative(upper))
                source = os.path.join(os.fsencode(lower.path), start)
                self.mount = self._mount_by_path(source, place, below)

    def _mount_by_path(self, lower: bytes, place: bytes, below: int) -> int:
        """Do the same by paths, if they still lead to where they did."""
        with contextlib.ExitStack() as stack:
            opened = []
            for path in (lower, os.path.join(place, _UPPER), os.path.join(place, _WORK)):
                opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, opened[-1])
            expected = map(os.fstat, (below, self.directory))
            if not all(map(os.path.samestat, map(os.fstat, opened[:2]), expected)):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), lower)
            return _mount(*map(whiteout.proc_path, opened))

    def _relative(self, upper: OpenBranch) -> bytes:
        """Return the directory's path in its branch."""
        in_root = os.path.samestat(os.fstat(self._staging), os.fstat(upper.root))
        return self._name if in_root else os.path.join(whiteout.ORPHAN_DIR, self._name)

    def open(self, path: bytes) -> int:
        """Open a file of the branch for reading, so that the descriptor follows its copy-up; the mount follows no link."""
        return os.open(path, _READING, dir_fd=self.mount)

    def forget_unused(self) -> None:
        """Hide what could not be hidden, and forget names that nobody uses: behind them may be files that the branch has lost."""
        for path in self.unhidden[:]:
            with contextlib.suppress(OSError):
                self.hide_copy(path)
                self.unhidden.remove(path)
        try:
            syscalls.drop_unused_names(self.mount)
        except OSError as error:  # then what they lead to is found out when they are used
            log.info("a private overlay keeps the names that it knows: %s", error.strerror)

    def hide_copy(self, path: bytes) -> bool:
        """Take a copy's name away, and tell whether overlayfs forgot it too; else it holds the file until `forget_unused`.

        OSError if the name is there still: then nothing else can be found by it, and the call can be repeated.
        """
        if self.directory < 0:
            return True  # closed: the name went with the directory
        head, name = os.path.split(path)
        directory = syscalls.openat2(head or b".", _DIRECTORY, dir_fd=self.directory)
        try:
            forgotten = self._forgets(path, head)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(
                    name, dir_fd=directory
                )  # the whiteout, or else the copy: it counts as a link of the file
            return forgotten
        finally:
            os.close(directory)

    def _forgets(self, path: bytes, head: bytes) -> bool:
        """Let overlayfs give a name up, which leaves a whiteout in its place."""
        try:
            self._unlink(path, head)
        except FileNotFoundError:
            pass  # done by a call that then could not remove the whiteout
        except OSError as error:
            log.info("a private overlay does not give up %s: %s", os.fsdecode(path), error.strerror)
            return False
        return True

    def _unlink(self, path: bytes, head: bytes) -> None:
        """Remove a name in the mount, also in an immutable or append-only directory, which is not one there from then on."""
        try:
            os.unlink(path, dir_fd=self.mount)
        except PermissionError:
            fd = os.open(head or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.mount)
            try:
                protection.unprotect(fd)
            finally:
                os.close(fd)
            os.unlink(path, dir_fd=self.mount)

    def close(self) -> None:
        """Give the mount up (open files keep it) and remove its directory."""
        self.usable = False
        for fd in (self.mount, self.directory, self._made):
            if fd >= 0:
                os.close(fd)
        self.mount = self.directory = self._made = -1
        times = os.fstat(self._staging)
        leftovers.discard(self._staging, self._name)  # a missing one is fine: not made, or swept by a command
        try_to_restore_times(self._staging, times)
        os.close(self._staging)


def _mount(lower: int | bytes, upper: int | bytes, work: int | bytes) -> int:
    """Return the descriptor of a detached overlay of directories, given by descriptor or by path."""
    context = syscalls.fsopen("overlay")
    try:
        for key, layer in (("lowerdir+", lower), ("upperdir", upper), ("workdir", work)):
            syscalls.fsconfig_set(context, key, layer)
        for flag in _FLAGS:
            syscalls.fsconfig_set(context, flag)
        for word, value in _WORDS:
            syscalls.fsconfig_set(context, word, value)
        return syscalls.fsmount(context, syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSYMFOLLOW)
    finally:
        os.close(context)
