# SPDX-License-Identifier: Apache-2.0
"""What both sessions do beside answering requests: long deletions, invalidations, directory watches."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Awaitable, Callable

import trio

from unionfs.branches import leftovers
from unionfs.filesystem import UnionFilesystem
from unionfs.kernel import syscalls
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


def attach(filesystem: UnionFilesystem, notifier: Notifier, cached: CachedNames, nursery: Tasks) -> None:
    """Let the filesystem use `nursery` for long work and `notifier` to tell the kernel what is no longer so."""
    telling = _Telling(nursery)
    deletions = Deletions(nursery.start_soon)

    def invalidate_all() -> None:
        nodes = list(filesystem.union.nodes)
        directories = [node.nodeid for node in nodes if node.is_directory]
        telling.start(notifier.expire_all, cached.take_all(nodes), directories)

    def name_changed(parent: Node, name: bytes) -> None:
        telling.start(notifier.expire, parent.nodeid, name)

    def doubt(names: list[CachedName]) -> None:
        telling.start(notifier.expire_all, names, ())

    filesystem.set_background(inline_limit=_INLINE_COPY, delete_later=deletions.add)
    nursery.at_end = deletions.finish
    filesystem.invalidate_all = invalidate_all
    filesystem.settled = telling.done
    cached.on_overflow = doubt
    filesystem.union.on_change = name_changed
    filesystem.union.nodes.on_shrunk = functools.partial(_later, filesystem, nursery, [])
    filesystem.union.on_attributes = notifier.attributes
    if filesystem.options.udba == "notify":
        nursery.start_soon(Watcher(filesystem.union, notifier, cached, invalidate_all).run)


def detach(filesystem: UnionFilesystem, tasks: Tasks) -> None:
    """Let the filesystem do everything by itself again: the session is over."""
    tasks.at_end()
    filesystem.set_background(inline_limit=None, delete_later=leftovers.discard)
    # Flushing pseudo-links and closing forget nodes and change names: no task can be started for that any more.
    filesystem.invalidate_all = lambda: None
    filesystem.settled = None
    filesystem.union.on_change = lambda parent, name: None
    filesystem.union.nodes.on_shrunk = lambda: None


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


def give_back(filesystem: UnionFilesystem) -> None:
    """Give memory back after most nodes were forgotten.

    The interpreter returns memory a megabyte at a time, so what was made between the nodes and still lives must be little: what
    is known of names goes too, and the direct session makes what it sleeps with after this.
    """
    filesystem.union.known.clear()
    filesystem.listings.give_back()
    gc.collect()  # else free lists keep a few blocks of every arena in use
    filesystem.union.nodes.compact()
    syscalls.malloc_trim()


def _later(filesystem: UnionFilesystem, nursery: Tasks, pending: list[None]) -> None:
    """Give memory back once what is being forgotten is forgotten; `pending` holds something while that is planned."""

    async def work() -> None:
        await trio.sleep(SETTLED)
        pending.clear()
        give_back(filesystem)

    if not pending:
        pending.append(None)
        nursery.start_soon(work)
