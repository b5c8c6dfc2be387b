# SPDX-License-Identifier: Apache-2.0
"""Poll a descriptor for a moment before sleeping: being woken costs more than most requests take to answer.

How long is learnt. It pays while the next request comes within `_LONGEST` of the last answer; a poll in vain shortens the
next one, down to none, and a sleep that turned out short brings it back. It stops for a while when the scheduler took the
processor away meanwhile (the machine is busy), and never starts on a single processor.
"""

from __future__ import annotations

import os
import select
import time

_LONGEST = 100e-6
_SHORTEST = 10e-6
# One step of the loop takes a microsecond or two; one that took this long was interrupted by somebody else's work.
_PREEMPTED = 60e-6
_REST_SECONDS = 5e-3


class ShortPoll:
    """Polls one descriptor for input."""

    def __init__(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll = poller.poll
        self._possible = len(os.sched_getaffinity(0)) > 1
        self._window = _LONGEST if self._possible else 0.0  # seconds
        self._rest_until = 0.0

    def ready(self) -> bool:
        """Tell whether there is input now or, where polling for it pays, soon."""
        window = self._window
        poll, clock = self._poll, time.perf_counter
        if not window:
            return bool(poll(0))
        start = now = clock()
        while not poll(0):
            before, now = now, clock()
            if now - before > _PREEMPTED:
                self._window = 0.0
                self._rest_until = now + _REST_SECONDS
                return False
            if now - start > window:
                self._window = window / 2 if window > _SHORTEST else 0.0
                return False
        self._window = _LONGEST
        return True

    def slept(self, seconds: float) -> None:
        """Learn from how long the sleep after a poll in vain took."""
        if seconds < _LONGEST and self._possible and time.perf_counter() > self._rest_until:
            self._window = _LONGEST
