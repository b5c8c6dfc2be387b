# SPDX-License-Identifier: Apache-2.0
"""Where a fold copies things before they get their places: `.wh..wh.commit.XXXX` in the target branch.

One for each filesystem that the target's directories are on (a subvolume cannot be entered by rename), locked for as long as
somebody works there. Makes copies, links among them, and marks; knows nothing of what they are for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator

from unionfs.branches import stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.copydata import CopyJob, open_unseen
from unionfs.branches.leftovers import discard, remove_tree
from unionfs.branches.metadata import copy_metadata, restore_times
from unionfs.kernel import syscalls
from unionfs.kernel.syscalls import LIST_DIRECTORY

_NAME = b"commit"
_PREFIX = whiteout.META_PREFIX + _NAME + b"."
_MARK = b"mark"


class Stage:
    """One stage directory, `name` in the directory `parent`."""

    def __init__(self, parent: int, target: OpenBranch) -> None:
        self._target = target
        self._links: dict[tuple[int, int], bytes] = {}
        self._count = 0
        self.name = stage.stage_name(_NAME)
        os.mkdir(self.name, 0o700, dir_fd=parent)
        try:
            self.fd = os.open(self.name, LIST_DIRECTORY, dir_fd=parent)
        except BaseException:
            discard(parent, self.name)
            raise
        with contextlib.suppress(OSError):  # some filesystems have no locks
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def new_name(self) -> bytes:
        """Return a name that is not used in the stage."""
        self._count += 1
        return b"%d" % self._count

    def whiteout(self) -> bytes:
        """Make a whiteout and return its name in the stage."""
        name = self.new_name()
        self.mark(self.fd, name)
        return name

    def mark(self, fd: int, name: bytes) -> None:
        """Make a mark as `name` in the directory `fd`: links of one file, as long as that can have more."""
        try:
            os.link(_MARK, name, src_dir_fd=self.fd, dst_dir_fd=fd, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o444, dir_fd=fd))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_MARK, dir_fd=self.fd)
        with contextlib.suppress(OSError):  # the next mark is a file of its own then
            os.link(name, _MARK, src_dir_fd=fd, dst_dir_fd=self.fd, follow_symlinks=False)

    def link(self, status: os.stat_result, into: int, new: bytes) -> bool:
        """Make `new` a link of the copy of the file `status`, if that was copied already; tell whether it was."""
        first = self._links.get((status.st_dev, status.st_ino))
        if first is None:
            return False
        os.link(first, new, src_dir_fd=self.fd, dst_dir_fd=into, follow_symlinks=False)
        return True

    def copy(self, name: bytes, status: os.stat_result, source: int, into: int, new: bytes) -> None:
        """Copy what is no directory, with all its attributes, from `name` in `source` to `new` in `into`."""
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            if stat.S_ISREG(status.st_mode):
                self._copy_regular(opened, status, into, new)
            else:
                self._copy_special(name, opened, status, source, into, new)
        finally:
            os.close(opened)
        if status.st_nlink > 1:  # a name that is known wherever the first one is
            first = self._links[status.st_dev, status.st_ino] = b"link" + self.new_name()
            os.link(new, first, src_dir_fd=into, dst_dir_fd=self.fd, follow_symlinks=False)

    def _copy_regular(self, opened: int, status: os.stat_result, into: int, new: bytes) -> None:
        job = CopyJob.create(
            open_unseen(opened), self.fd, new, status.st_size, whole=True, target=self._target,
            source_id=0, write_back=None,
        )  # fmt: skip
        try:
            job.run()
            if job.error is not None:
                raise job.error
            copy_metadata(opened, job.fd, status, self._target)
            job.link(into, new)
        finally:
            job.close()

    def _copy_special(
        self, name: bytes, opened: int, status: os.stat_result, source: int, into: int, new: bytes
    ) -> None:
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=into)
        else:
            os.mknod(new, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=into)
        copy = os.open(new, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=into)
        try:
            copy_metadata(opened, copy, status, self._target)
        finally:
            os.close(copy)

    def forget_links(self) -> None:
        """Remove the names that links were made from: they must not count in the target."""
        for name in self._links.values():
            os.unlink(name, dir_fd=self.fd)
        self._links.clear()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put signals that end the program off until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class FoldStages:
    """The stages of one fold into the branch `target`; removes first what a fold that was killed left in the branch's root."""

    def __init__(self, target: OpenBranch) -> None:
        self._target = target
        self._stages: dict[int, tuple[Stage, int]] = {}  # by st_dev, with the directory that each is in
        sweep(target.root)

    def of(self, directory: int) -> Stage:
        """Return the stage whose entries can be renamed into `directory`: the first directory on its device has it."""
        status = os.fstat(directory)
        if status.st_dev not in self._stages:
            with _uninterrupted():  # a stage that was made, and is not known yet, would stay
                parent = os.dup(directory)
                try:
                    self._stages[status.st_dev] = Stage(parent, self._target), parent
                    restore_times(parent, status)
                except BaseException:
                    if status.st_dev not in self._stages:
                        os.close(parent)
                    raise
        return self._stages[status.st_dev][0]

    @contextlib.contextmanager
    def directory(self, into: int, name: bytes) -> Iterator[int]:
        """Make a directory and open it for the length of the block."""
        os.mkdir(name, 0o700, dir_fd=into)
        fd = os.open(name, LIST_DIRECTORY, dir_fd=into)
        try:
            yield fd
        finally:
            os.close(fd)

    def forget_links(self) -> None:
        """Let no copy have a name more than it will."""
        for one, _ in self._stages.values():
            one.forget_links()

    def sync(self) -> None:
        """Bring all that was done in these filesystems to the disk: names, and data with all ancestors' names."""
        for one, _ in self._stages.values():
            syscalls.sync_filesystem(one.fd)

    def remove(self) -> list[OSError]:
        """Delete the stages with what is left in them; return what could not be."""
        failures = []
        for one, parent in self._stages.values():
            status = os.fstat(parent)
            try:
                remove_tree(parent, one.name)
                restore_times(parent, status)
            except OSError as error:
                path = os.path.join(os.readlink(whiteout.proc_path(parent)), one.name)
                failures.append(OSError(error.errno, f"is left over: {error.strerror}", path))
        return failures

    def close(self) -> None:
        """Close the descriptors."""
        for one, parent in self._stages.values():
            os.close(one.fd)
            os.close(parent)
        self._stages.clear()


def leftovers(root: int) -> list[bytes]:
    """Return the names of stages in a branch's root that nobody works in any more."""
    fd = os.open(".", LIST_DIRECTORY, dir_fd=root)
    try:
        names = [os.fsencode(name) for name in os.listdir(fd)]
        return [
            name for name in names if name.startswith(_PREFIX) and stage.is_stage(name) and _is_left(fd, name)
        ]
    finally:
        os.close(fd)


def _is_left(fd: int, name: bytes) -> bool:
    held = os.open(name, LIST_DIRECTORY, dir_fd=fd)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    finally:
        os.close(held)
    return True


def sweep(root: int) -> None:
    """Remove stages that nobody works in any more."""
    for name in leftovers(root):
        status = os.fstat(root)
        remove_tree(root, name)
        restore_times(root, status)
