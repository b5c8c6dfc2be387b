# SPDX-License-Identifier: Apache-2.0
"""pyfuse3's handlers: libfuse's requests become calls of `UnionFilesystem`, inline and one at a time.

What blocks for long (copying up, fsync, reads that miss the page cache, deleting many whiteouts) goes to threads. What
pyfuse3 cannot express is listed in docs/semantics.md.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyfuse3 calls by position: its own names of the arguments (`parent_inode`) are longer.

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields, StatvfsData

from unionfs.branches.copydata import CopyJob, Deferred
from unionfs.filesystem import UnionFilesystem
from unionfs.handles.handles import FileHandle, write_all
from unionfs.kernel.descriptor import Errand
from unionfs.operations.attributes import Changes
from unionfs.session import threads
from unionfs.session.cached_names import CachedNames
from unionfs.session.pyfuse3.answers import answered, caller_of, file_info
from unionfs.tree.nodes import Attributes, Node

if TYPE_CHECKING:
    from unionfs.session.latencies import Statistics

log = logging.getLogger(__name__)
T = TypeVar("T")

FOREVER = 1e9  # seconds; the kernel caps it
_REVAL_SECONDS = 1.0
_S_IFREG = 0o100000


class Operations(pyfuse3.Operations):
    """pyfuse3's handlers; see its documentation for their contracts."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: UnionFilesystem, statistics: Statistics) -> None:
        super().__init__()
        self.filesystem = filesystem
        self.statistics = statistics
        self.cached = CachedNames()
        self.enable_acl = filesystem.options.acl
        self.use_options()

    def use_options(self) -> None:
        """Take the timeouts from the options in force."""
        options = self.filesystem.options
        short = options.udba == "reval"
        self.attr_timeout = _REVAL_SECONDS if short else FOREVER
        self.entry_timeout = 0.0 if not options.dirperm1 else self.attr_timeout
        # A name that is absent may be made behind our back at any time: only cached where nobody does, or we are told.
        self.negative_timeout = 0.0 if short else self.entry_timeout

    # -- plumbing -----------------------------------------------------------------------------------------------

    async def call(
        self, operation: Callable[..., T], *arguments: Any, **named: Any
    ) -> T:  # Any: passed through
        """Call the filesystem; when it needs long work done first, do that in a thread and call again."""
        done: CopyJob | None = None
        while True:
            try:
                return operation(*arguments, **named)
            except Deferred as deferred:
                job = deferred.job
            finally:
                if done is not None:
                    self.filesystem.leave_copy(done)
            await threads.run(job.run)
            done = job

    async def do_errand(self, errand: Errand) -> None:
        """Do an errand in a thread."""
        try:
            await threads.run(errand.function)
        finally:
            errand.drop()

    async def in_thread(
        self, handle: FileHandle, call: Callable[..., T], *arguments: Any
    ) -> T:  # Any: passed on
        """Call in a thread, for which the handle's descriptor is kept open."""
        handle.hold()
        try:
            return await threads.run(functools.partial(call, *arguments))
        finally:
            handle.drop()

    def entry(self, attributes: Attributes) -> EntryAttributes:
        """Return pyfuse3's form of attributes."""
        node, status, nlink = attributes
        if self.filesystem.ids is not None:
            status = self.filesystem.ids.status(status)
        entry = EntryAttributes()
        entry.st_ino = node.ino  # sets the nodeid too: in this session both are one number
        entry.generation = node.traits.generation
        entry.entry_timeout = self.entry_timeout
        entry.attr_timeout = self.attr_timeout
        entry.st_mode = status.st_mode
        entry.st_nlink = nlink
        entry.st_uid = status.st_uid
        entry.st_gid = status.st_gid
        entry.st_rdev = status.st_rdev
        entry.st_size = status.st_size
        entry.st_blksize = status.st_blksize
        entry.st_blocks = status.st_blocks
        entry.st_atime_ns = status.st_atime_ns
        entry.st_mtime_ns = status.st_mtime_ns
        entry.st_ctime_ns = status.st_ctime_ns
        return entry

    def looked_up(self, attributes: Attributes) -> EntryAttributes:
        """Return attributes of a name that the kernel will remember, and count that."""
        attributes.node.lookups += 1
        return self.entry(attributes)

    def node(self, nodeid: int) -> Node:
        """Return a node."""
        return self.filesystem.node(nodeid)

    # -- names --------------------------------------------------------------------------------------------------

    @answered
    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            return self.looked_up(self.filesystem.lookup(self.node(parent), name, caller_of(ctx)))
        except FileNotFoundError:
            if not self.negative_timeout:
                raise
            self.cached.absent(parent, name)
            absent = EntryAttributes()
            absent.st_ino = 0
            absent.entry_timeout = self.negative_timeout
            return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for nodeid, count in inode_list:
            try:
                self.filesystem.forget(nodeid, count)
            except Exception:
                log.exception("forget of node %d failed", nodeid)

    @answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self.entry(self.filesystem.getattr(self.node(inode)))

    @answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self.entry(await self.call(self.filesystem.setattr, self.node(inode), changes, fh))

    @answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self.filesystem.readlink(self.node(inode))

    @answered
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self.looked_up(
            await self.call(self.filesystem.mknod, self.node(parent), name, mode, rdev, caller_of(ctx))
        )

    @answered
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self.looked_up(
            await self.call(self.filesystem.mkdir, self.node(parent), name, mode, caller_of(ctx))
        )

    @answered
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self.looked_up(
            await self.call(self.filesystem.symlink, self.node(parent), name, target, caller_of(ctx))
        )

    @answered
    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self.call(self.filesystem.unlink, self.node(parent), name)

    @answered
    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self.call(self.filesystem.rmdir, self.node(parent), name)

    @answered
    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self.call(
            self.filesystem.rename, self.node(parent_old), name_old, self.node(parent_new), name_new, flags
        )

    @answered
    async def link(
        self, inode: int, new_parent: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self.looked_up(
            await self.call(self.filesystem.link, self.node(inode), self.node(new_parent), new_name)
        )

    # -- files --------------------------------------------------------------------------------------------------

    @answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        handle = await self.call(self.filesystem.open_file, self.node(inode), flags, caller_of(ctx))
        return file_info(self.filesystem.file(handle), handle, flags)

    @answered
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        attributes, handle = await self.call(
            self.filesystem.create, self.node(parent), name, mode, flags, caller_of(ctx)
        )
        return file_info(self.filesystem.file(handle), handle, flags), self.looked_up(attributes)

    @answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read what the page cache has inline; go to a thread only for what must come from the disk."""
        handle = self.filesystem.file(fh)
        fd = handle.fd
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], off, os.RWF_NOWAIT)
        except BlockingIOError:
            return await self.in_thread(handle, os.pread, fd, size, off)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return os.pread(fd, size, off)
        if 0 < count < size:  # the end of the file, or the end of what is cached
            count += await self.in_thread(handle, os.preadv, fd, [memoryview(buffer)[count:]], off + count)
        del buffer[count:]
        return cast(bytes, buffer)  # pyfuse3 takes any buffer, its type says bytes

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        handle = await self.call(self.filesystem.writable_file, fh)
        if handle.flags & (os.O_SYNC | os.O_DSYNC):
            return await self.in_thread(handle, write_all, handle.fd, memoryview(buf), off)
        return write_all(handle.fd, memoryview(buf), off)

    @answered
    async def flush(self, fh: int) -> None:
        """Close by one user: nothing is buffered here, so there is nothing to do."""

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.do_errand(self.filesystem.write_back(fh, data_only=bool(datasync)))

    @answered
    async def release(self, fh: int) -> None:
        self.filesystem.release(fh)

    # -- directories --------------------------------------------------------------------------------------------

    @answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return await self.call(self.filesystem.open_directory, self.node(inode), caller_of(ctx))

    @answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Answer with attributes: pyfuse3 knows READDIRPLUS only, so each entry is looked up."""
        filesystem = self.filesystem
        directory = filesystem.directory(fh).node
        at_end = True
        for listed, place in filesystem.read_directory(fh, start_id):
            at_end = False
            if listed.name in (b".", b".."):
                entry = EntryAttributes()
                entry.st_ino = listed.ino
                entry.st_mode = listed.kind << 12
                if not pyfuse3.readdir_reply(token, listed.name, entry, listed.offset):
                    break
                continue
            try:
                attributes = filesystem.lookup_listed(
                    directory, listed.name, place if listed.is_single else None
                )
            except FileNotFoundError:
                continue
            except OSError:
                # It exists but cannot be looked up (a name over the limit, corrupt marks): list it, and let stat say why.
                entry = EntryAttributes()
                entry.st_ino = listed.ino
                entry.st_mode = (listed.kind << 12) or _S_IFREG
                entry.entry_timeout = entry.attr_timeout = 0
                if not pyfuse3.readdir_reply(token, listed.name, entry, listed.offset):
                    break
                continue
            if not pyfuse3.readdir_reply(token, listed.name, self.entry(attributes), listed.offset):
                filesystem.forget(attributes.node.nodeid, 0)  # unless something else needs it
                break
            attributes.node.lookups += 1
        if at_end:
            filesystem.check_complete(directory)  # a listing is not taken for whole

    @answered
    async def releasedir(self, fh: int) -> None:
        self.filesystem.release(fh)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.do_errand(self.filesystem.write_back(fh, data_only=bool(datasync)))

    # -- the rest -----------------------------------------------------------------------------------------------

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        status = self.filesystem.statfs()
        data = StatvfsData()
        for field in (
            "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax",
        ):  # fmt: skip
            setattr(data, field, getattr(status, field))
        return data

    @answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return self.filesystem.getxattr(self.node(inode), os.fsdecode(name))

    @answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return [os.fsencode(name) for name in self.filesystem.listxattr(self.node(inode))]

    @answered
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        await self.call(
            self.filesystem.setxattr, self.node(inode), os.fsdecode(name), value, caller=caller_of(ctx)
        )

    @answered
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self.call(self.filesystem.removexattr, self.node(inode), os.fsdecode(name))

    @answered
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Only asked without default_permissions; the kernel checks otherwise."""
        return True
