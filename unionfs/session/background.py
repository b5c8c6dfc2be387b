# SPDX-License-Identifier: Apache-2.0
"""What both sessions do beside answering requests: long deletions, invalidations, directory watches."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from unionfs.filesystem import UnionFilesystem
from unionfs.session import threads
from unionfs.session.cached_names import CachedName, CachedNames
from unionfs.session.deletions import Deletions
from unionfs.session.notify import Notifier
from unionfs.session.watch import Watcher
from unionfs.tree.nodes import Node

# Up to here copying data up inside the request is cheaper than handing it to a thread.
_INLINE_COPY = 128 << 10
# Seconds after which the kernel has told all that it forgets at one time.
SETTLED = 0.005


class Tasks:
    """Starts tasks, and tells a session that has other things to do that there is one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._start = nursery.start_soon
        self._thread = threading.get_ident()
        self._later: list[tuple[Callable[..., Awaitable[object]], tuple[object, ...]]] = []
        self.started = False
        self.at_end: Callable[[], None] = lambda: (
            None
        )  # what is left to be done when no task can run any more

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Start a task, or let the event loop's thread do so when the one that calls this has ended serving."""
        self.started = True
        if threading.get_ident() == self._thread:
            self._start(function, *arguments)
        else:
            self._later.append((function, arguments))

    def start_postponed(self) -> None:
        """Start the tasks that another thread could not."""
        while self._later:
            function, arguments = self._later.pop(0)
            self._start(function, *arguments)


class Background:
    """What the core has of a session (`tree.port.Session`): it tells the kernel, and does what takes long."""

    inline_limit: int | None = _INLINE_COPY
    nodeids_are_numbers = False

    def __init__(
        self, filesystem: UnionFilesystem, notifier: Notifier, cached: CachedNames, tasks: Tasks
    ) -> None:
        self._filesystem = filesystem
        self._notifier = notifier
        self._cached = cached
        self._tasks = tasks
        self._telling = _Telling(tasks)
        self._deletions = Deletions(tasks.start_soon)
        self._gives_back = False  # a task is to give memory back

    def begin(self) -> None:
        """Let the filesystem use all this."""
        self._tasks.at_end = self._deletions.finish
        self._cached.on_overflow = self._doubt
        self._filesystem.attach(self)
        if self._filesystem.options.udba == "notify":
            watcher = Watcher(self._filesystem, self._notifier, self._cached, self.all_changed)
            self._tasks.start_soon(watcher.run)

    def end(self) -> None:
        """Let the filesystem do everything by itself again: the session is over.

        Flushing pseudo-links and closing forget nodes and change names, and no task can be started for that any more.
        """
        self._tasks.at_end()
        self._filesystem.detach()

    def _doubt(self, names: list[CachedName]) -> None:
        self._telling.start(self._notifier.expire_all, names, ())

    def name_changed(self, parent: Node, name: bytes) -> None:
        """Make the kernel look a name up again."""
        self._telling.start(self._notifier.expire, parent.nodeid, name)

    def attributes_changed(self, nodeid: int) -> None:
        """Make the kernel ask for a node's attributes again."""
        self._notifier.attributes(nodeid)

    def all_changed(self) -> None:
        """Drop what the kernel cached."""
        nodes = self._filesystem.nodes()
        directories = [node.nodeid for node in nodes if node.is_directory]
        self._telling.start(self._notifier.expire_all, self._cached.take_all(nodes), directories)

    def options_changed(self) -> None:
        """Take what depends on the options; each session has its own."""

    def shrunk(self) -> None:
        """Give memory back once what is being forgotten is forgotten."""
        if not self._gives_back:
            self._gives_back = True
            self._tasks.start_soon(self._give_back)

    async def _give_back(self) -> None:
        await trio.sleep(SETTLED)
        self._gives_back = False
        self._filesystem.give_back()

    def delete_later(self, directory: int, name: bytes) -> None:
        """Delete what was set aside, in a thread."""
        self._deletions.add(directory, name)

    def state(self) -> dict[str, Any]:
        """Return what `status` shows of the session."""
        return {}

    async def settled(self) -> None:
        """Wait until the kernel has been told."""
        await self._telling.done()


class _Telling:
    """Notifications that may wait for a directory's lock: each in a thread."""

    def __init__(self, nursery: Tasks) -> None:
        self._nursery = nursery
        self._waiting: set[trio.Event] = set()
        # Few, and not those that requests need: who holds the lock may wait for one of those.
        self._limiter = trio.CapacityLimiter(4)

    def start(self, tell: Callable[..., None], *arguments: object) -> None:
        """Let a thread call `tell`."""
        finished = trio.Event()
        self._waiting.add(finished)

        async def work() -> None:
            try:
                await threads.run_elsewhere(functools.partial(tell, *arguments), limiter=self._limiter)
            finally:
                self._waiting.discard(finished)
                finished.set()

        self._nursery.start_soon(work)

    async def done(self) -> None:
        """Wait until the kernel has been told everything that was started before."""
        for finished in list(self._waiting):
            await finished.wait()
