# SPDX-License-Identifier: Apache-2.0
"""Wait a moment for the next request before the event loop does: leaving and entering that takes longer than most requests.

The wait is one poll(2), asleep. That is best where client and server take turns on one processor, which then never idles: so
a server with a busy client goes to the client's (place.py). Where that cannot be, it asks for the next request again and
again instead of sleeping.
"""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Callable

import trio

from unionfs.kernel import syscalls
from unionfs.session.waiting.place import Place
from unionfs.session.waiting.processors import go_to, is_quiet, processor_of
from unionfs.session.waiting.stand_in import StandIn

# A client that sends its next request within this time after an answer is busy.
_SOON = 200e-6
# So many short sleeps in a row, and it is looked where the client runs.
_ENOUGH = 8
# So many where it is known to be: we share its processor, which one of the two has left, or did just now.
_AGAIN = 2
_JUST_NOW = 0.1
# So long is asked before another attempt to share a processor.
_TERM = 0.1
# Asking goes on while one time in so many is in vain.
_PATIENCE = 4
# One question takes a microsecond or two; one that took this long may have been interrupted by somebody else's work.
_INTERRUPTED = 30e-6
_REST = 20e-3
# For so long other tasks of the event loop can wait.
_MOMENT_MS = 1
# And for so long while a stand-in serves: two threads change places.
_SLICE = 5e-3
# A stand-in that waited this long for its next request, or for a processor, is starving.
_STARVED = 3e-3
_RECOVERS = 0.25


