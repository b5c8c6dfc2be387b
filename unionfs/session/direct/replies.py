# SPDX-License-Identifier: Apache-2.0
"""What the handlers of requests share: the shapes of requests and replies, and how entries and attributes are packed.

A handler returns the reply's payload, `NO_REPLY`, or an `Errand` for what blocks; it raises OSError for an error reply.
Handlers do no I/O on the device and never wait. Written flat, with local names: on this path every microsecond shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from unionfs.filesystem import UnionFilesystem
from unionfs.kernel.descriptor import Errand
from unionfs.kernel.syscalls import Birth
from unionfs.options.idmaps import IdMaps
from unionfs.session import abi
from unionfs.session.cached_names import CachedNames
from unionfs.tree.nodes import Attributes, Node

NANO = 1_000_000_000
NO_REPLY = b"no reply"  # compared by identity

_FOREVER = 1 << 30  # seconds
_REVAL_SECONDS = 1


class Header(NamedTuple):
    """A request's header as it comes (`abi.IN_HEADER`)."""

    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    extensions: int  # in units of 8 bytes
    padding: int


Reply = bytes | memoryview | Errand
Handler = Callable[[Header, memoryview], Reply]


class Replies:
    """Packs what the kernel is told about nodes, and for how long it may believe it."""

    def __init__(self, filesystem: UnionFilesystem) -> None:
        self._filesystem = filesystem
        self.node = filesystem.node  # of a number from the kernel
        self.cached = CachedNames()
        self.setxattr_ext = False  # agreed on in INIT
        self.may_not_open = False  # likewise: the kernel can do without opening directories
        self.checks_flags = False  # likewise: the kernel looks whether a caller may change inode flags
        self.capabilities = 0  # changes whenever some file may have got capabilities
        self.interrupted: Callable[[int], None] = lambda unique: None  # set by the session
        self.direct_mappings = False  # likewise: what is opened with FOPEN_DIRECT_IO can be mapped
        self.writeback = False  # likewise: the kernel keeps sizes and mtimes, and writes when it likes
        self.use_options()

    def use_options(self) -> None:
        """Take the caching times from the options, at the mount and after a remount changed them."""
        options = self._filesystem.options
        short = options.udba == "reval"
        self.attr_valid = _REVAL_SECONDS if short else _FOREVER
        self.open_valid = min(_REVAL_SECONDS, self.attr_valid)  # of files that the kernel writes by itself
        self.entry_valid = 0 if not options.dirperm1 else self.attr_valid
        self.negative_valid = 0 if short else self.entry_valid
        self.no_entry = abi.ENTRY_OUT.pack(0, 0, self.negative_valid, 0, *(0,) * 18)
        # Listings may be kept, for all; then directories need not be opened.
        self.keeps_listings = not short and options.dirperm1
        self.dir_flags = 0 if short else abi.FOPEN_CACHE_DIR | abi.FOPEN_KEEP_CACHE

    def doubt_sizes(self) -> None:
        """With the writeback cache: let files that nobody has open start anew, for the kernel never asks their size again."""
        if self.writeback:
            self._filesystem.renew_unopened()

    def entry(self, attributes: Attributes) -> bytes:
        """Pack an entry and count the lookup that the kernel will remember."""
        node, status, nlink = attributes
        node.lookups += 1
        handles = node.handles
        valid = self.attr_valid if handles is None or handles.backing is None else self.open_valid
        return self.pack_entry(node, status, nlink, self.entry_valid, valid)

    def pack_entry(
        self, node: Node, st: os.stat_result, nlink: int, entry_valid: int, attr_valid: int
    ) -> bytes:
        atime, atime_ns = divmod(st.st_atime_ns, NANO)
        mtime, mtime_ns = divmod(st.st_mtime_ns, NANO)
        ctime, ctime_ns = divmod(st.st_ctime_ns, NANO)
        traits = node.traits
        return abi.ENTRY_OUT.pack(
            traits.nodeid or node.ino, traits.generation, entry_valid, attr_valid, 0, 0,
            node.ino, st.st_size, st.st_blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev & 0xFFFFFFFF, st.st_blksize, 0,
        )  # fmt: skip

    def attributes(self, attributes: Attributes, nodeid: int) -> bytes:
        node, st, nlink = attributes
        atime, atime_ns = divmod(st.st_atime_ns, NANO)
        mtime, mtime_ns = divmod(st.st_mtime_ns, NANO)
        ctime, ctime_ns = divmod(st.st_ctime_ns, NANO)
        return abi.ATTR_OUT.pack(
            self._valid(node, nodeid), 0, 0,
            node.ino, st.st_size, st.st_blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev & 0xFFFFFFFF, st.st_blksize, 0,
        )  # fmt: skip

    def statx(self, attributes: Attributes, nodeid: int, born: Birth) -> bytes:
        node, st, nlink = attributes
        mask = abi.STATX_BASIC_STATS | (abi.STATX_BTIME if born.time else 0)
        # The attributes are for kernels to come: up to 6.18 they do not look.
        return abi.STATX_OUT.pack(
            self._valid(node, nodeid), 0, 0,
            mask, st.st_blksize, born.attributes, nlink, st.st_uid, st.st_gid, st.st_mode, node.ino,
            st.st_size, st.st_blocks, born.attributes_mask,
            *divmod(st.st_atime_ns, NANO), *(born.time or (0, 0)), *divmod(st.st_ctime_ns, NANO), *divmod(st.st_mtime_ns, NANO),
            os.major(st.st_rdev), os.minor(st.st_rdev), 0, 0,
        )  # fmt: skip

    def _valid(self, node: Node, nodeid: int) -> int:
        """Return for how long attributes may be kept; under a former nodeid the kernel would not notice changes."""
        if nodeid != (node.traits.nodeid or node.ino):
            return 0
        handles = node.handles
        return self.attr_valid if handles is None or handles.backing is None else self.open_valid


class MappedReplies(Replies):
    """The same where the union has other ids than its branches."""

    def __init__(self, filesystem: UnionFilesystem, ids: IdMaps) -> None:
        super().__init__(filesystem)
        self._ids = ids

    def pack_entry(
        self, node: Node, st: os.stat_result, nlink: int, entry_valid: int, attr_valid: int
    ) -> bytes:
        return super().pack_entry(node, self._ids.status(st), nlink, entry_valid, attr_valid)

    def attributes(self, attributes: Attributes, nodeid: int) -> bytes:
        return super().attributes(self._mapped(attributes), nodeid)

    def statx(self, attributes: Attributes, nodeid: int, born: Birth) -> bytes:
        return super().statx(self._mapped(attributes), nodeid, born)

    def _mapped(self, attributes: Attributes) -> Attributes:
        return attributes._replace(status=self._ids.status(attributes.status))


def name_in(body: memoryview, start: int) -> bytes:
    """Return the NUL-terminated name at `start`."""
    return bytes(body[start:]).split(b"\0", 1)[0]
