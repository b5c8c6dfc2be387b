# SPDX-License-Identifier: Apache-2.0
"""Threads that finish requests on their own: they do the I/O and write the answer to the device, the loop is not woken.

For work on descriptors alone, which touches neither nodes nor the table of handles. What waits here holds its descriptors: the
kernel may have closed the file by the time that a thread comes to it.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
from collections.abc import Callable

from unionfs.branches.lost import shown_errno
from unionfs.kernel.descriptor import Descriptor
from unionfs.session import abi, threads
from unionfs.session.waiting.place import be_ordinary

log = logging.getLogger(__name__)

# The kernel no longer waits for the answer, or the mount is gone.
_UNHEARD = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)

Buffer = bytes | memoryview
Work = Callable[[memoryview], Buffer]
Job = tuple[int, Work, tuple[Descriptor, ...], bool]


class Workers:
    """A small pool. `Work` gets the thread's own buffer to fill and returns the payload, which may lie in that buffer."""

    def __init__(self, device_fd: int, buffer_size: int, threads: int) -> None:
        self._fd = device_fd
        self._buffer_size = buffer_size
        self._most = threads
        self.pending: set[int] = set()  # unique numbers of what is not finished
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starter = threading.get_ident()

    def submit(
        self, unique: int, work: Work, held: tuple[Descriptor, ...] = (), *, waits_for_us: bool = False
    ) -> None:
        """Let a thread answer request `unique` with what `work` returns or raises, and drop what the work `held`.

        Where no thread can be started who made the pool does it, or answers EAGAIN to work that `waits_for_us`.
        """
        self.pending.add(unique)
        self._queue.put((unique, work, held, waits_for_us))
        if threading.get_ident() == self._starter:
            self.start_missing()

    def start_missing(self) -> None:
        """Start as many threads as there is work for. Only who made the pool does: a thread begins with its starter's policy."""
        while len(self._threads) < min(self._most, len(self.pending)):
            thread = threading.Thread(target=self._run, name=f"worker-{len(self._threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                threads.warn()
                if not self._threads:
                    self._work_here()
                return
            self._threads.append(thread)

    def _work_here(self) -> None:
        """Do what waits: there is no thread that could."""
        buffer = memoryview(bytearray(self._buffer_size))
        while not self._queue.empty():
            job = self._queue.get()
            assert job is not None
            unique, work, held, waits_for_us = job
            self._answer(unique, *_outcome(unique, _refuse if waits_for_us else work, held, buffer))
            self.pending.discard(unique)

    def close(self) -> None:
        """Wait for what is being done; the device may be closed afterwards."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        be_ordinary()
        buffer = memoryview(bytearray(self._buffer_size))
        while (job := self._queue.get()) is not None:
            unique, work, held, _ = job
            self._answer(unique, *_outcome(unique, work, held, buffer))
            self.pending.discard(unique)

    def _answer(self, unique: int, error: int, payload: Buffer) -> None:
        header = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(payload), error, unique)
        try:
            os.writev(self._fd, (header, payload))
        except OSError as failure:
            if failure.errno not in _UNHEARD:
                log.error("cannot reply to request %d: %s", unique, failure.strerror)


def _refuse(_: memoryview) -> Buffer:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _outcome(unique: int, work: Work, held: tuple[Descriptor, ...], buffer: memoryview) -> tuple[int, Buffer]:
    """Do the work and drop what it held; return (0, payload) or (negative errno, nothing)."""
    try:
        try:
            return 0, work(buffer)
        finally:
            for descriptor in held:
                descriptor.drop()
    except OSError as error:
        return -shown_errno(error), b""
    except Exception:
        log.exception("request %d failed in a thread", unique)
        return -errno.EIO, b""
