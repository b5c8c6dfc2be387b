# SPDX-License-Identifier: Apache-2.0
"""A second thread that serves behind the client, for a server that could not leave SCHED_IDLE again (place.py).

Everybody may take that policy, but only for good. It is a thread's own, though: the stand-in takes it once and serves while
the first thread waits for it, so exactly one of the two serves at any time, and the event loop never runs behind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

# A stand-in that has not begun by then does not get a processor.
_BEGINS = 3e-3


class StandIn:
    """The thread; it is started when it is needed for the first time, by the thread that it serves for."""

    def __init__(self, serve: Callable[[], None]) -> None:
        self._serve = serve
        self._offer = (
            threading.Lock()
        )  # free while there is something to do that neither of the two has taken
        self._done = threading.Lock()
        self._offer.acquire()
        self._done.acquire()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._refused = False

    def take_over(self) -> bool:
        """Have the stand-in serve and return when it has ended; False if it could not even begin."""
        if self._refused:
            return False
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="stand-in", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # a limit of processes
                self._refused = True
                return False
            self._thread = thread
        self._offer.release()
        if not self._done.acquire(timeout=_BEGINS):
            if self._offer.acquire(blocking=False):
                return False
            self._done.acquire()
        if self._error is not None:
            raise self._error
        return not self._refused

    def close(self) -> None:
        """Let the thread end, when it gets a processor."""
        self._serve = _nothing
        self._refused = True
        if self._thread is not None:
            self._offer.release()

    def _run(self) -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a filter of system calls
            self._refused = True
        while True:
            self._offer.acquire()
            if not self._refused:
                try:
                    self._serve()
                except BaseException as error:  # the first thread raises it
                    self._error = error
            self._done.release()
            if self._refused:
                return


def _nothing() -> None:
    pass
