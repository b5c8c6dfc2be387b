# SPDX-License-Identifier: Apache-2.0
"""Requests on the mount as a whole: agree on the protocol, report totals, write back, say goodbye."""

from __future__ import annotations

import errno
import mmap
import os

from unionfs.filesystem import UnionFilesystem
from unionfs.session import abi
from unionfs.session.direct.passthrough import Passthrough
from unionfs.session.direct.replies import NO_REPLY, Header, Replies, Reply

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
# Not asked for: CREATE_SUPP_GROUP (the group by which a caller may use a set-group-ID directory; the kernel has checked that,
# and the server makes files with its own rights), HAS_RESEND (a server that comes back), REQUEST_TIMEOUT (a copy-up of
# hundreds of gigabytes is no hung server).
_WANTED_2 = abi.HAS_EXPIRE_ONLY | abi.DIRECT_IO_ALLOW_MMAP | abi.NO_EXPORT_SUPPORT

_CHECKS_FLAGS = 34  # the protocol of Linux 5.14; the checks came with 5.13
# Readahead and write-back under way at once; an unprivileged server gets at most the module's max_user_bgreq of them.
_MAX_BACKGROUND, _CONGESTION = 64, 48


class MountRequests:
    """The handlers of one mount that deal with the mount itself."""

    def __init__(
        self,
        filesystem: UnionFilesystem,
        replies: Replies,
        passthrough: Passthrough,
        max_write: int,
    ) -> None:
        self._filesystem = filesystem
        self._replies = replies
        self._passthrough = passthrough
        self._max_write = max_write

    def init(self, header: Header, body: memoryview) -> Reply:
        """Agree on a protocol version and on everything that saves requests."""
        # The last word was added in 7.36; older kernels send 16 bytes.
        major, minor, readahead, offered, offered_2 = abi.INIT_IN.unpack(bytes(body[:20]).ljust(20, b"\0"))
        if major != abi.MAJOR:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        options = self._filesystem.options
        wanted = _WANTED | (abi.POSIX_ACL if options.acl else 0)
        # With the writeback cache the kernel is the one that knows sizes and times of files, so nobody else may change them.
        wanted |= abi.WRITEBACK_CACHE if options.udba == "none" else 0
        flags = wanted & offered
        wanted_2 = _WANTED_2
        if flags & abi.POSIX_ACL and options.dirperm1:
            # Refused without default_permissions, which POSIX_ACL implies. From then on requests that make nothing do not say
            # who asks, and nodirperm1 wants to know.
            wanted_2 |= abi.ALLOW_IDMAP
        flags_2 = wanted_2 & offered_2 if offered & abi.INIT_EXT else 0
        self._replies.may_not_open = bool(offered & abi.NO_OPENDIR_SUPPORT)
        self._replies.checks_flags = minor >= _CHECKS_FLAGS
        self._replies.setxattr_ext = bool(flags & abi.SETXATTR_EXT)
        depth = self._passthrough.agree(offered_2 if offered & abi.INIT_EXT else 0)
        if depth:  # the kernel does not do both
            flags, flags_2 = flags & ~abi.WRITEBACK_CACHE, flags_2 | abi.PASSTHROUGH
        self._replies.direct_mappings = bool(flags_2 & abi.DIRECT_IO_ALLOW_MMAP)
        self._replies.writeback = bool(flags & abi.WRITEBACK_CACHE)
        return abi.INIT_OUT.pack(
            abi.MAJOR, min(minor, abi.MINOR), readahead, flags, _MAX_BACKGROUND, _CONGESTION,
            self._max_write, 1, self._max_write // mmap.PAGESIZE, 0, flags_2, depth, 0,
        )  # fmt: skip

    def destroy(self, header: Header, body: memoryview) -> Reply:
        """The mount goes away; the next read says so."""
        return b""

    def interrupt(self, header: Header, body: memoryview) -> Reply:
        """A caller got a signal: if it is being killed it need not wait for long work."""
        self._replies.interrupted(abi.INTERRUPT_IN.unpack_from(body)[0])
        return NO_REPLY

    def statfs(self, header: Header, body: memoryview) -> Reply:
        """Return filesystem totals."""
        st = self._filesystem.statfs()
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
        return self._filesystem.write_back_all()
