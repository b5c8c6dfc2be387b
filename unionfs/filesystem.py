# SPDX-License-Identifier: Apache-2.0
"""The union filesystem as a session sees it: one synchronous method per request, with numbers for nodes and handles.

Knows nothing of pyfuse3, trio or wire formats. Methods raise `OSError`, or `Deferred` with a job to run in a thread before
the same call is made again. Nothing here awaits, so each call is atomic with respect to the others.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from unionfs.branches import leftovers, whiteout
from unionfs.branches.branch import Branch, OpenBranch
from unionfs.handles.handles import DirectoryHandle, FileHandle, HandleTable, branch_flags
from unionfs.kernel import syscalls
from unionfs.kernel.descriptor import Descriptor, Errand, errand
from unionfs.kernel.reserve import room, spares
from unionfs.listing.readdir import Listing, Place
from unionfs.listing.records import Entry
from unionfs.listing.unopened import Listings
from unionfs.live.branch_lock import BranchLocks
from unionfs.operations import questions, surgery
from unionfs.operations.attributes import AttributeChanger, Changes
from unionfs.operations.copyup import CopyUps
from unionfs.operations.create import Caller, Creator
from unionfs.operations.flush_plinks import PlinkFlusher
from unionfs.operations.following import Following
from unionfs.operations.inode_flags import InodeFlags
from unionfs.operations.inspection import Inspector
from unionfs.operations.link import Linker
from unionfs.operations.movedown import move_down
from unionfs.operations.onopen import OnOpen
from unionfs.operations.policy import Policies
from unionfs.operations.remove import Remover
from unionfs.operations.rename import Renamer
from unionfs.options.aufs import Options
from unionfs.options.idmaps import IdMaps
from unionfs.plinks.pseudolinks import recover_plinks
from unionfs.tree import protection
from unionfs.tree.nodes import Attributes, Node
from unionfs.tree.open_files import Handles, OpenFile
from unionfs.tree.union import Union

log = logging.getLogger(__name__)

_ACLS = "system.posix_acl_"


def write_all(fd: int, data: memoryview, offset: int) -> int:
    """Write all of `data`, unless the branch runs full; return how much was written."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        try:
            count = os.pwrite(fd, data[written:], offset + written)
        except OSError:
            break  # report the short count now; the next write gets the error
        if count == 0:
            break
        written += count
    return written


