# SPDX-License-Identifier: Apache-2.0
"""One method per FUSE request: unpack, call the filesystem, pack. No I/O on the device, no waiting.

A method returns the reply's payload, `NO_REPLY`, or `InThread` for work that blocks; it raises OSError for an error reply.
Written flat, with local names: this is the path on which every microsecond shows.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from unionfs import syscalls, whiteout
from unionfs.attributes import Changes
from unionfs.create import Caller
from unionfs.filesystem import UnionFilesystem
from unionfs.fuse import abi
from unionfs.fuse.abi import Opcode
from unionfs.nodes import Attributes, Node

FOREVER = 1 << 30  # seconds
_REVAL_SECONDS = 1
_S_IFMT = 0o170000
_NANO = 1_000_000_000

NO_REPLY = b"no reply"  # compared by identity

_WANTED = (
    abi.ASYNC_READ
    | abi.ATOMIC_O_TRUNC
    | abi.BIG_WRITES
    | abi.DONT_MASK
    | abi.AUTO_INVAL_DATA
    | abi.DO_READDIRPLUS
    | abi.READDIRPLUS_AUTO
    | abi.ASYNC_DIO
    | abi.PARALLEL_DIROPS
    | abi.MAX_PAGES
    | abi.CACHE_SYMLINKS
    | abi.HANDLE_KILLPRIV_V2
    | abi.SETXATTR_EXT
    | abi.INIT_EXT
)
_WANTED_2 = abi.HAS_EXPIRE_ONLY | abi.DIRECT_IO_ALLOW_MMAP | abi.NO_EXPORT_SUPPORT

_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602


class Header(NamedTuple):
    """What of a request's header the handlers need."""

    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int


class InThread(NamedTuple):
    """Work that may block: `function` returns the payload."""

    function: Callable[[], bytes]


Reply = bytes | memoryview | InThread
Handler = Callable[[Header, memoryview], Reply]


