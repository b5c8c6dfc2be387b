# SPDX-License-Identifier: Apache-2.0
"""Writes that went past the kernel's page cache of a file, and what its pages write back over them.

A handle with FOPEN_DIRECT_IO writes past the pages. One that somebody changes through a mapping is dropped before and after that
write, and filled in between with the former data, or is filled before and written back after it: then the former data would
come back. So the former data is remembered until the kernel reads the place again, and a page that is written back changes
only what differs from it.

What is read may not stay in the page: until the kernel has taken the reply to a write behind the end, it zeros all that lies
behind the former end in a page that it writes back (Linux 6.17 on). So that part is forgotten only by a read that comes after
the write was certainly taken. Source: Linux, fs/fuse/file.c, fs/iomap/buffered-io.c, fs/fuse/inode.c (GETATTR tells the new
size before the writer does).
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from unionfs.handles.handles import FileHandle
from unionfs.tree.nodes import Node
from unionfs.tree.open_files import OpenFile

_MOST_BYTES = 1 << 20  # of former data a node; the oldest is forgotten first
_MOST_WRITES = 4096
# The kernel takes a reply when the writer gets to run. It is seen to have taken it by the next request that needs the file's lock
# or comes from the same thread; without one this must do, or a mapping could never put zeros into the last record.
_TAKEN_SECONDS = 1.0


class _Extension(NamedTuple):
    """The part of the last write to a file that lay behind its end, while the kernel may still not know of it."""

    start: int
    end: int
    pid: int  # the writing thread
    replied: float


class UnseenWrites:
    """What pages of one mount may not show yet, by file."""

    def __init__(self) -> None:
        self._former: dict[
            Node, list[tuple[int, bytes]]
        ] = {}  # (offset, data before the write), oldest first
        self._extensions: dict[Node, _Extension] = {}

    def __bool__(self) -> bool:
        return bool(self._former)

    def __contains__(self, node: Node) -> bool:
        return node in self._former

    def note(self, handle: FileHandle, offset: int, size: int, pid: int) -> None:
        """Remember what is at a place that thread `pid` is about to write past the pages, if somebody might have it mapped."""
        node = handle.node
        self._extensions.pop(node, None)
        mappable = _mappable(node)
        if mappable is None:
            return
        former = self._former.setdefault(node, [])
        before = os.pread(mappable.fd, size, offset)
        former.append((offset, before.ljust(size, b"\0")))
        if len(before) < size:
            self._extensions[node] = _Extension(offset + len(before), offset + size, pid, time.monotonic())
        while len(former) > _MOST_WRITES or sum(len(data) for _, data in former[:-1]) > _MOST_BYTES:
            del former[0]

    def read(self, node: Node, offset: int, size: int, pid: int) -> None:
        """The kernel fills pages for thread `pid`: it knows what is there now, and keeps that if it has taken the last write."""
        extension = self._extensions.get(node)
        if extension is None:
            self._forget(node, offset, offset + size)
        elif extension.pid == pid or time.monotonic() - extension.replied > _TAKEN_SECONDS:
            self.changed(node, offset, size)
        else:
            self._forget(node, offset, min(offset + size, extension.start))
            self._forget(node, max(offset, extension.end), offset + size)

    def changed(self, node: Node, offset: int, size: int) -> None:
        """The kernel changes its pages itself or drops them, under the file's lock, so it has taken all writes before."""
        self._extensions.pop(node, None)
        self._forget(node, offset, offset + size)

    def _forget(self, node: Node, offset: int, end: int) -> None:
        former = self._former.get(node)
        if former is None or offset >= end:
            return
        left: list[tuple[int, bytes]] = []
        for start, data in former:
            if start < offset:
                left.append((start, data[: offset - start]))
            if start + len(data) > end:
                left.append((max(start, end), data[max(0, end - start) :]))
        if left:
            self._former[node] = left
        else:
            del self._former[node]

    def truncated(self, node: Node, size: int) -> None:
        """The kernel cut its pages at the new size, and shows zeros behind it."""
        self._extensions.pop(node, None)
        former = self._former.get(node)
        if former is not None:
            self._former[node] = [(start, data[: size - start]) for start, data in former if start < size]

    def released(self, node: Node) -> None:
        """A handle was closed: with the last that mappings may be made of, they are gone and written back."""
        if node in self._former and _mappable(node) is None:
            del self._former[node]
            self._extensions.pop(node, None)

    def merge(self, handle: FileHandle, offset: int, data: memoryview) -> memoryview:
        """Return what a page that is written back is to write: what is there where the page does not differ from before."""
        former, mappable = self._former.get(handle.node), _mappable(handle.node)
        if former is None or mappable is None:
            return data
        extension = self._extensions.get(handle.node)
        if extension is not None and offset + len(data) > extension.start:
            del self._extensions[handle.node]  # the kernel writes back up to the size that it knows
        base = bytearray(data)
        unseen = bytearray(len(data))
        for start, before in reversed(former):  # the oldest is what the page was filled with
            first, last = max(start, offset), min(start + len(before), offset + len(data))
            if first < last:
                base[first - offset : last - offset] = before[first - start : last - start]
                unseen[first - offset : last - offset] = b"\1" * (last - first)
        if not any(unseen):
            return data
        merged = bytearray(data)
        present = os.pread(mappable.fd, len(data), offset)
        for place, byte in enumerate(present):
            if unseen[place] and merged[place] == base[place]:
                merged[place] = byte
        # The page may stay, as it is.
        former[:] = [(start, _replaced(start, before, offset, data)) for start, before in former]
        return memoryview(merged)


def _mappable(node: Node) -> OpenFile | None:
    """Return a handle through whose mapping a file's pages may be changed; the mapping keeps it open."""
    for handle in node.handles or ():
        if handle.flags & os.O_ACCMODE == os.O_RDWR and handle.backing is None:
            return handle
    return None


def _replaced(start: int, before: bytes, offset: int, data: memoryview) -> bytes:
    """Return `before` (at `start`) with what `data` (at `offset`) has of it."""
    first, last = max(start, offset), min(start + len(before), offset + len(data))
    if first >= last:
        return before
    return before[: first - start] + bytes(data[first - offset : last - offset]) + before[last - start :]
