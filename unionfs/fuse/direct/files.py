# SPDX-License-Identifier: Apache-2.0
"""Requests on open files: open, create, read, write, synchronize, allocate, copy ranges."""

from __future__ import annotations

import errno
import os

from unionfs import syscalls
from unionfs.create import Caller
from unionfs.filesystem import UnionFilesystem
from unionfs.fuse import abi
from unionfs.fuse.direct.replies import Header, InThread, Replies, Reply, name_in


class FileRequests:
    """The handlers of one mount that deal with open files."""

    def __init__(self, filesystem: UnionFilesystem, replies: Replies, max_write: int) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._file_flags = abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH
        self._read_buffer = bytearray(max_write)
        self._read_view = memoryview(self._read_buffer)

    def open(self, header: Header, body: memoryview) -> Reply:
        """Open a file."""
        flags, open_flags = abi.OPEN_IN.unpack_from(body)
        node = self._replies.node(header.nodeid)
        caller = Caller(header.uid, header.gid, header.pid)
        handle = self._filesystem.open_file(node, flags, caller)
        if open_flags & abi.OPEN_KILL_SUIDGID:
            self._filesystem.strip_privileges(node)
        return abi.OPEN_OUT.pack(handle, self._file_flags, 0)

    def create(self, header: Header, body: memoryview) -> Reply:
        """Create and open a file."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        name = name_in(body, abi.CREATE_IN.size)
        attributes, handle = self._filesystem.create(
            self._replies.node(header.nodeid), name, mode, flags, caller
        )
        return self._replies.entry(attributes) + abi.OPEN_OUT.pack(handle, self._file_flags, 0)

    def tmpfile(self, header: Header, body: memoryview) -> Reply:
        """Create and open a file without a name (O_TMPFILE)."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        attributes, handle = self._filesystem.tmpfile(self._replies.node(header.nodeid), mode, flags, caller)
        return self._replies.entry(attributes) + abi.OPEN_OUT.pack(handle, self._file_flags, 0)

    def read(self, header: Header, body: memoryview) -> Reply:
        """Read what the page cache has; a thread fetches the rest."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        fd = self._filesystem.file(fh).fd
        try:
            count = os.preadv(fd, (self._read_view[:size],), offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return InThread(lambda: os.pread(fd, size, offset))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return os.pread(fd, size, offset)
        if 0 < count < size and os.fstat(fd).st_size > offset + count:
            return InThread(lambda: os.pread(fd, size, offset))
        return self._read_view[:count]

    def write(self, header: Header, body: memoryview) -> Reply:
        """Write; the first one copies up."""
        fh, offset, size, write_flags, _, _, _ = abi.WRITE_IN.unpack_from(body)
        filesystem = self._filesystem
        handle = filesystem.writable_file(fh)
        data = body[abi.WRITE_IN.size : abi.WRITE_IN.size + size]
        if write_flags & abi.WRITE_KILL_SUIDGID:
            filesystem.strip_privileges(handle.node)
        if handle.flags & (os.O_SYNC | os.O_DSYNC):
            copy = bytes(data)
            return InThread(lambda: abi.WRITE_OUT.pack(filesystem.write(fh, offset, copy), 0))
        count = os.pwrite(handle.fd, data, offset)
        if count < size:
            count += filesystem.write(fh, offset + count, bytes(data[count:]))
        return abi.WRITE_OUT.pack(count, 0)

    def flush(self, header: Header, body: memoryview) -> Reply:
        """Close by one user; nothing is buffered here."""
        return b""

    def release(self, header: Header, body: memoryview) -> Reply:
        """Close a handle."""
        self._filesystem.release(abi.RELEASE_IN.unpack_from(body)[0])
        return b""

    def fsync(self, header: Header, body: memoryview) -> Reply:
        """Write back, in a thread."""
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        filesystem = self._filesystem

        def work() -> bytes:
            filesystem.fsync(fh, data_only=bool(flags & abi.FSYNC_DATASYNC))
            return b""

        return InThread(work)

    def fallocate(self, header: Header, body: memoryview) -> Reply:
        """Allocate, punch or zero a range."""
        fh, offset, length, mode = abi.FALLOCATE_IN.unpack_from(body)
        fd = self._filesystem.writable_file(fh).fd

        def work() -> bytes:
            syscalls.fallocate(fd, mode, offset, length)
            return b""

        return InThread(work)

    def lseek(self, header: Header, body: memoryview) -> Reply:
        """Find data or a hole."""
        fh, offset, whence = abi.LSEEK_IN.unpack_from(body)
        return abi.LSEEK_OUT.pack(os.lseek(self._filesystem.file(fh).fd, offset, whence))

    def copy_file_range(self, header: Header, body: memoryview) -> Reply:
        """Copy between two files of the union, on the branch filesystem if both are on one."""
        source, offset, _, target, target_offset, length, _ = abi.COPY_FILE_RANGE_IN.unpack_from(body)
        target_fd = self._filesystem.writable_file(target).fd
        source_fd = self._filesystem.file(source).fd
        length = min(length, 1 << 30)

        def work() -> bytes:
            count = os.copy_file_range(source_fd, target_fd, length, offset, target_offset)
            return abi.WRITE_OUT.pack(count, 0)

        return InThread(work)
