# SPDX-License-Identifier: Apache-2.0
"""Copy a file's data into a stage: reflink, else copy_file_range along data and holes, else read and write.

Works on descriptors only, so it may run in a thread while the union goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identity
from unionfs.kernel import syscalls
from unionfs.kernel.durability import WriteBack

_CHUNK = 8 << 20
_BUFFER = 1 << 20


class Deferred(Exception):
    """An operation needs `job` to be run (in a thread) and wants to be called again afterwards."""

    def __init__(self, job: CopyJob) -> None:
        super().__init__("long work")
        self.job = job
        job.waiters += 1  # whoever catches it calls `CopyUps.leave` in the end


class CopyJob:
    """The first `length` bytes of a file on their way into a stage.

    The stage is an unnamed file (O_TMPFILE) where the filesystem has them, else `.wh..wh.NAME.XXXX` in the stage directory.
    """

    def __init__(
        self, source_fd: int, fd: int, staging: int, name: bytes, length: int, *, whole: bool = False
    ) -> None:
        self.fd = fd
        self.length = length
        self.waiters = 0
        self.done = False
        self.error: BaseException | None = None
        self.write_back: WriteBack | None = None
        self.target: OpenBranch | None = None
        self.source_id: Identity = 0
        self.flags = 0  # of the origin, as chattr(1) knows them
        self._source = source_fd
        self._staging = staging
        self._name = name  # b"" for an unnamed stage
        self._whole = whole
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        source_fd: int,
        staging: int,
        name: bytes,
        length: int,
        *,
        whole: bool,
        target: OpenBranch,
        source_id: Identity,
        write_back: WriteBack | None,
    ) -> CopyJob:
        """Make the stage in the directory `staging`. `source_fd` is the job's from the call on, also if that fails."""
        own = -1
        try:
            own = os.dup(staging)  # a branch may be removed while a thread copies to it
            fd, staged = _make_stage(own, name)
        except BaseException:
            for descriptor in (own, source_fd):
                if descriptor >= 0:
                    os.close(descriptor)
            raise
        job = cls(source_fd, fd, own, staged, length, whole=whole)
        job.target, job.source_id, job.write_back = target, source_id, write_back
        return job

    @property
    def failed(self) -> bool:
        """Tell whether the copy ended with an error."""
        return self.error is not None

    def run(self) -> None:
        """Copy the data; several callers may wait here, one works. Errors are kept for whoever publishes."""
        with self._lock:
            if self.done:
                return
            try:
                self._copy()
                if self.write_back is not None:
                    self.write_back(self.fd)
            except BaseException as error:
                self.error = error
            finally:
                self.done = True

    def _copy(self) -> None:
        copy_data(self._source, self.fd, self.length, whole=self._whole)

    def link(self, dirfd: int, name: bytes) -> None:
        """Publish the stage as `name`."""
        if self._name:
            os.rename(self._name, name, src_dir_fd=self._staging, dst_dir_fd=dirfd)
            self._name = b""
        else:
            os.link(whiteout.proc_path(self.fd), name, dst_dir_fd=dirfd, follow_symlinks=True)

    def replace(self, dirfd: int, name: bytes) -> None:
        """Publish the stage as `name` over whatever file is there."""
        if not self._name:
            staged = stage.stage_name(name)
            os.link(whiteout.proc_path(self.fd), staged, dst_dir_fd=self._staging, follow_symlinks=True)
            self._name = staged
        os.rename(self._name, name, src_dir_fd=self._staging, dst_dir_fd=dirfd)
        self._name = b""

    def close(self) -> None:
        """Close the descriptors and remove a named stage that was not published."""
        if self._name:
            leftovers.discard(self._staging, self._name)
            self._name = b""
        for fd in (self._source, self.fd, self._staging):
            if fd >= 0:
                os.close(fd)
        self._source = self.fd = self._staging = -1


def _make_stage(staging: int, name: bytes) -> tuple[int, bytes]:
    """Return the descriptor of a new stage and its name, which is empty where the filesystem has O_TMPFILE."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=staging), b""
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    staged = stage.stage_name(name)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(staged, flags, 0o600, dir_fd=staging), staged


def copy_data(source: int, target: int, length: int, *, whole: bool) -> None:
    """Copy `length` bytes from the start of `source`; holes stay holes. `whole` allows a reflink of the complete file."""
    if length == 0:
        return
    if whole:
        with contextlib.suppress(OSError):
            syscalls.clone_file(target, source)
            return
    os.ftruncate(target, length)
    position = 0
    while position < length:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:
                raise
            start = position
        if start >= length:
            return
        try:
            end = min(os.lseek(source, start, os.SEEK_HOLE), length)
        except OSError:
            end = length
        _copy_range(source, target, start, end)
        position = end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    position = start
    while position < end:
        try:
            count = os.copy_file_range(source, target, min(_CHUNK, end - position), position, position)
        except OSError as error:
            if not syscalls.is_unsupported(error):
                raise
            _copy_by_hand(source, target, position, end)
            return
        if count == 0:  # the source became shorter, or the filesystem claims success without doing it
            _copy_by_hand(source, target, position, end)
            return
        position += count


def _copy_by_hand(source: int, target: int, position: int, end: int) -> None:
    while position < end:
        data = os.pread(source, min(_BUFFER, end - position), position)
        if not data:
            return
        view = memoryview(data)
        while view:
            count = os.pwrite(target, view, position)
            view = view[count:]
            position += count


def open_unseen(source: int) -> int:
    """Open a file for copying without moving its access time, where the owner (or root) may ask for that."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(whiteout.proc_path(source), flags | os.O_NOATIME)
    except PermissionError:
        return os.open(whiteout.proc_path(source), flags)