class UnionFilesystem:
    """One mounted union: branches, nodes, handles and the operations on them."""

    def __init__(self, branches: Sequence[OpenBranch], options: Options, locks: BranchLocks) -> None:
        self.options = options
        self.ids = IdMaps.of(options)  # fixed for the life of a mount
        self.union = Union(branches, options, locks)
        self.handles = HandleTable()
        self.listings = Listings(self.union)
        self._own = room.begin(len(branches))
        spares.stock()
        self.policies = Policies(options)
        self.copyups = CopyUps(self.union, self.policies)
        self.following = Following(self.union, self.copyups)
        self._create = Creator(self.union, self.policies, self.copyups)
        self._remove = Remover(self.union, self.policies, self.copyups)
        self._rename = Renamer(self.union, self.policies, self.copyups, self._remove)
        self._link = Linker(self.union, self.policies, self.copyups)
        self._change = AttributeChanger(self.union, self.copyups)
        self.flags = InodeFlags(self.union, self.copyups)
        self._on_open = OnOpen(self.union, self.copyups)
        self._flusher = PlinkFlusher(self.union, self.copyups)
        self._inspect = Inspector(self.union, self.handles)
        # Set by the session: whether the kernel moves data by itself; drop what the kernel cached (everything after branch
        # surgery, or one name).
        self.passes_through = False
        self.invalidate_all: Callable[[], None] = lambda: None
        self.discarded = (
            False  # set by a caller that deletes the writable branches next: `close` flushes nothing
        )
        self.settled: Callable[[], Awaitable[None]] | None = None  # waits until the kernel has been told
        self.open_inodes: Callable[[], Iterable[tuple[int, int]]] = (
            tuple  # (pid, number) of directories, or more
        )
        self.options_changed: Callable[[], None] = lambda: None
        self.shown_status: Callable[[], dict[str, Any] | None] = lambda: None  # set by a server that has one
        self.session_state: Callable[[], dict[str, Any]] = dict  # what `status` shows of the session

    @classmethod
    def open(
        cls,
        branches: Sequence[Branch],
        options: Options,
        *,
        mountpoint: str | None = None,
        read_only: bool = False,
        overlap_ok: bool = False,
        held: int = -1,
    ) -> UnionFilesystem:
        """Open and check the branches (docs/aufs.md §1.4), lock the writable ones, make their marks, sweep what a kill left.

        Waits for a union that was unmounted and still writes to one of them; `held` is a descriptor of one that the caller has
        locked. Raises OSError with AUFS' errno (EBUSY for a branch of another union) and the reason as text; nothing stays open
        then.
        """
        opened = surgery.open_branches(
            branches, mountpoint=mountpoint, read_only=read_only or options.read_only, overlap_ok=overlap_ok,
            overlay=options.whiteout == "overlay",
        )  # fmt: skip
        locks = BranchLocks(held)
        try:
            for branch in opened:
                surgery.prepare(branch, options, locks, wait=True)
            filesystem = cls(opened, options, locks)
            recover_plinks(filesystem.union)
        except BaseException:
            for branch in opened:
                branch.close()
            locks.close()
            raise
        surgery.warn(opened, options)
        return filesystem

    # -- names --------------------------------------------------------------------------------------------------

    def node(self, nodeid: int) -> Node:
        """Return the node of a number from the kernel; ESTALE if it is unknown."""
        node = self.union.nodes.get(nodeid)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def lookup(self, parent: Node, name: bytes, caller: Caller | None = None) -> Attributes:
        """Find a name; the session counts a lookup on the node it reports to the kernel."""
        self.union.trim()
        if not self.options.dirperm1 and caller is not None:
            self._inspect.check_search(parent, caller)
        if name == b".":
            return self.union.attributes(parent)
        if name == b"..":
            return self.union.attributes(parent.parent or parent)
        return self.union.lookup(parent, name)

    def forget(self, nodeid: int, count: int) -> None:
        """Take back lookups; an unknown number is ignored, as there is nobody to tell."""
        self.union.nodes.forget_nodeid(nodeid, count)

    def getattr(self, node: Node, handle: int | None = None) -> Attributes:
        """Return a node's attributes."""
        return self.union.attributes(node)

    def setattr(self, node: Node, changes: Changes, handle: int | None = None) -> Attributes:
        """Change a node's attributes."""
        opened = self.handles[handle] if handle is not None else None
        if self.ids is not None:
            users, groups = self.ids
            uid = changes.uid if changes.uid is None else users.kept(changes.uid)
            gid = changes.gid if changes.gid is None else groups.kept(changes.gid)
            changes = changes._replace(uid=uid, gid=gid)
        return self._change.change(node, changes, opened if isinstance(opened, FileHandle) else None)

    def strip_privileges(self, node: Node, status: os.stat_result | None = None) -> bool:
        """Clear set-id bits and capabilities where the kernel leaves that to us (KILLPRIV_V2); False: there were none."""
        return self._change.strip_set_id(node, status)

    def clear_set_group_id(self, node: Node) -> None:
        """Clear set-group-ID where the kernel leaves that to us (SETXATTR_EXT)."""
        self._change.strip_set_gid(node)

    def readlink(self, node: Node) -> bytes:
        """Return a symbolic link's text."""
        if node.removed:
            return os.readlink(b"", dir_fd=self.union.held_fd(node))
        fd, name = self.union.home(node)
        return os.readlink(name, dir_fd=fd)

    def _maker(self, caller: Caller) -> Caller:
        """Return a caller with the ids that files get on branches."""
        ids = self.ids
        if ids is None:
            return caller
        return caller._replace(uid=ids.users.maker(caller.uid), gid=ids.groups.maker(caller.gid))

    # -- changes of names ---------------------------------------------------------------------------------------

    def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> Attributes:
        """Create a special (or regular) file."""
        return self._create.special(parent, name, mode, rdev, self._maker(caller))

    def mkdir(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Attributes:
        """Create a directory."""
        return self._create.directory(parent, name, mode, self._maker(caller))

    def symlink(self, parent: Node, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """Create a symbolic link."""
        return self._create.symlink(parent, name, target, self._maker(caller))

    def create(
        self, parent: Node, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Attributes, int]:
        """Create and open a regular file; return its attributes and the handle's number."""
        room.check_file()
        attributes, fd = self._create.file(parent, name, mode, self._maker(caller))
        return attributes, self._add_file(FileHandle(attributes.node, fd, flags, caller.pid))

    def tmpfile(self, parent: Node, mode: int, flags: int, caller: Caller) -> tuple[Attributes, int]:
        """Create a file without a name (O_TMPFILE); link(2) may give it one."""
        room.check_file()
        attributes, fd = self._create.unnamed(parent, mode, self._maker(caller))
        return attributes, self._add_file(FileHandle(attributes.node, fd, flags, caller.pid))

    def unlink(self, parent: Node, name: bytes) -> None:
        """Remove a file's name."""
        self._remove.unlink(parent, name)

    def rmdir(self, parent: Node, name: bytes) -> None:
        """Remove an empty directory."""
        self._remove.rmdir(parent, name)

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> None:
        """Rename, with renameat2's flags."""
        self._rename.rename(parent, name, new_parent, new_name, flags)

    def link(self, node: Node, parent: Node, name: bytes) -> Attributes:
        """Make a hard link; a lower file is copied up under the new name and both names stay one file."""
        return self._link.link(node, parent, name)

    # -- files --------------------------------------------------------------------------------------------------

    def open_file(self, node: Node, flags: int, caller: Caller) -> int:
        """Open a regular file and return the handle's number. Copies up only for O_TRUNC, coo, moo and overlayfs' way."""
        if node.traits.kind != stat.S_IFREG:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        room.check_file()
        self._on_open.prepare_file(node)
        if flags & os.O_ACCMODE:
            self.copyups.target(node)  # EROFS now, not at the first write
            assert node.branch is not None
            if not node.branch.writable or node.branch.overlay:
                protection.check_open(self.union, node, flags)
        if flags & os.O_TRUNC:
            fd = self._change.open_truncated(node, branch_flags(flags, writable=True), strip=caller.uid != 0)
            return self._add_file(FileHandle(node, fd, flags, caller.pid))
        if flags & os.O_ACCMODE and self.copies_up_at_open:
            # Overlayfs copies up at open, AUFS at the first write.
            self.copyups.ensure(node, allow=protection.appending(flags))
        assert node.branch is not None
        if node.branch.overlay:
            self.copyups.complete(node)
        opened = branch_flags(flags, writable=node.branch.writable)
        try:
            return self._open_visible(node, flags, opened, caller)
        except PermissionError as error:
            if error.errno != errno.EPERM or not flags & os.O_APPEND or not node.branch.writable:
                raise
        number = self._open_visible(node, flags, opened | os.O_APPEND, caller)
        self.handles.file(number).appends = True
        return number

    def _open_visible(self, node: Node, flags: int, opened: int, caller: Caller) -> int:
        """Open the visible copy with the flags `opened`, for a caller who gave `flags`."""
        size, elsewhere = -1, False
        assert node.branch is not None
        if node.parent is not None:
            fd, status, elsewhere = self.union.open_copy(node, opened)
            size = status.st_size
        elif node.branch.overlay:
            fd, elsewhere = self._open_held(node, opened)
        else:
            path = self.union.open_path(node)
            try:
                fd = os.open(whiteout.proc_path(path), opened)
            finally:
                os.close(path)
        return self._add_file(FileHandle(node, fd, flags, caller.pid, size=size, elsewhere=elsewhere))

    def _open_held(self, node: Node, flags: int) -> tuple[int, bool]:
        """Open a file that has no name any more, or where its data is; tell which of both."""
        path = self.union.open_path(node)
        try:
            marks = whiteout.marks_among(os.listxattr(whiteout.proc_path(path)))
            data = self.union.find_data(node, path, marks)
            try:
                return os.open(whiteout.proc_path(data if data >= 0 else path), flags), data >= 0
            finally:
                if data >= 0:
                    os.close(data)
        finally:
            os.close(path)

    def reopen(self, node: Node, opened: OpenFile, flags: int, caller: Caller) -> int:
        """Open for reading what `opened` has open, even if the file was copied up since; return the handle's number."""
        room.check_file()
        fd = os.open(whiteout.proc_path(opened.fd), branch_flags(flags, writable=False))
        handle = FileHandle(node, fd, flags, caller.pid, elsewhere=opened.elsewhere)
        return self._add_file(handle)

    def _add_file(self, handle: FileHandle) -> int:
        node = handle.node
        handles = node.handles
        if handles is None:
            handles = node.handles = Handles()
        handles.add(handle)
        return self.handles.add(handle)

    def file(self, number: int) -> FileHandle:
        """Return an open file; EBADF for any other number."""
        return self.handles.file(number)

    def writable_file(self, number: int) -> FileHandle:
        """Return an open file ready to be written to: the first write is what copies up."""
        handle = self.file(number)
        assert handle.node.branch is not None
        if not handle.node.branch.writable:
            self.copyups.ensure(handle.node, allow=protection.appending(handle.flags))
        return handle

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read up to `size` bytes."""
        return os.pread(self.file(number).fd, size, offset)

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Write all of `data`, unless the branch runs full; return how much was written."""
        return write_all(self.writable_file(number).fd, memoryview(data), offset)

    def write_back(self, number: int, *, data_only: bool) -> Errand:
        """Return what writes an open file (or directory) back."""
        handle = self.handles[number]
        if isinstance(handle, DirectoryHandle):
            return self.listings.write_back(handle.node)
        sync = os.fdatasync if data_only else os.fsync
        return errand(lambda: sync(handle.fd), handle)

    def write_back_all(self) -> Errand:
        """Return what writes back the filesystems of all writable branches."""
        # Of our own: a branch may be removed meanwhile.
        roots = tuple(Descriptor(os.dup(branch.root)) for branch in self.branches if branch.writable)

        def work() -> None:
            for root in roots:
                syscalls.sync_filesystem(root.fd)

        return Errand(work, roots)

    def release(self, number: int) -> None:
        """Close a handle."""
        handle = self.handles.pop(number)
        handle.close()
        node = handle.node
        if isinstance(handle, FileHandle):
            if node.handles is not None:
                node.handles.discard(handle)
                if not node.handles:
                    node.handles = None
        else:
            node.opens -= 1
        self.union.nodes.release(node)

    # -- directories --------------------------------------------------------------------------------------------

    def open_directory(self, node: Node, caller: Caller) -> int:
        """Open a directory for listing and return the handle's number."""
        self.union.trim()
        room.check_directory()
        self._on_open.prepare_directory(node)
        if not self.options.dirperm1:
            self._inspect.check_read(node, caller)
        handle = DirectoryHandle(node, Listing(self.union, node), caller.pid)
        node.opens += 1
        return self.handles.add(handle)

    def begin_listing(self, node: Node, caller: Caller) -> None:
        """Do what opening a directory does, before `list` from offset 0."""
        if not node.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self.union.trim()
        if node.removed:
            return
        self._on_open.prepare_directory(node)
        if not self.options.dirperm1:
            self._inspect.check_read(node, caller)

    def read_directory(self, number: int, offset: int) -> Iterator[tuple[Entry, Place | None]]:
        """Yield the entries from `offset`, and where each is if that is known."""
        return self.listing(self.directory(number), offset).read(offset)

    def listing(self, handle: DirectoryHandle, offset: int) -> Listing:
        """Return the listing of an open directory; from the beginning with the copies that it has by now."""
        if offset == 0 and handle.listing.dirs is not handle.node.dirs and not handle.node.removed:
            listing = Listing(self.union, handle.node)
            handle.listing.close()
            handle.listing = listing
        return handle.listing

    def directory(self, number: int) -> DirectoryHandle:
        """Return an open directory; ENOTDIR for an open file, EBADF for any other number."""
        handle = self.handles[number]
        if not isinstance(handle, DirectoryHandle):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return handle

    # -- the rest -----------------------------------------------------------------------------------------------

    def statfs(self) -> os.statvfs_result:
        """Return the first branch's numbers, or with `sum` the total over distinct filesystems; f_namemax is ours."""
        return self._inspect.statfs()

    def getxattr(self, node: Node, name: str) -> bytes:
        """Return an extended attribute, or the answer to a question about the union."""
        if name.startswith(questions.PREFIXES):
            return self._answer(node, name)
        value = self._change.get_xattr(node, name)
        if self.ids is not None and name.startswith(_ACLS):
            return self.ids.shown_acl(value)
        return value

    def _answer(self, node: Node, name: str) -> bytes:
        question, page = questions.parse(name, at_root=node is self.union.root)
        answer = self.shown_status() if question == "status" else questions.which(self.union, node)
        if answer is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return questions.page_of(answer, page)

    def listxattr(self, node: Node) -> list[str]:
        """Return the names of the extended attributes."""
        return self._change.list_xattrs(node)

    def setxattr(
        self, node: Node, name: str, value: bytes, flags: int = 0, *, caller: Caller | None = None
    ) -> None:
        """Set an extended attribute; an ACL set by a caller outside the file's group costs the set-group-ID bit."""
        if self.ids is not None and name.startswith(_ACLS):
            value = self.ids.kept_acl(value)
        self._change.set_xattr(node, name, value, flags)
        if (
            name == "system.posix_acl_access"
            and caller is not None
            and not self._inspect.is_in_group(node, caller, self.ids)
        ):
            self._change.strip_set_gid(node)

    def removexattr(self, node: Node, name: str) -> None:
        """Remove an extended attribute."""
        self._change.remove_xattr(node, name)

    # -- branches and maintenance -------------------------------------------------------------------------------

    @property
    def copies_up_at_open(self) -> bool:
        """Tell whether overlayfs' promise holds: copied up when opened for writing, old readers may keep the old file.

        Else it is AUFS': copied up at the first write, old readers see the new data. Where the kernel reads lower files by
        itself the first is the default, as it cannot be told to read another file.
        """
        default = "overlay" if self.passes_through else self.options.whiteout
        return (self.options.coherence or default) == "overlay"

    @property
    def branches(self) -> tuple[OpenBranch, ...]:
        """Return the branches, top first."""
        return self.union.branches

    def use_options(self, options: Options) -> None:
        """Use other options from now on; `remount` decides which may change."""
        self.options = options
        self.union.change_options(options)
        self.policies.set_options(options)
        self.options_changed()

    def busy(self, branch: OpenBranch | None) -> list[tuple[int, str]]:
        """Return (pid, path in the union) of what keeps a branch busy."""
        return self._inspect.busy(branch, self.open_inodes())

    def make_room(self) -> bool:
        """Close all that is only kept for speed, after an operation found no descriptor; tell whether there was any."""
        before = len(self.union.directories) + self.listings.descriptors
        self.union.directories.close_all()
        self.listings.make_room()
        return len(self.union.directories) + self.listings.descriptors < before

    def flush_plinks(self) -> int:
        """Turn pseudo-links into real links; return how many names were linked. EINTR if `end_flush` was called."""
        try:
            return self._flusher.flush()
        except OSError as error:
            if not self.notice(error):
                raise
        return self._flusher.flush()

    def end_flush(self) -> None:
        """End a flush that is at work, for good: the next mount takes the pseudo-links up. May be called by a signal handler."""
        self._flusher.end()

    def notice(self, error: OSError) -> bool:
        """After an error look whether branches are lost, or back; tell whether what was asked is worth another try."""
        changed = self.union.look_for_lost(error)
        for branch in changed:
            self.listings.abandon(branch)
        if changed:
            self.invalidate_all()
        return bool(changed)

    def which(self, path: bytes) -> list[dict[str, Any]]:
        """Return per branch what it has at `path` (relative to the union's root) and why it shows or not."""
        return self._inspect.which(path)

    def move_down(self, path: bytes, *, overwrite: bool = False, keep: bool = False) -> str:
        """Move a file from its top branch to the next lower writable one; return that branch (AUFS' mvdown)."""
        result = move_down(self.union, self.copyups, path, overwrite=overwrite, keep=keep)
        self.invalidate_all()
        return result

    def delete_later(self, directory: int, name: bytes) -> None:
        """Delete what was set aside as `name` in `directory`, when nothing waits for us."""
        self._remove.delete_later(directory, name)

    def counters(self) -> dict[str, int]:
        """Return sizes of the tables, for status and tests."""
        return {
            "nodes": len(self.union.nodes),
            "handles": len(self.handles),
            "descriptors": len(self.union.directories) + self.listings.descriptors,
            "plinks": len(self.union.plinks),
            "copy_ups": self.copyups.finished,
        }

    def set_background(self, *, inline_limit: int | None, delete_later: Callable[[int, bytes], None]) -> None:
        """Let a session take over long work: bigger copies are deferred, big deletions are handed to `delete_later`."""
        self.copyups.inline_limit = inline_limit
        self._remove.delete_later = delete_later

    def close(self) -> None:
        """Flush pseudo-links, unless the branches are discarded, and close every descriptor."""
        self.copyups.inline_limit = None
        self._remove.delete_later = leftovers.discard
        try:
            if not self.discarded:
                self.flush_plinks()
        except InterruptedError:
            log.warning("pseudo-links are not flushed, as a signal came; the next mount takes them up")
        except OSError as error:
            log.error("pseudo-links are not flushed: %s", error)
        if self.options.whiteout == "overlay":
            self.union.bookkeeping.remove_plink_dirs(self.union.branches)
        self.copyups.close()
        leftovers.retry()
        self.handles.close()
        self.listings.close()
        self.union.close()
        room.held -= self._own
