# SPDX-License-Identifier: Apache-2.0
"""Deletes what was set aside, when whoever removes has paused: a thread at it would take turns with the interpreter's other one
at every system call, which made `rm -rf` of lower files a third slower.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable

import trio

from unionfs import leftovers
from unionfs.fuse import threads

_PAUSE = 0.02  # seconds without a new one
_MOST = 4096  # so many are not kept waiting: their names must differ, and their room may be needed

Place = tuple[int, int]  # of a directory: device and inode


class Deletions:
    """Staged trees of one mount that are to be deleted; `start` starts a task."""

    def __init__(self, start: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        self._start = start
        self._directories: dict[Place, int] = {}  # descriptors of our own
        self._waiting: list[tuple[int, bytes]] = []
        self._running = False
        self._lock = threading.Lock()  # requests may be handled in another thread than tasks

    def add(self, fd: int, name: bytes) -> None:
        """Have the tree `name` in the directory `fd` deleted, which may be closed meanwhile."""
        status = os.fstat(fd)
        place = status.st_dev, status.st_ino
        with self._lock:
            own = self._directories.get(place)
            if own is None:
                own = self._directories[place] = os.dup(fd)
            self._waiting.append((own, name))
            idle, self._running = not self._running, True
        if idle:
            self._start(self._run)

    def finish(self) -> None:
        """Delete what waits now: the session is over."""
        self._take()()

    async def _run(self) -> None:
        while self._goes_on():
            count = len(self._waiting)
            await trio.sleep(_PAUSE)
            if count == len(self._waiting) or count >= _MOST:
                await threads.run(self._take(), abandon_on_cancel=True)

    def _goes_on(self) -> bool:
        with self._lock:
            self._running = bool(self._waiting)
            return self._running

    def _take(self) -> Callable[[], None]:
        """Return what deletes all that waits, which from then on does not."""
        with self._lock:
            trees, directories = self._waiting, self._directories
            self._waiting, self._directories = [], {}

        def work() -> None:
            try:
                for fd, name in trees:
                    leftovers.discard(fd, name)
            finally:
                for fd in directories.values():
                    os.close(fd)

        return work
