# SPDX-License-Identifier: Apache-2.0
"""Waiting for signals and descriptors at once: for a process in the foreground that has something to copy or to hear."""

from __future__ import annotations

import os
import select

from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_SIGNALS = 65536


class EventLoop:
    """A context manager: within it signals arrive here instead of acting; those that were blocked before do so at its begin."""

    def __init__(self, forward: Callable[[int], None]) -> None:
        self._forward = forward  # called with the number of each signal that nothing else is done for
        self._on: dict[int, Callable[[], None]] = {signal.SIGCHLD: self._note_end}
        self._child_ended = False
        self._acts: dict[int, Callable[[], object]] = {}
        self._poll = select.poll()
        self._wakeup, self._wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> EventLoop:
        self.watch(self._wakeup, self._take_signals)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        for number in signal.valid_signals():
            try:
                signal.signal(number, lambda _number, _frame: None)
            except OSError:
                continue  # KILL, STOP and the two that the C library keeps
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(
            signal.SIG_SETMASK, signal.valid_signals()
        )  # what comes now waits for the next one
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)
        os.close(self._wakeup_writer)

    def on(self, number: int, act: Callable[[], None]) -> None:
        """Call `act` at each signal `number`."""
        self._on[number] = act

    def watch(self, fd: int, act: Callable[[], object], events: int = select.POLLIN) -> None:
        """Call `act` whenever `fd` is ready for `events`, or at its end."""
        self._acts[fd] = act
        self._poll.register(fd, events)

    def once(self, fd: int, act: Callable[[], object]) -> None:
        """Call `act` when `fd` can be read, or at its end, the first time."""

        def act_and_ignore() -> None:
            self.ignore(fd)
            act()

        self.watch(fd, act_and_ignore)

    def ignore(self, fd: int) -> None:
        """Watch `fd` no longer."""
        if self._acts.pop(fd, None):
            self._poll.unregister(fd)

    def wait(self, collect: Callable[[], int | None]) -> int:
        """Run until `collect`, asked whenever a child has ended, returns an exit status; return it."""
        while (status := collect()) is None:
            self._child_ended = False
            while not self._child_ended:
                for fd, _ in self._poll.poll():
                    if act := self._acts.get(fd):  # else another one has made it ignored
                        act()
        return status

    def _take_signals(self) -> None:
        for number in os.read(self._wakeup, _MOST_SIGNALS):
            if act := self._on.get(number):
                act()
            else:
                self._forward(number)

    def _note_end(self) -> None:
        self._child_ended = True
