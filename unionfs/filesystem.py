# SPDX-License-Identifier: Apache-2.0
"""The union filesystem as a session sees it: one synchronous method per request, and all that a session or server knows of it.

A request's file is a node (`node` turns the kernel's number into one), an open file or directory is a handle's number.

Knows nothing of pyfuse3, trio or wire formats. Methods raise `OSError`, or `Deferred` with a job to run in a thread before
the same call is made again. Nothing here awaits, so each call is atomic with respect to the others.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
from collections.abc import Sequence
from typing import Any

from unionfs.branches import leftovers
from unionfs.branches.branch import Branch, OpenBranch
from unionfs.handles.handles import DirectoryHandle, FileHandle, HandleTable, write_all
from unionfs.kernel import syscalls
from unionfs.kernel.descriptor import Errand, errand
from unionfs.kernel.reserve import is_exhausted, room, spares
from unionfs.listing.unopened import Listings
from unionfs.live.branch_lock import BranchLocks
from unionfs.operations import surgery
from unionfs.operations.attributes import AttributeChanger, Changes
from unionfs.operations.branch_list import BranchList
from unionfs.operations.copyup import CopyUps
from unionfs.operations.create import Caller, Creator
from unionfs.operations.flush_plinks import PlinkFlusher
from unionfs.operations.following import Following
from unionfs.operations.inode_flags import InodeFlags
from unionfs.operations.inspection import Inspector
from unionfs.operations.link import Linker
from unionfs.operations.movedown import move_down
from unionfs.operations.onopen import OnOpen
from unionfs.operations.open_directories import OpenDirectories
from unionfs.operations.opening import Opener
from unionfs.operations.policy import Policies
from unionfs.operations.remove import Remover
from unionfs.operations.rename import Renamer
from unionfs.operations.xattrs import Xattrs
from unionfs.options.aufs import Options
from unionfs.options.idmaps import IdMaps
from unionfs.plinks.pseudolinks import recover_plinks
from unionfs.tree.nodes import Attributes, Node
from unionfs.tree.port import Host, NoSession, Session
from unionfs.tree.union import Union

log = logging.getLogger(__name__)


class UnionFilesystem:
    """One mounted union: branches, nodes, handles and the operations on them."""

    def __init__(
        self,
        branches: Sequence[OpenBranch],
        options: Options,
        locks: BranchLocks,
        *,
        discarded: bool = False,
    ) -> None:
        self.options = options
        self.ids = IdMaps.of(options)  # fixed for the life of a mount
        # Whether the kernel moves data by itself, and what follows from that: see `let_pass`.
        self.passes_through = False
        self._discarded = discarded
        self._union = union = Union(branches, options, locks)
        self._handles = HandleTable()
        self._listings = Listings(union)
        self._own = room.begin(len(branches))
        spares.stock()
        self._policies = policies = Policies(options)
        self._copyups = copyups = CopyUps(union, policies)
        self._create = Creator(union, policies, copyups)
        self._remove = Remover(union, policies, copyups)
        self._on_open = OnOpen(union, copyups)
        self._change = AttributeChanger(union, copyups)
        self._opener = Opener(union, self._handles, copyups, self._on_open, self._change)
        self._flusher = PlinkFlusher(union, copyups)
        self._inspect = Inspector(union, self._handles)
        self._xattrs = Xattrs(union, self._change, self._inspect, self.ids)
        self._list = BranchList(union, self._listings, self._inspect, self.flush_plinks)
        self._bind()
        self._decide_copy_up()

    def _bind(self) -> None:
        """Give what one part of the core does by itself the names that sessions use; a method of ours would be a call more."""
        union, copyups, opener = self._union, self._copyups, self._opener
        # Nodes and names. `node`: of a number from the kernel.
        self.node, self.renumber = union.nodes.known, union.renumber
        self.renew_unopened = union.nodes.renew_unopened
        self._trim, self._look = union.trim, union.look
        self.lookup_listed, self.check_complete = union.lookup_listed, union.directories.check_known
        self.forget = union.nodes.forget_nodeid
        self.unlink, self.rmdir = self._remove.unlink, self._remove.rmdir
        self.rename = Renamer(union, self._policies, copyups, self._remove).rename
        self.link = Linker(union, self._policies, copyups).link
        # Attributes.
        self.getattr, self.attributes_now = union.attributes, union.attributes_now
        self.strip_privileges, self.clear_set_group_id = self._change.strip_set_id, self._change.strip_set_gid
        self.getxattr, self.setxattr = self._xattrs.get, self._xattrs.set
        self.listxattr, self.removexattr = self._change.list_xattrs, self._change.remove_xattr
        self.readlink, self.birth = union.copies.readlink, union.copies.birth
        flags = InodeFlags(union, copyups)
        self.get_flags, self.get_extended_flags = flags.get, flags.get_extended
        self.set_flags, self.set_extended_flags = flags.set, flags.set_extended
        self.statfs = self._inspect.statfs
        # Files.
        self.open_file, self.reopen, self.release = opener.open, opener.reopen, opener.release
        self.file, self.writable_file = self._handles.file, opener.writable_file
        self.make_writable, self.leave_copy = opener.make_writable, copyups.leave
        self._following = Following(union, copyups)
        self.follow, self.forget_unused_overlays = self._following.open, self._following.forget_unused
        # Directories.
        directories = OpenDirectories(union, self._handles, self._on_open, self._inspect)
        self.open_directory, self.begin_listing = directories.open, directories.begin
        self.read_directory, self.listing = directories.read, directories.listing
        self.directory, self.watch_directories = directories.handle, union.directories.watch
        self.list_unopened, self.write_back_directory = self._listings.read, self._listings.write_back
        # Branches.
        self.add_branch, self.delete_branch = self._list.add, self._list.delete
        self.modify_branch, self.find_branch, self.busy = self._list.modify, self._list.find, self._list.busy
        self.write_back_all = self._list.write_back_all
        self.lost_reason = union.directories.lost.reason
        self.which, self.end_flush = self._inspect.which, self._flusher.end

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
        discarded: bool = False,
    ) -> UnionFilesystem:
        """Open and check the branches (docs/aufs.md §1.4), lock the writable ones, make their marks, sweep what a kill left.

        Waits for a union that was unmounted and still writes to one of them; `held` is a descriptor of one that the caller has
        locked. With `discarded` the caller deletes the writable branches next, so `close` flushes nothing. Raises OSError with
        AUFS' errno (EBUSY for a branch of another union) and the reason as text; nothing stays open then.
        """
        opened = surgery.open_branches(
            branches, mountpoint=mountpoint, read_only=read_only or options.read_only, overlap_ok=overlap_ok,
            overlay=options.whiteout == "overlay",
        )  # fmt: skip
        locks = BranchLocks(held)
        try:
            for branch in opened:
                surgery.prepare(branch, options, locks, wait=True)
            filesystem = cls(opened, options, locks, discarded=discarded)
            recover_plinks(filesystem._union)
        except BaseException:
            for branch in opened:
                branch.close()
            locks.close()
            raise
        surgery.warn(opened, options)
        return filesystem

    # -- those outside ------------------------------------------------------------------------------------------

    def attach(self, session: Session) -> None:
        """Let `session` tell the kernel what is no longer so, and take over long work, until `detach`."""
        self._union.attach(session)

    def detach(self) -> None:
        """Do everything by ourselves again: the session is over."""
        self._union.attach(NoSession())

    def attach_host(self, host: Host) -> None:
        """Let the server that the mount belongs to tell what is asked of it."""
        self._xattrs.host = self._list.host = host

    @property
    def overlays(self) -> int:
        """Return how many private overlays lower files are read through."""
        return len(self._following)

    def let_pass(self, passes: bool) -> None:
        """Take note of whether the kernel moves data by itself."""
        self.passes_through = passes
        self._decide_copy_up()

    def _decide_copy_up(self) -> None:
        """Decide whether overlayfs' promise holds: copied up when opened for writing, old readers may keep the old file.

        Else it is AUFS': copied up at the first write, old readers see the new data. Where the kernel reads lower files by
        itself the first is the default, as it cannot be told to read another file.
        """
        default = "overlay" if self.passes_through else self.options.whiteout
        decided = (self.options.coherence or default) == "overlay"
        self.copies_up_at_open = self._opener.copies_up_at_open = decided

    def session_state(self) -> dict[str, Any]:
        """Return what `status` shows of the session."""
        return self._union.session.state()

    async def settled(self) -> None:
        """Wait until the kernel has been told what changes of branches and options have made untrue."""
        await self._union.session.settled()

    def invalidate_all(self) -> None:
        """Drop what the kernel cached."""
        self._union.session.all_changed()

    # -- names --------------------------------------------------------------------------------------------------

    def look(self, parent: Node, name: bytes, caller: Caller | None = None) -> Attributes | None:
        """Find a name, None if there is none; the session counts a lookup on the node it reports to the kernel.

        With `nodirperm1` the `caller` needs the right to search the directory on every branch: EACCES. ENAMETOOLONG, EPERM (a
        reserved name), EIO and BranchLost as `Union.look`.
        """
        self._trim()
        if caller is not None and not self.options.dirperm1:
            self._inspect.check_search(parent, caller)
        if name[:1] == b"." and name in (b".", b".."):
            return self._union.attributes(parent if name == b"." else parent.parent or parent)
        return self._look(parent, name)

    def lookup(self, parent: Node, name: bytes, caller: Caller | None = None) -> Attributes:
        """Find a name; ENOENT if there is none, and what `look` raises."""
        attributes = self.look(parent, name, caller)
        if attributes is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return attributes

    def nodes(self) -> list[Node]:
        """Return all that the kernel knows, and what leads there."""
        return list(self._union.nodes)

    def setattr(self, node: Node, changes: Changes, handle: int | None = None) -> Attributes:
        """Change a node's attributes."""
        opened = self._handles[handle] if handle is not None else None
        if self.ids is not None:
            users, groups = self.ids
            uid = changes.uid if changes.uid is None else users.kept(changes.uid)
            gid = changes.gid if changes.gid is None else groups.kept(changes.gid)
            changes = changes._replace(uid=uid, gid=gid)
        return self._change.change(node, changes, opened if isinstance(opened, FileHandle) else None)

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
        return attributes, self._opener.add(FileHandle(attributes.node, fd, flags, caller.pid))

    def tmpfile(self, parent: Node, mode: int, flags: int, caller: Caller) -> tuple[Attributes, int]:
        """Create a file without a name (O_TMPFILE); link(2) may give it one."""
        room.check_file()
        attributes, fd = self._create.unnamed(parent, mode, self._maker(caller))
        return attributes, self._opener.add(FileHandle(attributes.node, fd, flags, caller.pid))

    # -- files --------------------------------------------------------------------------------------------------

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read up to `size` bytes."""
        return os.pread(self.file(number).fd, size, offset)

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Write all of `data`, unless the branch runs full; return how much was written."""
        return write_all(self.writable_file(number).fd, memoryview(data), offset)

    def write_back(self, number: int, *, data_only: bool) -> Errand:
        """Return what writes an open file (or directory) back."""
        handle = self._handles[number]
        if isinstance(handle, DirectoryHandle):
            return self._listings.write_back(handle.node)
        sync = os.fdatasync if data_only else os.fsync
        return errand(lambda: sync(handle.fd), handle)

    # -- branches and maintenance -------------------------------------------------------------------------------

    @property
    def branches(self) -> tuple[OpenBranch, ...]:
        """Return the branches, top first."""
        return self._union.branches

    def use_options(self, options: Options) -> None:
        """Use other options from now on; `remount` decides which may change."""
        self.options = options
        self._union.change_options(options)
        self._policies.set_options(options)
        self._decide_copy_up()
        self._union.session.options_changed()

    def make_room(self) -> bool:
        """Close all that is only kept for speed, after an operation found no descriptor; tell whether there was any."""
        before = len(self._union.directories) + self._listings.descriptors
        self._union.directories.close_all()
        self._listings.make_room()
        return len(self._union.directories) + self._listings.descriptors < before

    def flush_plinks(self) -> int:
        """Turn pseudo-links into real links; return how many names were linked. EINTR if `end_flush` was called."""
        try:
            return self._flusher.flush()
        except OSError as error:
            if not self.notice(error) and not (is_exhausted(error) and self.make_room()):
                raise
        return self._flusher.flush()

    def notice(self, error: OSError) -> bool:
        """After an error look whether branches are lost, or back; tell whether what was asked is worth another try."""
        changed = self._union.look_for_lost(error)
        for branch in changed:
            self._listings.abandon(branch)
        if changed:
            self.invalidate_all()
        return bool(changed)

    def move_down(self, path: bytes, *, overwrite: bool = False, keep: bool = False) -> str:
        """Move a file from its top branch to the next lower writable one; return that branch (AUFS' mvdown)."""
        result = move_down(self._union, self._copyups, path, overwrite=overwrite, keep=keep)
        self.invalidate_all()
        return result

    def doubt(self) -> None:
        """Somebody else has changed the branches: look at them anew, and let the kernel do so."""
        self._union.doubt()
        self.invalidate_all()

    def orphans(self, branch: OpenBranch) -> int:
        """Return the descriptor of the directory where what goes from a branch's root lies until it is deleted; ours."""
        return self._union.stage_dir(branch, branch.root)

    def delete_later(self, directory: int, name: bytes) -> None:
        """Delete what was set aside as `name` in `directory`, when nothing waits for us."""
        self._union.session.delete_later(directory, name)

    def give_back(self) -> None:
        """Give memory back after most nodes were forgotten: what is known of names goes, too."""
        self._union.known.clear()
        self._listings.give_back()
        gc.collect()  # else free lists keep a few blocks of every arena in use
        self._union.nodes.compact()
        syscalls.malloc_trim()

    def counters(self) -> dict[str, int]:
        """Return sizes of the tables, for status and tests."""
        return {
            "nodes": len(self._union.nodes),
            "handles": len(self._handles),
            "descriptors": len(self._union.directories) + self._listings.descriptors,
            "plinks": len(self._union.plinks),
            "copy_ups": self._copyups.finished,
        }

    def close(self) -> None:
        """Flush pseudo-links, unless the branches are discarded, and close every descriptor."""
        self.detach()
        # The kernel drops what it had to say of them when the mount goes, and the flush needs descriptors.
        for handle in self._handles:
            self.release(handle.number)
        try:
            if not self._discarded:
                self.flush_plinks()
        except InterruptedError:
            log.warning("pseudo-links are not flushed, as a signal came; the next mount takes them up")
        except OSError as error:
            log.error("pseudo-links are not flushed: %s", error)
        if self.options.whiteout == "overlay":
            self._union.bookkeeping.remove_plink_dirs(self._union.branches)
        self._copyups.close()
        leftovers.retry()
        self._handles.close()
        self._listings.close()
        self._union.close()
        room.held -= self._own
