# SPDX-License-Identifier: Apache-2.0
"""Where the server runs: on the processor of the client that keeps it busy, and behind that client.

Client and server that take turns on one processor keep it awake; on two, each waits for the other one's to wake, which in
virtual machines takes several times as long as a request. But the kernel moves a client that is woken to an idle processor. It
does not when the server that wakes it runs with the policy SCHED_IDLE, which counts as idle. Such a server has hardly any
share of a processor that somebody else needs too: so it is for a tenth of a second at a time, only while there are enough
processors for all, and ends at the first sign of waiting. It is bound to the processor meanwhile: if it sleeps when a
request comes, which it does where something ranks it with the client as equals (the kernel's autogroups do, one for each
login session or daemon), it would be woken on the idle one. docs/profile.md has the figures.
"""

from __future__ import annotations

import os
import threading

from unionfs.session.waiting import processors

_TERM = 0.1
# No request takes so long unless its branch is slow or somebody else has the processor.
_WAITED = 3e-3
# The rest after that: one slow request shall not cost a busy client a quarter of a second, but waiting again and again may.
_REST = 0.02
_LONGEST_REST = 0.32
# Somebody wanted the whole server behind everybody.
_STARTED_IDLE = os.sched_getscheduler(0) == os.SCHED_IDLE


class Place:
    """The place of the thread that serves."""

    def __init__(self) -> None:
        self._several = len(os.sched_getaffinity(0)) > 1
        self._can_step_back = self._several and _can_return()
        self.behind = False  # whether the client goes before us
        self._last = 0.0
        self._until = 0.0
        self.rests_until = 0.0  # before then it is no use to ask for going behind
        self._rest = _REST
        self._processor = 0  # that we are bound to while we are behind

    @property
    def choice(self) -> bool:
        """Tell whether there is more than one processor."""
        return self._several

    @property
    def needs_stand_in(self) -> bool:
        """Tell whether we could go behind a client, but not come back."""
        return self._several and not self._can_step_back and os.sched_getscheduler(0) == os.SCHED_OTHER

    def go_behind(self, client: int, now: float) -> bool:
        """Share the processor of the thread `client` and let it go first; False if that would not be good now."""
        if not self._can_step_back or now < self.rests_until:
            return False
        there = processors.processor_of(client)
        if there is None or (self.behind and there == self._processor):
            return there is not None
        if not self.behind:
            # Somebody may have chosen another policy meanwhile.
            if not processors.is_quiet() or os.sched_getscheduler(0) != os.SCHED_OTHER:
                return False
            self._until = now + _TERM
        self.step_forward()
        self._processor = there
        return self.step_back(now)

    def step_back(self, now: float) -> bool:
        """Be scheduled after everybody else on the client's processor, as found last; False if we may not use that any more."""
        if not processors.bind(self._processor):
            return False
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        self.behind = True
        self._last = now
        return True

    def check(self, now: float) -> None:
        """Between two requests: go on as before only while nobody else needs the processor."""
        if now - self._last > _WAITED:
            self.rests_until = now + self._rest
            self._rest = min(2 * self._rest, _LONGEST_REST)
            self.step_forward()
        elif now > self._until:
            self._until = now + _TERM
            self._rest = _REST
            if not processors.is_quiet():
                self.step_forward()
        self._last = now

    def step_forward(self) -> None:
        """Be scheduled as before again; to be called before anything but the next request is waited for."""
        if self.behind:
            self.behind = False
            processors.unbind(self._processor)
            if os.sched_getscheduler(0) == os.SCHED_IDLE:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def be_ordinary() -> None:
    """Give the calling thread the ordinary policy and all processors: it may have been started by a thread that is behind.

    Not where the whole server was started with that policy, which it need not be allowed to leave.
    """
    if not _STARTED_IDLE and os.sched_getscheduler(0) == os.SCHED_IDLE:
        processors.let_run_anywhere()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _can_return() -> bool:
    """Tell whether SCHED_IDLE can be left again, which takes privileges (or RLIMIT_NICE); tried by a thread that ends then."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    returned = False

    def attempt() -> None:
        nonlocal returned
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            returned = True
        except OSError:
            pass

    thread = threading.Thread(target=attempt)
    try:
        thread.start()
    except RuntimeError:  # a limit of processes
        return False
    thread.join()
    return returned
