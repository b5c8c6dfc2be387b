# SPDX-License-Identifier: Apache-2.0
"""Passthrough: let the kernel read, write and map branch files by itself, without asking the server.

Owns the registered files (`Backing`) of one mount and the rule which opens pass through. The kernel allows one I/O mode per
nodeid at a time, so the first open decides for all until the last is released:

    idle      no open file
    ordinary  READ and WRITE requests, cached by the kernel; copied-up files are switched under the readers
    passing   the kernel uses the registered file; the same registration for every open

What an open meets (`plan`):

    state      branch of the file       open        answer
    idle       writable                 any         passing
    idle       not writable             to read     passing with overlayfs' promise, or if nothing can be copied up
    idle       not writable             otherwise   ordinary: a write through the registered file would change the branch
    ordinary   any                      any         ordinary
    passing    writable, or to read     any         passing, with the same registration
    passing    not writable             to write    stale: the next LOOKUP gives a new nodeid, which is idle

What is registered for a lower file is the file as a private overlay shows it (`following`): its readers follow a copy-up,
and the writer gets the same registration. Where that is impossible only programs and libraries pass. A copy-up that is not
followed gives the file a new nodeid too (`Union.renumber`): later opens get ESTALE once, upon which the kernel looks the name up
again by itself, and the old readers keep the old file. With overlayfs' promise opening for writing copies up first, so the last
row is left to unions that got a writable branch meanwhile. Opens of a former nodeid that do not come from a name
(`/proc/self/fd/N` of an old reader) get the old file.

Empty files of branches that are not writable are ordinary: there is nothing to read, and processes that lock such a file go
on sharing one nodeid. Small ones are ordinary to read where the kernel can be given their data at once (smallfiles.py). Size
is no reason otherwise: a first open, read, close of 4 KiB took 63 µs passing and 148 µs with a READ.

The kernel must offer it, and the server must have CAP_SYS_ADMIN in the first user namespace. If one registration fails (a
branch on a stacked filesystem, no memory), that open is ordinary, and counted. Source: Linux, fs/fuse/iomode.c, passthrough.c.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from enum import Enum
from typing import Any

from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import filesystem_of
from unionfs.filesystem import UnionFilesystem
from unionfs.handles.handles import FileHandle
from unionfs.kernel import syscalls
from unionfs.operations.create import Caller
from unionfs.session import abi
from unionfs.session.direct.smallfiles import LIMIT, SmallFiles
from unionfs.session.notify import Notifier
from unionfs.tree.nodes import Node
from unionfs.tree.open_files import Backing, OpenFile

log = logging.getLogger(__name__)

_CAP_SYS_ADMIN = 21
_ALL_IDS = ["0", "0", "4294967295"]
_OVERLAY_MAGIC = 0x794C7630
_FMODE_EXEC = 0x20  # execve(2) opens with it
_ELF = b"\x7fELF"
_REFUSALS_KEPT = 1024
_AT_ONCE_SECONDS = 1.0
# What a filesystem answers whose files cannot be passed through at all.
_NEVER = (errno.ELOOP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EPERM)


FLAGS = abi.FOPEN_PASSTHROUGH | abi.FOPEN_NOFLUSH  # the kernel allows no others that would help


class Plan(Enum):
    """What an open is answered with."""

    PASSING = "passing"
    ORDINARY = "ordinary"
    STALE = "stale"


def plan(*, passing: bool, ordinary: bool, writable: bool, writes: bool, keeps: bool) -> Plan:
    """Decide on an open: `passing` and `ordinary` tell the state of the nodeid, `writable` the branch.

    `keeps`: a reader of a file on a branch that is not writable may keep that file whatever happens to it later.
    """
    if passing:
        return Plan.STALE if writes and not writable else Plan.PASSING
    if ordinary:
        return Plan.ORDINARY
    if writable or (keeps and not writes):
        return Plan.PASSING
    return Plan.ORDINARY


def open_flags(handle: FileHandle) -> int:
    """Return how the kernel is to use a handle that passes through; with DIRECT_IO only mappings of it do.

    With O_DIRECT the file that the kernel opens for itself gets the caller's flag and keeps it when fcntl(F_SETFL) takes it off,
    as dd(1) does for its last, short block. And a private overlay synchronizes no write, whatever O_SYNC and RWF_DSYNC ask for.
    """
    if handle.flags & os.O_DIRECT or (
        handle.writes and handle.backing is not None and handle.backing.followed
    ):
        return FLAGS | abi.FOPEN_DIRECT_IO
    return FLAGS


def refusal() -> str:
    """Return why this process may not register files ("" if it may)."""
    with open("/proc/thread-self/status", encoding="ascii") as lines:
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    if not effective >> _CAP_SYS_ADMIN & 1:
        return "the server lacks CAP_SYS_ADMIN"
    with open("/proc/thread-self/uid_map", encoding="ascii") as lines:
        if lines.read().split() != _ALL_IDS:
            return "the server is in a user namespace"
    return ""


def stack_depth(branches: tuple[OpenBranch, ...], *, stackable: bool) -> int:
    """Return how deep the kernel is to count this mount: 1, or 2 if files on overlays are to be registered.

    At 1 overlayfs can have this mount as a layer; at 2 a branch can be an overlay, and readers can follow a copy-up.
    """
    stacked = any(syscalls.filesystem_magic(branch.root) == _OVERLAY_MAGIC for branch in branches)
    copies = any(branch.writable for branch in branches)
    return 2 if stacked or (copies and not stackable) else 1


class Passthrough:
    """The registered files of one mount."""

    def __init__(self, filesystem: UnionFilesystem, device_fd: int, notifier: Notifier) -> None:
        self._filesystem = filesystem
        self._device = device_fd
        self._notifier = notifier
        self.on = False
        self.why = "the kernel has not been asked yet"
        self._refused: set[int] = set()  # filesystems whose files cannot be registered
        # (nodeid, pid) of opens answered ESTALE -> the node's lookups then, and when that was
        self._stale: dict[tuple[int, int], tuple[int, float]] = {}
        self._depth = 1
        self._unfollowed: set[int] = set()  # branches whose files cannot be registered through an overlay
        self.registered = 0  # now
        self.opens = 0  # since the mount
        self.fallbacks = 0
        self.small = SmallFiles(filesystem, device_fd)

    # -- agreeing -----------------------------------------------------------------------------------------------

    def agree(self, offered: int) -> int:
        """Given the second word of INIT flags, return the stack depth to answer with; 0 for no passthrough."""
        self.why = self._refusal(offered)
        self.on = not self.why
        self._filesystem.let_pass(self.on)
        if not self.on:
            return 0
        self.why = "the kernel offers it and the server may"
        options = self._filesystem.options
        self._depth = stack_depth(self._filesystem.branches, stackable=options.stackable)
        return self._depth

    def _refusal(self, offered: int) -> str:
        if not self._filesystem.options.passthrough:
            return "not wanted (nopassthrough)"
        if not offered & abi.PASSTHROUGH:
            return "this kernel does not offer it (Linux 6.9 does)"
        return refusal()

    def state(self) -> dict[str, Any]:
        """Return what `unionfs status` shows."""
        return {
            "on": self.on,
            "reason": self.why,
            "opens": self.opens,
            "fallbacks": self.fallbacks,
            "registered": self.registered,
            "depth": self._depth,
            "overlays": self._filesystem.overlays,
        }

    # -- opening and closing ------------------------------------------------------------------------------------

    def open(self, handle: FileHandle, ordinary_flags: int) -> tuple[int, int]:
        """Return (open flags, backing id) for a new handle, which from then on holds the registration.

        ESTALE if the kernel must look the file up again first; the caller closes the handle then.
        """
        node = handle.node
        branch = node.branch
        assert branch is not None
        small = not (handle.writes or branch.writable) and handle.size <= LIMIT and self.small.give(handle)
        if small or not self.on:
            return ordinary_flags, 0
        handles = node.handles
        assert handles is not None
        backing = handles.backing
        first = backing is None and (len(handles) == 1 or not has_ordinary(node, handle))
        writable = branch.writable and not branch.copy_on_open
        if backing is not None and backing.followed is not None:
            # Until the copy is the branch's, whatever is written through an overlay would be in no branch at all.
            writable = writable and backing.followed.published
        if first and writable:
            chosen = Plan.PASSING  # as `plan` says; this is what every new file takes
        else:
            chosen = plan(
                passing=backing is not None,
                ordinary=backing is None and not first,
                writable=writable,
                writes=handle.writes,
                keeps=first and not writable and not handle.writes and self._keeps(handle),
            )
        if chosen is Plan.PASSING and (handle.flags & os.O_DIRECT == 0 or _takes_direct(handle.fd, first)):
            if backing is None:
                backing = self._register(handle, branch)
            if backing is not None:
                backing.opens += 1
                self.opens += 1
                handle.backing = handles.backing = backing
                return open_flags(handle), backing.id
        elif chosen is Plan.STALE:
            if not node.removed:
                self._filesystem.renumber(node)
            raise stale()
        if first and branch.writable:
            # Writes that passed through have left the kernel's own pages of the file behind.
            return ordinary_flags & ~abi.FOPEN_KEEP_CACHE, 0
        return ordinary_flags, 0

    def reopen(self, node: Node, nodeid: int, flags: int, caller: Caller) -> tuple[int, Backing]:
        """Open a file by a former nodeid: return the handle's number and the registration of its old readers.

        The first time the answer is ESTALE, so that whoever came by a name gets the present file. If the same thread asks
        again at once and no lookup was made in between, it did not come by a name.
        """
        now = time.monotonic()
        lookups, when = self._stale.pop((nodeid, caller.pid), (0, -_AT_ONCE_SECONDS))
        opened = _old_reader(node, nodeid)
        again = now - when < _AT_ONCE_SECONDS and node.lookups <= lookups  # a FORGET may come in between
        if not again or opened is None or flags & (os.O_ACCMODE | os.O_TRUNC):
            if len(self._stale) >= _REFUSALS_KEPT:
                self._stale.clear()
            self._stale[nodeid, caller.pid] = (node.lookups, now)
            raise stale()
        number = self._filesystem.reopen(node, opened, flags, caller)
        handle = self._filesystem.file(number)
        assert opened.backing is not None
        handle.backing = opened.backing
        handle.backing.opens += 1
        self.opens += 1
        return number, handle.backing

    def _keeps(self, handle: FileHandle) -> bool:
        """Tell whether a reader of a file that is not writable where it is may pass through."""
        filesystem = self._filesystem
        if not filesystem.copies_up_at_open and any(branch.writable for branch in filesystem.branches):
            return False
        return handle.size != 0

    def _register(self, handle: FileHandle, branch: OpenBranch) -> Backing | None:
        """Register the handle's file, through an overlay if it may be copied up; count a fallback if that is impossible."""
        backing = None
        if branch.writable or not any(other.writable for other in self._filesystem.branches):
            backing = self._register_file(handle, branch)
        else:
            backing = self._register_followed(handle, branch)
            if backing is None and is_program(handle):
                backing = self._register_file(handle, branch)
        if backing is None:
            self.fallbacks += 1
        else:
            self.registered += 1
        return backing

    def _register_file(self, handle: FileHandle, branch: OpenBranch) -> Backing | None:
        """Register the file that the handle has open."""
        filesystem = filesystem_of(handle.node.identity)
        if filesystem in self._refused:
            return None
        try:
            number = self._backing_open(handle.fd)
        except OSError as error:
            if error.errno in _NEVER:
                self._refused.add(filesystem)
                log.info("files of %s do not pass through: %s", branch.path, error.strerror)
            return None
        return Backing(number, handle.node.nodeid, branch.id, None)

    def _register_followed(self, handle: FileHandle, branch: OpenBranch) -> Backing | None:
        """Register a lower file in such a way that its readers follow a copy-up."""
        if self._depth < 2 or handle.elsewhere:
            return None
        followed = self._filesystem.follow(handle.node)
        if followed is None:
            return None
        try:
            number = self._backing_open(followed.fd)
        except OSError as error:
            followed.release()
            if error.errno in _NEVER:
                followed.overlay.usable = False
                log.info("readers of %s do not follow a copy-up: %s", branch.path, error.strerror)
            return None
        return Backing(number, handle.node.nodeid, branch.id, followed)

    def _backing_open(self, fd: int) -> int:
        return int(fcntl.ioctl(self._device, abi.BACKING_OPEN, bytearray(abi.BACKING_MAP.pack(fd, 0)), True))

    def close(self, handle: FileHandle) -> None:
        """Drop a released handle's part in the registration; the last one takes it back."""
        backing = handle.backing
        if backing is None:
            return
        node = handle.node
        backing.opens -= 1
        if not backing.opens:
            if node.handles is not None and node.handles.backing is backing:
                node.handles.backing = None
            fcntl.ioctl(self._device, abi.BACKING_CLOSE, abi.BACKING_ID.pack(backing.id))
            self.registered -= 1
            if backing.followed is not None:
                backing.followed.release()
        if (
            handle.flags & os.O_ACCMODE == os.O_RDWR
        ):  # writes through a mapping, which takes both, change times unseen
            self._notifier.attributes(node.nodeid)


def stale() -> OSError:
    """Return the answer that makes the kernel look the name up again."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _takes_direct(fd: int, first: bool) -> bool:
    """Tell whether a file can be opened with O_DIRECT; EINVAL if it cannot and the mode is decided already.

    The kernel would answer EIO.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        if not first:
            raise
        return False
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return True


def _old_reader(node: Node, nodeid: int) -> OpenFile | None:
    for handle in node.handles or ():
        if handle.backing is not None and handle.backing.nodeid == nodeid:
            return handle
    return None


def is_program(handle: FileHandle) -> bool:
    """Tell whether a file is a program or a library, by how it is opened, its mode, or its first bytes."""
    if handle.flags & _FMODE_EXEC or os.fstat(handle.fd).st_mode & 0o111:
        return True
    try:
        return os.pread(handle.fd, len(_ELF), 0) == _ELF
    except OSError:
        return False


def has_ordinary(node: Node, besides: FileHandle) -> bool:
    """Tell whether the node has another open file that does not pass through."""
    handles = node.handles or ()
    return len(handles) > 1 and any(handle.backing is None and handle is not besides for handle in handles)
