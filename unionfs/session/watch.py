# SPDX-License-Identifier: Apache-2.0
"""udba=notify: watch the branch directories that are in use and tell the kernel what changed behind the union's back."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from functools import partial

import trio

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.filesystem import UnionFilesystem
from unionfs.kernel import syscalls
from unionfs.session import threads
from unionfs.session.cached_names import CachedName, CachedNames
from unionfs.session.notify import Notifier
from unionfs.tree.nodes import Node

log = logging.getLogger(__name__)

_MASK = (
    syscalls.IN_MODIFY
    | syscalls.IN_ATTRIB
    | syscalls.IN_MOVED_FROM
    | syscalls.IN_MOVED_TO
    | syscalls.IN_CREATE
    | syscalls.IN_DELETE
    | syscalls.IN_ONLYDIR
    | syscalls.IN_EXCL_UNLINK
)
_NAMES = syscalls.IN_MOVED_FROM | syscalls.IN_MOVED_TO | syscalls.IN_CREATE | syscalls.IN_DELETE


class Watcher:
    """Watches every directory copy whose descriptor the filesystem opens, on branches that may change (not rr)."""

    def __init__(
        self,
        filesystem: UnionFilesystem,
        notifier: Notifier,
        cached: CachedNames,
        lost: Callable[[], None],
    ) -> None:
        """`lost` is called when the kernel could not tell everything."""
        self._notifier = notifier
        self._cached = cached
        self._lost = lost
        self._fd = syscalls.inotify_init()
        self._nodes: dict[int, Node] = {}
        self._full = False
        self._filesystem = filesystem
        filesystem.watch_directories(self.watch)

    def watch(self, node: Node, branch: OpenBranch, fd: int) -> None:
        """Watch one copy of a directory; when the user's limit is reached say so once and go on."""
        if not branch.watch or self._full:
            return
        try:
            watch = syscalls.inotify_add_watch(self._fd, whiteout.proc_path(fd), _MASK)
            self._nodes[watch] = node
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._full = True
                log.warning(
                    "no more inotify watches: raise fs.inotify.max_user_watches; other directories go unwatched"
                )
            elif error.errno != errno.ENOENT:
                raise

    async def run(self) -> None:
        """Read events until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                names, nodeids, complete = self._doubted(os.read(self._fd, 1 << 16))
                await threads.run_elsewhere(partial(self._notifier.expire_all, names, nodeids))
                if not complete:
                    self._lost()
        finally:
            # Flushing pseudo-links opens directories after the last event is read; the number may be another file's by then.
            self._filesystem.watch_directories(None)
            os.close(self._fd)

    def _doubted(self, data: bytes) -> tuple[dict[CachedName, None], dict[int, None], bool]:
        """Return the names and nodes of which the kernel may believe what is no longer so; False if events were lost.

        A directory that came or went on a branch has other names in the union now, and all below it.
        """
        names: dict[CachedName, None] = {}
        nodeids: dict[int, None] = {}
        complete = True
        for watch, mask, name in syscalls.inotify_events(data):
            node = self._nodes.get(watch)
            if mask & syscalls.IN_Q_OVERFLOW:
                complete = False
                continue
            if mask & syscalls.IN_IGNORED:
                self._nodes.pop(watch, None)
                continue
            if node is None or not name:
                continue
            shown = name[len(whiteout.PREFIX) :] if name.startswith(whiteout.PREFIX) else name
            child = (node.children or {}).get(shown)
            if mask & _NAMES:
                names[node.nodeid, shown] = None
                nodeids[node.nodeid] = None
                if child is not None and child.is_directory:
                    names.update(dict.fromkeys(self._cached.take_below(child)))
            if child is not None:
                nodeids[child.nodeid] = None
        return names, nodeids, complete
