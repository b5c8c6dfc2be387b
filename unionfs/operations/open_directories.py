# SPDX-License-Identifier: Apache-2.0
"""Opening directories and listing those that are open; `listing.unopened` has those that the kernel does not open."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from unionfs.handles.handles import DirectoryHandle, HandleTable
from unionfs.kernel.reserve import room
from unionfs.listing.readdir import Listing, Place
from unionfs.listing.records import Entry
from unionfs.operations.create import Caller
from unionfs.operations.inspection import Inspector
from unionfs.operations.onopen import OnOpen
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union


class OpenDirectories:
    """The open directories of one union's clients."""

    def __init__(self, union: Union, handles: HandleTable, on_open: OnOpen, inspector: Inspector) -> None:
        self._union = union
        self._handles = handles
        self._on_open = on_open
        self._inspect = inspector

    def open(self, node: Node, caller: Caller) -> int:
        """Open a directory for listing and return the handle's number."""
        self._union.trim()
        room.check_directory()
        self._on_open.prepare_directory(node)
        if not self._union.options.dirperm1:
            self._inspect.check_read(node, caller)
        handle = DirectoryHandle(node, Listing(self._union, node), caller.pid)
        node.opens += 1
        return self._handles.add(handle)

    def begin(self, node: Node, caller: Caller) -> None:
        """Do what opening a directory does, before `list` from offset 0; ENOTDIR for another file."""
        if not node.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._union.trim()
        if node.removed:
            return
        self._on_open.prepare_directory(node)
        if not self._union.options.dirperm1:
            self._inspect.check_read(node, caller)

    def read(self, number: int, offset: int) -> Iterator[tuple[Entry, Place | None]]:
        """Yield the entries from `offset`, and where each is if that is known; errors as of `handle`."""
        return self.listing(self.handle(number), offset).read(offset)

    def listing(self, handle: DirectoryHandle, offset: int) -> Listing:
        """Return the listing of an open directory; from the beginning with the copies that it has by now."""
        if offset == 0 and handle.listing.dirs is not handle.node.dirs and not handle.node.removed:
            listing = Listing(self._union, handle.node)
            handle.listing.close()
            handle.listing = listing
        return handle.listing

    def handle(self, number: int) -> DirectoryHandle:
        """Return an open directory; ENOTDIR for an open file, EBADF for any other number."""
        handle = self._handles[number]
        if not isinstance(handle, DirectoryHandle):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return handle
