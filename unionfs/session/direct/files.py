# SPDX-License-Identifier: Apache-2.0
"""Requests on open files: open, create, synchronize, allocate, copy ranges. Data is in `data`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from unionfs.filesystem import UnionFilesystem
from unionfs.handles.handles import FileHandle
from unionfs.kernel import syscalls
from unionfs.kernel.descriptor import errand
from unionfs.operations.create import Caller
from unionfs.session import abi
from unionfs.session.direct.pace import Pace
from unionfs.session.direct.passthrough import Passthrough, open_flags, stale
from unionfs.session.direct.replies import Header, Replies, Reply, name_in
from unionfs.session.direct.unseen import UnseenWrites
from unionfs.session.notify import Notifier

# A copy of so many bytes takes less than handing it to a thread does, after which the server is not where its client is.
_SMALL = 128 << 10


class FileRequests:
    """The handlers of one mount that deal with open files."""

    def __init__(
        self,
        filesystem: UnionFilesystem,
        replies: Replies,
        passthrough: Passthrough,
        notifier: Notifier,
        unseen: UnseenWrites,
        pace: Pace,
    ) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._passthrough = passthrough
        self._notifier = notifier
        self._unseen = unseen
        self._pace = pace
        self._file_flags = abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH

    def open(self, header: Header, body: memoryview) -> Reply:
        """Open a file; ESTALE makes the kernel look up a file that got a new nodeid, and open that."""
        flags, extra = abi.OPEN_IN.unpack_from(body)
        node = self._replies.node(header.nodeid)
        # Who asks matters for set-id bits alone, and a kernel that keeps it back (ALLOW_IDMAP) says that by OPEN_KILL_SUIDGID.
        caller = Caller(0 if header.uid == abi.INVALID_ID else header.uid, header.gid, header.pid)
        nodeid = header.nodeid
        if nodeid != (node.traits.nodeid or node.ino):
            number, backing = self._passthrough.reopen(node, nodeid, flags, caller)
            return abi.OPEN_OUT.pack(number, open_flags(self._filesystem.file(number)), backing.id)
        if self._replies.writeback and flags & os.O_ACCMODE and not flags & os.O_TRUNC:
            # Not at the first write as elsewhere: by then the caller has been told that all is well.
            self._filesystem.make_writable(node, flags)
        reply_flags = self._file_flags
        try:
            handle = self._filesystem.open_file(node, self._access(flags), caller)
        except PermissionError:
            if self._access(flags) == flags:
                raise
            handle = self._filesystem.open_file(node, flags, caller)
            reply_flags = abi.FOPEN_DIRECT_IO  # then nothing is read through it
        if self._replies.writeback and self._filesystem.file(handle).appends:
            reply_flags = (
                abi.FOPEN_DIRECT_IO
            )  # pages are written whole, and here that would append what was there before
        if nodeid != (node.traits.nodeid or node.ino):  # opening copied it up
            self._filesystem.release(handle)
            raise stale()
        if extra & abi.OPEN_KILL_SUIDGID:
            self._filesystem.strip_privileges(node)
        return self._opened(handle, reply_flags)

    def _opened(self, handle: int, ordinary_flags: int) -> bytes:
        """Return the part of a reply that tells the kernel how to use a new handle."""
        try:
            opened = self._filesystem.file(handle)
            flags, backing_id = self._passthrough.open(opened, ordinary_flags)
        except OSError:
            self._filesystem.release(handle)
            raise
        if opened.writes and opened.backing is None and self._goes_past_pages(opened):
            flags |= abi.FOPEN_DIRECT_IO
        return abi.OPEN_OUT.pack(handle, flags, backing_id)

    def _goes_past_pages(self, handle: FileHandle) -> bool:
        """Tell whether an ordinary handle writes past the kernel's pages of the file (`unseen`).

        In them appended data may be lost (Linux 6.17 on): while a WRITE is under way the file's size is still the former one,
        and if the page is written back then, because somebody changed it through a mapping, all behind that size becomes
        zeros. Not so where the kernel decides on the size itself (the writeback cache).

        Reading such a handle comes to the server too, so not all do: those that only append, and where files mostly pass
        through the few that do not: a reader had them open before they were copied up, or the writer had (with AUFS' promise).
        """
        replies, access = self._replies, handle.flags & os.O_ACCMODE
        if replies.writeback or not (replies.direct_mappings or access == os.O_WRONLY):
            return False
        return bool(handle.flags & os.O_APPEND) or self._passthrough.on

    def _access(self, flags: int) -> int:
        """Return the flags to open the branch file with.

        With the writeback cache the kernel reads the rest of a page that is written in part, through the writer's handle.
        """
        if self._replies.writeback and flags & os.O_ACCMODE == os.O_WRONLY:
            return flags & ~os.O_ACCMODE | os.O_RDWR
        return flags

    def create(self, header: Header, body: memoryview) -> Reply:
        """Create and open a file."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        name = name_in(body, abi.CREATE_IN.size)
        attributes, handle = self._filesystem.create(
            self._replies.node(header.nodeid), name, mode, self._access(flags), caller
        )
        reply = self._replies.entry(attributes) + self._opened(handle, self._file_flags)
        self._replies.cached.present(header.nodeid, name)
        return reply

    def tmpfile(self, header: Header, body: memoryview) -> Reply:
        """Create and open a file without a name (O_TMPFILE)."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        attributes, handle = self._filesystem.tmpfile(
            self._replies.node(header.nodeid), mode, self._access(flags), caller
        )
        return self._replies.entry(attributes) + self._opened(handle, self._file_flags)

    def flush(self, header: Header, body: memoryview) -> Reply:
        """Close by one user; nothing is buffered here, so the kernel need not ask again."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def release(self, header: Header, body: memoryview) -> Reply:
        """Close a handle."""
        number = abi.RELEASE_IN.unpack_from(body)[0]
        handle = self._filesystem.file(number)
        self._filesystem.release(number)
        self._passthrough.close(handle)
        if self._unseen:
            self._unseen.released(handle.node)
        return b""

    def fsync(self, header: Header, body: memoryview) -> Reply:
        """Write a file back, in a thread unless there is nothing to wait for."""
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        fd = self._filesystem.file(fh).fd
        # Asked of the file itself: an old reader's is not on the node's branch, and a mistake would hold up everybody.
        if syscalls.is_in_memory(fd):
            os.fsync(fd)
            return b""
        return self._filesystem.write_back(fh, data_only=bool(flags & abi.FSYNC_DATASYNC))

    def fsyncdir(self, header: Header, body: memoryview) -> Reply:
        """Write a directory back on its writable branches, in a thread."""
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        if not fh:
            return self._filesystem.write_back_directory(self._replies.node(header.nodeid))
        return self._filesystem.write_back(fh, data_only=bool(flags & abi.FSYNC_DATASYNC))

    def fallocate(self, header: Header, body: memoryview) -> Reply:
        """Allocate, punch or zero a range."""
        fh, offset, length, mode = abi.FALLOCATE_IN.unpack_from(body)
        handle = self._filesystem.writable_file(fh)
        self._unseen.changed(handle.node, offset, length)  # the kernel changes its pages itself
        return errand(lambda: syscalls.fallocate(handle.fd, mode, offset, length), handle)

    def lseek(self, header: Header, body: memoryview) -> Reply:
        """Find data or a hole; where the kernel holds back data that would fill one, it is asked for that first."""
        fh, offset, whence = abi.LSEEK_IN.unpack_from(body)
        handle = self._filesystem.file(fh)
        if not self._replies.writeback or not any(other.writes for other in handle.node.handles or ()):
            return abi.LSEEK_OUT.pack(os.lseek(handle.fd, offset, whence))

        def work() -> bytes:
            self._notifier.data(header.nodeid)
            return abi.LSEEK_OUT.pack(os.lseek(handle.fd, offset, whence))

        return errand(work, handle, waits_for_us=True)

    def copy_file_range(self, header: Header, body: memoryview) -> Reply:
        """Copy between two files of the union, on the branch filesystem if both are on one."""
        return self._copy_range(body, lambda count: abi.WRITE_OUT.pack(count, 0))

    def copy_file_range_64(self, header: Header, body: memoryview) -> Reply:
        """Do the same, with an answer for more than 4 GiB (Linux 6.18).

        A kernel that gets ENOSYS asks by the older request, but of two that get it at once the second never asks again.
        """
        return self._copy_range(body, abi.COPY_FILE_RANGE_OUT.pack)

    def _copy_range(self, body: memoryview, answer: Callable[[int], bytes]) -> Reply:
        source, offset, _, target, target_offset, length, _ = abi.COPY_FILE_RANGE_IN.unpack_from(body)
        writer = self._filesystem.writable_file(target)
        reader = self._filesystem.file(source)
        length = min(length, 1 << 30)
        self._unseen.changed(writer.node, target_offset, length)  # the kernel drops its pages

        def work() -> bytes:
            count = os.copy_file_range(reader.fd, writer.fd, length, offset, target_offset)
            return answer(count)

        if length <= _SMALL and not self._pace.slow and _copies_at_once(reader.fd, writer.fd, offset, length):
            start = time.monotonic()
            reply = work()
            self._pace.since(start)
            return reply
        return errand(work, reader, writer)


def _copies_at_once(source: int, target: int, offset: int, size: int) -> bool:
    """Tell whether a range can be copied without a wait for a disk.

    Filesystems that share blocks instead write the source back first.
    """
    magic = syscalls.filesystem_magic(target)
    if magic == syscalls.EXT4_MAGIC:
        try:
            return os.preadv(source, (bytearray(size),), offset, os.RWF_NOWAIT) == size
        except OSError:
            return False
    return magic == syscalls.TMPFS_MAGIC
