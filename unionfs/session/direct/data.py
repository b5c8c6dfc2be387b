# SPDX-License-Identifier: Apache-2.0
"""Reads and writes that pass through the server: where passthrough is impossible or was not wanted.

What the page cache has or takes at once is done inline, from and into buffers made once; the rest goes to workers, so that
no client waits for another one's disk.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from unionfs.filesystem import UnionFilesystem
from unionfs.handles.handles import FileHandle, is_in_memory, write_all
from unionfs.session import abi
from unionfs.session.direct.pace import Pace
from unionfs.session.direct.replies import NO_REPLY, Header, Replies, Reply
from unionfs.session.direct.smallfiles import LIMIT, SmallFiles
from unionfs.session.direct.unseen import UnseenWrites
from unionfs.session.direct.workers import Workers

_SYNC = os.O_SYNC | os.O_DSYNC
_HANDLES = 4096  # that many are remembered to be without capabilities


class DataRequests:
    """The handlers of one mount that move file data."""

    def __init__(
        self,
        filesystem: UnionFilesystem,
        replies: Replies,
        workers: Workers,
        small: SmallFiles,
        unseen: UnseenWrites,
        pace: Pace,
        max_write: int,
    ) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._workers = workers
        self._small = small
        self._unseen = unseen
        self._view = memoryview(bytearray(max_write))
        self._pace = pace
        self._bare: set[int] = set()  # handles of files without capabilities, as of `_capabilities`
        self._capabilities = 0

    def read(self, header: Header, body: memoryview) -> Reply:
        """Read what the page cache has; a worker fetches the rest."""
        fh, offset, size, read_flags, _, _, _ = abi.READ_IN.unpack_from(body)
        handle = self._filesystem.file(fh)
        if self._unseen and not read_flags & abi.READ_LOCKOWNER:
            self._unseen.read(handle.node, offset, size, header.pid)
        fd = handle.fd
        if handle.size <= LIMIT:
            self._small.lost(header.nodeid)
        view = self._view[:size]
        try:
            count = os.preadv(fd, (view,), offset, os.RWF_NOWAIT)
            if count == size or count == 0 or os.fstat(fd).st_size <= offset + count:
                return view[:count]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            if is_in_memory(handle):
                return view[: os.preadv(fd, (view,), offset)]
        handle.hold()
        self._workers.submit(
            header.unique, lambda buffer: buffer[: os.preadv(handle.fd, (buffer[:size],), offset)], (handle,)
        )
        return NO_REPLY

    def write(self, header: Header, body: memoryview) -> Reply:
        """Write; the first one copies up."""
        fh, offset, size, write_flags, _, flags, _ = abi.WRITE_IN.unpack_from(body)
        data = body[abi.WRITE_IN.size : abi.WRITE_IN.size + size]
        if len(data) < size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        handle = self._filesystem.writable_file(fh)
        if handle.appends and offset < os.fstat(handle.fd).st_size:
            raise OSError(
                errno.EPERM, os.strerror(errno.EPERM)
            )  # from a mapping: a plain write of the caller's appends
        if write_flags & abi.WRITE_KILL_SUIDGID:
            self._strip(handle)
        if self._unseen or write_flags & abi.WRITE_LOCKOWNER:
            data = self._with_unseen(handle, offset, data, write_flags, header.pid)
        # RWF_SYNC and RWF_DSYNC show in the request alone; what the descriptor was opened with is done by the branch.
        sync = flags & ~handle.flags & _SYNC if not write_flags & abi.WRITE_CACHE else 0
        if self._may_wait(handle, sync):
            copy = memoryview(bytes(data))
            handle.hold()
            self._workers.submit(
                header.unique, lambda _: self._write(handle.fd, copy, offset, sync), (handle,)
            )
            return NO_REPLY
        return self._write(handle.fd, data, offset, sync)

    def _may_wait(self, handle: FileHandle, sync: int) -> bool:
        """Tell whether a worker is to write, from a copy of the data, which costs little beside a disk's wait.

        Not where a page that is written back is compared with what is there by then.
        """
        if self._unseen and handle.node in self._unseen:
            return False
        return bool((handle.flags | sync) & _SYNC) or self._pace.slow

    def _with_unseen(
        self, handle: FileHandle, offset: int, data: memoryview, write_flags: int, pid: int
    ) -> memoryview:
        """Return what is to be written, and note what the kernel's pages of the file know of it."""
        if write_flags & abi.WRITE_CACHE:
            return self._unseen.merge(handle, offset, data)
        if write_flags & abi.WRITE_LOCKOWNER:
            self._unseen.note(handle, offset, len(data), pid)
        else:
            self._unseen.changed(handle.node, offset, len(data))
        return data

    def _strip(self, handle: FileHandle) -> None:
        """Clear set-id bits and capabilities: every write of an ordinary user asks for that, so a look must do mostly."""
        if self._capabilities != self._replies.capabilities or len(self._bare) > _HANDLES:
            self._capabilities = self._replies.capabilities
            self._bare.clear()
        if os.fstat(handle.fd).st_mode & (stat.S_ISUID | stat.S_ISGID) or handle.number not in self._bare:
            self._filesystem.strip_privileges(handle.node)
            self._bare.add(handle.number)

    def _write(self, fd: int, data: memoryview, offset: int, sync: int = 0) -> bytes:
        """Write, and write back if O_DSYNC or O_SYNC is in `sync`; return the reply, and notice whether the disk held it up."""
        start = time.monotonic()
        written = write_all(fd, data, offset)
        if sync:
            (os.fdatasync if sync == os.O_DSYNC else os.fsync)(fd)
        self._pace.since(start)
        return abi.WRITE_OUT.pack(written, 0)