class Requests:
    """The handlers of one mount."""

    def __init__(self, filesystem: UnionFilesystem, max_write: int) -> None:
        self.filesystem = filesystem
        self.entered: Node | None = None  # the node whose lookup the pending reply tells the kernel of
        self._max_write = max_write
        self._setxattr_ext = False
        self._read_buffer = bytearray(max_write)
        self._read_view = memoryview(self._read_buffer)
        self.use_options()
        self._file_flags = abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH
        self.table: dict[int, Handler] = {
            opcode: getattr(self, opcode.name.lower())
            for opcode in Opcode
            if hasattr(self, opcode.name.lower())
        }
        self.names = {opcode: Opcode(opcode).name.lower() for opcode in self.table}

    def use_options(self) -> None:
        """Take the caching times from the options, at the mount and after a remount changed them."""
        options = self.filesystem.options
        short = options.udba == "reval"
        self._attr_valid = _REVAL_SECONDS if short else FOREVER
        self._entry_valid = 0 if not options.dirperm1 else self._attr_valid
        self._negative_valid = 0 if short else self._entry_valid
        self._dir_flags = 0 if short else abi.FOPEN_CACHE_DIR | abi.FOPEN_KEEP_CACHE

    # -- packing ------------------------------------------------------------------------------------------------

    def _node(self, nodeid: int) -> Node:
        node = self.filesystem.union.nodes.get(nodeid)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def _entry(self, attributes: Attributes) -> bytes:
        """Pack an entry and count the lookup that the kernel will remember."""
        node, st, nlink = attributes
        node.lookups += 1
        self.entered = node
        return self._pack_entry(node, st, nlink, self._entry_valid, self._attr_valid)

    def _pack_entry(
        self, node: Node, st: os.stat_result, nlink: int, entry_valid: int, attr_valid: int
    ) -> bytes:
        atime, atime_ns = divmod(st.st_atime_ns, _NANO)
        mtime, mtime_ns = divmod(st.st_mtime_ns, _NANO)
        ctime, ctime_ns = divmod(st.st_ctime_ns, _NANO)
        return abi.ENTRY_OUT.pack(
            node.nodeid, node.generation, entry_valid, attr_valid, 0, 0,
            node.ino, st.st_size, st.st_blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev & 0xFFFFFFFF, st.st_blksize, 0,
        )  # fmt: skip

    def _attributes(self, attributes: Attributes) -> bytes:
        node, st, nlink = attributes
        atime, atime_ns = divmod(st.st_atime_ns, _NANO)
        mtime, mtime_ns = divmod(st.st_mtime_ns, _NANO)
        ctime, ctime_ns = divmod(st.st_ctime_ns, _NANO)
        return abi.ATTR_OUT.pack(
            self._attr_valid, 0, 0,
            node.ino, st.st_size, st.st_blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev & 0xFFFFFFFF, st.st_blksize, 0,
        )  # fmt: skip

    # -- session ------------------------------------------------------------------------------------------------

    def init(self, header: Header, body: memoryview) -> Reply:
        """Agree on a protocol version and on everything that saves requests."""
        major, minor, readahead, offered = abi.INIT_IN.unpack_from(bytes(body[:20]).ljust(20, b"\0"))[:4]
        if major != abi.MAJOR:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        wanted = _WANTED | (abi.POSIX_ACL if self.filesystem.options.acl else 0)
        flags = wanted & offered
        offered_2 = (
            abi.INIT_IN.unpack_from(bytes(body[:20]))[4] if offered & abi.INIT_EXT and len(body) >= 20 else 0
        )
        self._setxattr_ext = bool(flags & abi.SETXATTR_EXT)
        return abi.INIT_OUT.pack(
            abi.MAJOR, min(minor, abi.MINOR), readahead, flags, 64, 48, self._max_write, 1,
            self._max_write // 4096, 0, _WANTED_2 & offered_2, 0, 0,
        )  # fmt: skip

    def destroy(self, header: Header, body: memoryview) -> Reply:
        """The mount goes away; the next read says so."""
        return b""

    def interrupt(self, header: Header, body: memoryview) -> Reply:
        """A caller got a signal. Requests are answered at once or are past recall, so there is nothing to stop."""
        return NO_REPLY

    # -- names --------------------------------------------------------------------------------------------------

    def lookup(self, header: Header, body: memoryview) -> Reply:
        """Find a name; a miss may be remembered by the kernel too."""
        name = bytes(body[:-1])
        filesystem = self.filesystem
        try:
            parent = self._node(header.nodeid)
            if filesystem.options.dirperm1 and name[:1] != b".":
                filesystem.union.trim()
                return self._entry(filesystem.union.lookup(parent, name))
            caller = Caller(header.uid, header.gid, header.pid)
            return self._entry(filesystem.lookup(parent, name, caller))
        except FileNotFoundError:
            if not self._negative_valid:
                raise
            return abi.ENTRY_OUT.pack(0, 0, self._negative_valid, 0, *(0,) * 18)

    def forget(self, header: Header, body: memoryview) -> Reply:
        """Take back lookups."""
        self.filesystem.forget(header.nodeid, abi.FORGET_IN.unpack_from(body)[0])
        return NO_REPLY

    def batch_forget(self, header: Header, body: memoryview) -> Reply:
        """Take back many lookups."""
        forget = self.filesystem.forget
        count = abi.BATCH_FORGET_IN.unpack_from(body)[0]
        start = abi.BATCH_FORGET_IN.size
        for nodeid, lookups in abi.FORGET_ONE.iter_unpack(body[start : start + count * abi.FORGET_ONE.size]):
            forget(nodeid, lookups)
        return NO_REPLY

    def getattr(self, header: Header, body: memoryview) -> Reply:
        """Return attributes."""
        return self._attributes(self.filesystem.union.attributes(self._node(header.nodeid)))

    def setattr(self, header: Header, body: memoryview) -> Reply:
        """Change attributes; with KILLPRIV_V2 clearing set-id bits is our part."""
        (
            valid, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid
        ) = abi.SETATTR_IN.unpack_from(body)  # fmt: skip
        node = self._node(header.nodeid)
        now = None
        if valid & (abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW):
            now = time.time_ns()
        changes = Changes(
            mode=mode if valid & abi.FATTR_MODE else None,
            uid=uid if valid & abi.FATTR_UID else None,
            gid=gid if valid & abi.FATTR_GID else None,
            size=size if valid & abi.FATTR_SIZE else None,
            atime_ns=_moment(valid & abi.FATTR_ATIME, valid & abi.FATTR_ATIME_NOW, atime, atime_ns, now),
            mtime_ns=_moment(valid & abi.FATTR_MTIME, valid & abi.FATTR_MTIME_NOW, mtime, mtime_ns, now),
        )
        handle = fh if valid & abi.FATTR_FH else None
        attributes = self.filesystem.setattr(node, changes, handle)
        if valid & abi.FATTR_KILL_SUIDGID and not node.is_directory:
            self.filesystem.strip_privileges(node)
            attributes = self.filesystem.getattr(node)
        return self._attributes(attributes)

    def readlink(self, header: Header, body: memoryview) -> Reply:
        """Return a link's text."""
        return self.filesystem.readlink(self._node(header.nodeid))

    def symlink(self, header: Header, body: memoryview) -> Reply:
        """Make a symbolic link."""
        name, target = bytes(body).split(b"\0")[:2]
        caller = Caller(header.uid, header.gid, header.pid)
        return self._entry(self.filesystem.symlink(self._node(header.nodeid), name, target, caller))

    def mknod(self, header: Header, body: memoryview) -> Reply:
        """Make a special file."""
        mode, rdev, umask = abi.MKNOD_IN.unpack_from(body)
        name = _name(body, abi.MKNOD_IN.size)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        return self._entry(self.filesystem.mknod(self._node(header.nodeid), name, mode, rdev, caller))

    def mkdir(self, header: Header, body: memoryview) -> Reply:
        """Make a directory."""
        mode, umask = abi.MKDIR_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        name = _name(body, abi.MKDIR_IN.size)
        return self._entry(self.filesystem.mkdir(self._node(header.nodeid), name, mode, caller))

    def unlink(self, header: Header, body: memoryview) -> Reply:
        """Remove a file's name."""
        self.filesystem.unlink(self._node(header.nodeid), bytes(body[:-1]))
        return b""

    def rmdir(self, header: Header, body: memoryview) -> Reply:
        """Remove a directory."""
        self.filesystem.rmdir(self._node(header.nodeid), bytes(body[:-1]))
        return b""

    def rename(self, header: Header, body: memoryview) -> Reply:
        """Rename without flags."""
        return self._rename(header, abi.RENAME_IN.unpack_from(body)[0], 0, bytes(body[abi.RENAME_IN.size :]))

    def rename2(self, header: Header, body: memoryview) -> Reply:
        """Rename with flags."""
        directory, flags = abi.RENAME2_IN.unpack_from(body)
        return self._rename(header, directory, flags, bytes(body[abi.RENAME2_IN.size :]))

    def _rename(self, header: Header, directory: int, flags: int, names: bytes) -> Reply:
        old, new = names.split(b"\0")[:2]
        self.filesystem.rename(self._node(header.nodeid), old, self._node(directory), new, flags)
        return b""

    def link(self, header: Header, body: memoryview) -> Reply:
        """Make a hard link."""
        node = self._node(abi.LINK_IN.unpack_from(body)[0])
        name = _name(body, abi.LINK_IN.size)
        return self._entry(self.filesystem.link(node, self._node(header.nodeid), name))

    # -- files --------------------------------------------------------------------------------------------------

    def open(self, header: Header, body: memoryview) -> Reply:
        """Open a file."""
        flags, open_flags = abi.OPEN_IN.unpack_from(body)
        node = self._node(header.nodeid)
        caller = Caller(header.uid, header.gid, header.pid)
        handle = self.filesystem.open_file(node, flags, caller)
        if open_flags & abi.OPEN_KILL_SUIDGID:
            self.filesystem.strip_privileges(node)
        return abi.OPEN_OUT.pack(handle, self._file_flags, 0)

    def create(self, header: Header, body: memoryview) -> Reply:
        """Create and open a file."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        name = _name(body, abi.CREATE_IN.size)
        attributes, handle = self.filesystem.create(self._node(header.nodeid), name, mode, flags, caller)
        return self._entry(attributes) + abi.OPEN_OUT.pack(handle, self._file_flags, 0)

    def tmpfile(self, header: Header, body: memoryview) -> Reply:
        """Create and open a file without a name (O_TMPFILE)."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
        caller = Caller(header.uid, header.gid, header.pid, umask)
        attributes, handle = self.filesystem.tmpfile(self._node(header.nodeid), mode, flags, caller)
        return self._entry(attributes) + abi.OPEN_OUT.pack(handle, self._file_flags, 0)

    def read(self, header: Header, body: memoryview) -> Reply:
        """Read what the page cache has; a thread fetches the rest."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        fd = self.filesystem.file(fh).fd
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
        filesystem = self.filesystem
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
        self.filesystem.release(abi.RELEASE_IN.unpack_from(body)[0])
        return b""

    releasedir = release

    def fsync(self, header: Header, body: memoryview) -> Reply:
        """Write back, in a thread."""
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        filesystem = self.filesystem

        def work() -> bytes:
            filesystem.fsync(fh, data_only=bool(flags & abi.FSYNC_DATASYNC))
            return b""

        return InThread(work)

    fsyncdir = fsync

    def fallocate(self, header: Header, body: memoryview) -> Reply:
        """Allocate, punch or zero a range."""
        fh, offset, length, mode = abi.FALLOCATE_IN.unpack_from(body)
        fd = self.filesystem.writable_file(fh).fd

        def work() -> bytes:
            syscalls.fallocate(fd, mode, offset, length)
            return b""

        return InThread(work)

    def lseek(self, header: Header, body: memoryview) -> Reply:
        """Find data or a hole."""
        fh, offset, whence = abi.LSEEK_IN.unpack_from(body)
        return abi.LSEEK_OUT.pack(os.lseek(self.filesystem.file(fh).fd, offset, whence))

    def copy_file_range(self, header: Header, body: memoryview) -> Reply:
        """Copy between two files of the union, on the branch filesystem if both are on one."""
        source, offset, _, target, target_offset, length, _ = abi.COPY_FILE_RANGE_IN.unpack_from(body)
        target_fd = self.filesystem.writable_file(target).fd
        source_fd = self.filesystem.file(source).fd
        length = min(length, 1 << 30)

        def work() -> bytes:
            count = os.copy_file_range(source_fd, target_fd, length, offset, target_offset)
            return abi.WRITE_OUT.pack(count, 0)

        return InThread(work)

    def ioctl(self, header: Header, body: memoryview) -> Reply:
        """Get and set inode flags (lsattr, chattr); everything else is ENOTTY."""
        _, _, command, _, in_size, out_size = abi.IOCTL_IN.unpack_from(body)
        if command not in (_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        argument = bytearray(body[abi.IOCTL_IN.size : abi.IOCTL_IN.size + in_size].tobytes().ljust(8, b"\0"))
        node = self._node(header.nodeid)
        if not (node.is_directory or stat.S_ISREG(node.kind)):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if command == _FS_IOC_SETFLAGS:
            self.filesystem.copyups.ensure(node)
        path = self.filesystem.union.open_path(node)
        try:
            fd = os.open(whiteout.proc_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(path)
        try:
            fcntl.ioctl(fd, command, argument)
        finally:
            os.close(fd)
        return abi.IOCTL_OUT.pack(0, 0, 0, 0) + bytes(argument[:out_size])

    # -- directories --------------------------------------------------------------------------------------------

    def opendir(self, header: Header, body: memoryview) -> Reply:
        """Open a directory."""
        caller = Caller(header.uid, header.gid, header.pid)
        handle = self.filesystem.open_directory(self._node(header.nodeid), caller)
        return abi.OPEN_OUT.pack(handle, self._dir_flags, 0)

    def readdir(self, header: Header, body: memoryview) -> Reply:
        """List without looking entries up."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        reply = bytearray()
        for ino, kind, name, following in self.filesystem.read_directory(fh, offset):
            length = len(name)
            padded = (abi.DIRENT.size + length + 7) & ~7
            if len(reply) + padded > size:
                break
            reply += abi.DIRENT.pack(ino, following, length, kind) + name
            reply += bytes(padded - abi.DIRENT.size - length)
        return bytes(reply)

    def readdirplus(self, header: Header, body: memoryview) -> Reply:
        """List and look up; the kernel asks for this when it sees that entries are looked at."""
        fh, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(body)
        filesystem = self.filesystem
        union = filesystem.union
        directory = filesystem.handles[fh].node
        reply = bytearray()
        for ino, kind, name, following in filesystem.read_directory(fh, offset):
            length = len(name)
            padded = (abi.DIRENT.size + length + 7) & ~7
            if len(reply) + abi.ENTRY_OUT.size + padded > size:
                break
            node = None
            entry = bytes(abi.ENTRY_OUT.size)
            if name not in (b".", b".."):
                try:
                    node, status, nlink = union.lookup(directory, name)
                    entry = self._pack_entry(node, status, nlink, self._entry_valid, self._attr_valid)
                    ino, kind = node.ino, status.st_mode >> 12
                    node.lookups += 1
                except FileNotFoundError:
                    continue
                except OSError:
                    pass  # it exists but cannot be looked up: nodeid 0 lists it all the same
            reply += entry + abi.DIRENT.pack(ino, following, length, kind) + name
            reply += bytes(padded - abi.DIRENT.size - length)
        return bytes(reply)

    # -- the rest -----------------------------------------------------------------------------------------------

    def statfs(self, header: Header, body: memoryview) -> Reply:
        """Return filesystem totals."""
        st = self.filesystem.statfs()
        return abi.STATFS_OUT.pack(
            st.f_blocks,
            st.f_bfree,
            st.f_bavail,
            st.f_files,
            st.f_ffree,
            st.f_bsize,
            st.f_namemax,
            st.f_frsize,
            0,
        )

    def syncfs(self, header: Header, body: memoryview) -> Reply:
        """Write every writable branch back."""
        union = self.filesystem.union

        def work() -> bytes:
            for branch in union.branches:
                if branch.writable:
                    syscalls.sync_filesystem(branch.root)
            return b""

        return InThread(work)

    def getxattr(self, header: Header, body: memoryview) -> Reply:
        """Return an attribute or its size."""
        size = abi.GETXATTR_IN.unpack_from(body)[0]
        name = os.fsdecode(_name(body, abi.GETXATTR_IN.size))
        return _sized(self.filesystem.getxattr(self._node(header.nodeid), name), size)

    def listxattr(self, header: Header, body: memoryview) -> Reply:
        """Return attribute names or their size."""
        size = abi.GETXATTR_IN.unpack_from(body)[0]
        names = self.filesystem.listxattr(self._node(header.nodeid))
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), size)

    def setxattr(self, header: Header, body: memoryview) -> Reply:
        """Set an attribute."""
        if self._setxattr_ext:
            size, flags, extra, _ = abi.SETXATTR_IN.unpack_from(body)
            rest = bytes(body[abi.SETXATTR_IN.size :])
        else:
            size, flags = abi.GETXATTR_IN.unpack_from(body)
            extra, rest = 0, bytes(body[abi.GETXATTR_IN.size :])
        name, _, value = rest.partition(b"\0")
        node = self._node(header.nodeid)
        self.filesystem.setxattr(node, os.fsdecode(name), value[:size], flags)
        if extra & 1:  # ACL_KILL_SGID: the kernel found the caller outside the file's group
            self.filesystem.clear_set_group_id(node)
        return b""

    def removexattr(self, header: Header, body: memoryview) -> Reply:
        """Remove an attribute."""
        self.filesystem.removexattr(self._node(header.nodeid), os.fsdecode(bytes(body[:-1])))
        return b""


def _name(body: memoryview, start: int) -> bytes:
    return bytes(body[start:]).split(b"\0", 1)[0]


def _moment(given: int, now_given: int, seconds: int, nanoseconds: int, now: int | None) -> int | None:
    if now_given:
        return now
    return seconds * _NANO + nanoseconds if given else None


def _sized(value: bytes, size: int) -> bytes:
    """Answer xattr requests: the size if the caller asks with 0, ERANGE if its buffer is too small."""
    if size == 0:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
