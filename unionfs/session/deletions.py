# SPDX-License-Identifier: Apache-2.0
"""Deletes what was set aside, when whoever removes has paused: a thread at it would take turns with the interpreter's other one
at every system call, which made `rm -rf` of lower files a third slower.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable

import trio

from unionfs.branches import leftovers
from unionfs.session import threads

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
        self._deleting = threading.Lock()  # a thread may be at it when the session ends

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
        """Delete what waits, and see the end of what a thread deletes now: the session is over."""
        self._work()

    async def _run(self) -> None:
        while self._goes_on():
            count = len(self._waiting)
            await trio.sleep(_PAUSE)
            if count == len(self._waiting) or count >= _MOST:
                await threads.run(self._work, abandon_on_cancel=True)

    def _goes_on(self) -> bool:
        with self._lock:
            self._running = bool(self._waiting)
            return self._running

    def _work(self) -> None:
        """Delete all that waits, one after the other."""
        while True:
            with self._deleting:
                with self._lock:
                    tree = self._waiting.pop(0) if self._waiting else None
                    unused = [] if tree is not None else list(self._directories.values())
                    if tree is None:
                        self._directories = {}
                for fd in unused:
                    os.close(fd)
                if tree is None:
                    return
                leftovers.discard(*tree)