class ShortPoll:
    """Waits for input on one descriptor; alone on a processor, or with several mounts in the process, always asleep."""

    # All that wait in this process: none may be kept waiting for another one.
    _everybody = select.poll()
    _count = 0

    def __init__(self, fd: int, serve: Callable[[], None] | None = None) -> None:
        """`serve` answers requests as long as `goes_on_behind` says so; a stand-in may call it."""
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll = poller.poll
        self._fd = fd
        self.wants_client = False  # whether the session is to call `meet`
        self._place = Place()
        self._short = 0  # short sleeps in a row
        self._shared_until = 0.0  # when sharing a processor with the client will be long ago
        self._followed = False
        self._asking = False
        self._until = 0.0  # when that or the rest from it ends
        self._credit = 0
        self._switches = 0
        self._stand_in = StandIn(serve) if serve is not None and self._place.needs_stand_in else None
        self._stands_in = False  # whether the stand-in is to serve
        self._lent = False  # whether it does
        self._term_ends = self._slice_ends = self._last = self._rests_until = 0.0
        self._everybody.register(fd, select.POLLIN)
        ShortPoll._count += 1

    def goes_on(self) -> bool:
        """Tell whether to look for the next request; False once a stand-in has served: the loop's tasks waited long enough."""
        if self._place.behind:
            self._place.check(time.perf_counter())
        elif self._stands_in:
            self._lend(time.perf_counter())
            return False
        return True

    def ready(self) -> bool:
        """Tell whether there is input now or in a moment."""
        return self.goes_on() and (bool(self._poll(0)) or self.comes())

    def comes(self) -> bool:
        """Tell whether the next request, which is not there yet, comes in a moment."""
        poll, clock, place = self._poll, time.perf_counter, self._place
        if self._count > 1:
            place.step_forward()
            return any(fd == self._fd for fd, _ in self._everybody.poll(_MOMENT_MS))
        if self._asking and self._ask():
            return True
        start = clock()
        found = bool(poll(_MOMENT_MS))
        if place.behind:
            self._shared_until = start + _JUST_NOW
        if not found:
            self._short, self._followed = 0, False
            place.step_forward()
        elif clock() - start < _SOON:
            self._short += 1
            if self._short >= (_AGAIN if start < self._shared_until else _ENOUGH):
                self._short = 0
                self.wants_client = self._place.choice
        return found

    def meet(self, client: int) -> None:
        """See where the thread `client` runs, which waits for the request that was just read, in no other call than for a path.

        Only then may it be asked for: the kernel tells after an execve(2) that goes on, and that may wait for us.
        """
        self.wants_client = False
        if self._lent:
            self._stands_in = self._follow(client)
        else:
            self._find_place(client, time.perf_counter())

    def _find_place(self, client: int, now: float) -> None:
        """Share the busy client's processor; where that was tried in vain, begin to ask."""
        if not self._place.choice or now < self._until or self._place.go_behind(client, now):
            return
        if self._stand_in is not None and now > self._rests_until and is_quiet():
            self._stands_in, self._term_ends = True, now + _TERM
            return
        there = processor_of(client)
        if there is None or there == syscalls.current_processor():
            self._followed = False
        elif not self._followed and go_to(there):
            self._followed = True
        else:
            self._followed = False
            # As soon as going behind is possible again, that is better.
            ends = self._place.rests_until if now < self._place.rests_until else now + _TERM
            self._asking, self._until, self._credit = True, ends, 2 * _PATIENCE
            self._switches = _switches()

    # -- a stand-in serves ------------------------------------------------------------------------------------------

    def _lend(self, now: float) -> None:
        """Let the stand-in serve for a while, if nobody else needs the processor."""
        assert self._stand_in is not None
        if now > self._term_ends:
            self._term_ends = now + _TERM
            if not is_quiet():
                self._stands_in = False
                return
        self._slice_ends, self._last = now + _SLICE, 0.0
        self._lent = True
        if not self._stand_in.take_over():
            self._stands_in, self._rests_until = False, now + _RECOVERS
        self._lent = False

    def goes_on_behind(self) -> bool:
        """Tell the stand-in whether it is still to look for the next request; else its time is over."""
        now = time.perf_counter()
        if not self._last:
            self._short = 0
            self._stands_in = self.wants_client = self._count == 1
        elif now - self._last > _STARVED:
            self._stands_in, self._rests_until = False, now + _RECOVERS
        self._last = now
        return now < self._slice_ends and self._stands_in

    def wait_behind(self) -> None:
        """Wait a moment, in the stand-in, for the next request: there is none yet."""
        self._stands_in = bool(self._poll(_MOMENT_MS))
        if time.perf_counter() - self._last < _SOON:
            self._short += 1
            if self._short == _AGAIN:
                self._short = 0
                self.wants_client = True

    def _follow(self, client: int) -> bool:
        """Go where the client is."""
        there = processor_of(client)
        return there is not None and (there == syscalls.current_processor() or go_to(there))

    # -- asking -----------------------------------------------------------------------------------------------------

    def _ask(self) -> bool:
        """Ask until there is input, and give up where the next request does not come soon."""
        poll, clock = self._poll, time.perf_counter
        start = now = clock()
        while now - start < _SOON:
            if poll(0):
                self._credit = min(self._credit + 1, 2 * _PATIENCE)
                self._asking = now < self._until
                return True
            before, now = now, clock()
            if now - before > _INTERRUPTED and _switches() != self._switches:
                # Somebody else needs our processor, maybe the client.
                self._asking, self._until = False, now + _REST
                return False
        self._credit -= _PATIENCE
        self._asking = self._credit >= 0
        return False

    async def pause(self) -> None:
        """Give other tasks their turn; they may start threads, which would stay behind too."""
        behind = self._place.behind
        self._place.step_forward()
        await trio.lowlevel.checkpoint()
        if behind:
            self._place.step_back(time.perf_counter())

    def rest(self) -> None:
        """Nobody is busy: the event loop waits from now on."""
        self._place.step_forward()

    def close(self) -> None:
        """Wait no more: the descriptor is about to be closed."""
        self._everybody.unregister(self._fd)
        ShortPoll._count -= 1
        if self._stand_in is not None:
            self._stand_in.close()


def _switches() -> int:
    """Return how often the scheduler took the processor from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
