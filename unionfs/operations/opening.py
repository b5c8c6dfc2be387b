# SPDX-License-Identifier: Apache-2.0
"""Opening regular files: what is done to the file before, with which flags its visible copy is opened, and the handle."""

from __future__ import annotations

import errno
import os
import stat

from unionfs.branches import whiteout
from unionfs.handles.handles import FileHandle, HandleTable, branch_flags
from unionfs.kernel.reserve import room
from unionfs.operations.attributes import AttributeChanger
from unionfs.operations.copyup import CopyUps
from unionfs.operations.create import Caller
from unionfs.operations.onopen import OnOpen
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.open_files import Handles, OpenFile
from unionfs.tree.union import Union


class Opener:
    """Opens the files of one union."""

    def __init__(
        self, union: Union, handles: HandleTable, copyups: CopyUps, on_open: OnOpen, change: AttributeChanger
    ) -> None:
        self._union = union
        self._handles = handles
        self._copyups = copyups
        self._on_open = on_open
        self._change = change
        # Overlayfs copies up at open, AUFS at the first write.
        self.copies_up_at_open = False

    def open(self, node: Node, flags: int, caller: Caller) -> int:
        """Open a regular file and return the handle's number. Copies up only for O_TRUNC, coo, moo and overlayfs' way.

        ENXIO for what is no regular file, EROFS if nothing can be written to, ENFILE if only the reserve of descriptors is left,
        EPERM for what is immutable or append-only; what `CopyUps.ensure` raises.
        """
        if node.traits.kind != stat.S_IFREG:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        room.check_file()
        self._on_open.prepare_file(node)
        if flags & os.O_ACCMODE:
            self._copyups.target(node)  # EROFS now, not at the first write
            assert node.branch is not None
            if not node.branch.writable or node.branch.overlay:
                protection.check_open(self._union, node, flags)
        if flags & os.O_TRUNC:
            fd = self._change.open_truncated(node, branch_flags(flags, writable=True), strip=caller.uid != 0)
            return self.add(FileHandle(node, fd, flags, caller.pid))
        if flags & os.O_ACCMODE and self.copies_up_at_open:
            self._copyups.ensure(node, allow=protection.appending(flags))
        assert node.branch is not None
        if node.branch.overlay:
            self._copyups.complete(node)
        opened = branch_flags(flags, writable=node.branch.writable)
        try:
            return self._open_visible(node, flags, opened, caller)
        except PermissionError as error:
            if error.errno != errno.EPERM or not flags & os.O_APPEND or not node.branch.writable:
                raise
        number = self._open_visible(node, flags, opened | os.O_APPEND, caller)
        self._handles.file(number).appends = True
        return number

    def _open_visible(self, node: Node, flags: int, opened: int, caller: Caller) -> int:
        """Open the visible copy with the flags `opened`, for a caller who gave `flags`."""
        size, elsewhere = -1, False
        assert node.branch is not None
        if node.parent is not None:
            fd, status, elsewhere = self._union.open_copy(node, opened)
            size = status.st_size
        elif node.branch.overlay:
            fd, elsewhere = self._open_held(node, opened)
        else:
            path = self._union.open_path(node)
            try:
                fd = os.open(whiteout.proc_path(path), opened)
            finally:
                os.close(path)
        return self.add(FileHandle(node, fd, flags, caller.pid, size=size, elsewhere=elsewhere))

    def _open_held(self, node: Node, flags: int) -> tuple[int, bool]:
        """Open a file that has no name any more, or where its data is; tell which of both."""
        path = self._union.open_path(node)
        try:
            marks = whiteout.marks_among(os.listxattr(whiteout.proc_path(path)))
            data = self._union.find_data(node, path, marks)
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
        return self.add(FileHandle(node, fd, flags, caller.pid, elsewhere=opened.elsewhere))

    def add(self, handle: FileHandle) -> int:
        """Enter a new handle and return its number."""
        node = handle.node
        handles = node.handles
        if handles is None:
            handles = node.handles = Handles()
        handles.add(handle)
        return self._handles.add(handle)

    def release(self, number: int) -> None:
        """Close a handle, a directory's too; EBADF for an unknown number."""
        handle = self._handles.pop(number)
        handle.close()
        node = handle.node
        if isinstance(handle, FileHandle):
            if node.handles is not None:
                node.handles.discard(handle)
                if not node.handles:
                    node.handles = None
        else:
            node.opens -= 1
        self._union.nodes.release(node)

    def make_writable(self, node: Node, flags: int) -> None:
        """Copy up a file that is about to be written to, for a caller who opens it with `flags`; as `CopyUps.ensure`."""
        self._copyups.ensure(node, allow=protection.appending(flags))

    def writable_file(self, number: int) -> FileHandle:
        """Return an open file ready to be written to: the first write is what copies up."""
        handle = self._handles.file(number)
        assert handle.node.branch is not None
        if not handle.node.branch.writable:
            self.make_writable(handle.node, handle.flags)
        return handle
