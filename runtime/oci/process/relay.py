# SPDX-License-Identifier: Apache-2.0
"""Between the caller's terminal (or pipes) and the master of a container's terminal, with signals handed on meanwhile.

Only for a process in the foreground; it has threads neither before nor after.
"""

from __future__ import annotations

import os
import select
import termios
import tty

from runtime.oci import console
from runtime.oci.process.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 65536
_END_OF_INPUT = b"\x04"  # Ctrl-D, as a terminal has no end of file


class Relay:
    """Copies both ways until `collect` tells that the process has ended; a context manager that restores the terminal."""

    def __init__(self, master: int, forward: Callable[[int], None]) -> None:
        self._master = master
        self._forward = forward
        self._to_container = b""
        self._open = True
        self._ended_in: bool | None = None  # whether the terminal was canonical when our input ended
        self._saved: list[int | list[bytes | int]] | None = None
        self._wakeup, self._wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()

    def __enter__(self) -> Relay:
        os.set_blocking(self._master, False)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        for number in signal.valid_signals():
            try:
                signal.signal(number, lambda _number, _frame: None)
            except OSError:
                continue  # KILL, STOP and the two that the C library keeps
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
        self.resize()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        signal.set_wakeup_fd(-1)
        for fd in (self._wakeup, self._wakeup_writer, self._master):
            os.close(fd)

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if os.isatty(0):
            console.set_window(self._master, console.window_of(0))

    def attend(self, collect: Callable[[], int | None]) -> int:
        """Copy until `collect`, asked whenever a child has ended, returns an exit status; return it."""
        self._poll.register(self._wakeup, select.POLLIN)
        self._poll.register(0, select.POLLIN)
        self._poll.register(self._master, select.POLLIN)
        while (status := collect()) is None:
            ended = False
            while not ended:
                for fd, _ in self._poll.poll():
                    if fd == self._wakeup:
                        ended = self._take_signals() or ended
                    elif fd == 0:
                        self._take_input()
                    else:
                        self._take_output()
                        self._give_input()
        self._drain()
        return status

    def _take_signals(self) -> bool:
        numbers = os.read(self._wakeup, _CHUNK)
        for number in numbers:
            if number == signal.SIGWINCH:
                self.resize()
            elif number != signal.SIGCHLD:
                self._forward(number)
        return signal.SIGCHLD in numbers

    def _take_input(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except OSError:  # our terminal has gone
            data = b""
        if not data:
            self._poll.unregister(0)
            self._end_input()
        self._to_container += data
        self._give_input()

    def _end_input(self) -> None:
        self._ended_in = self._is_canonical()
        self._to_container += _END_OF_INPUT

    def _is_canonical(self) -> bool:
        """Tell whether the terminal makes lines, or gives each character at once; the master knows."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ICANON)

    def _give_input(self) -> None:
        try:
            if self._to_container:
                self._to_container = self._to_container[os.write(self._master, self._to_container) :]
        except BlockingIOError:
            pass
        except OSError:
            self._to_container = b""
        if self._open:
            self._poll.modify(self._master, select.POLLIN | (select.POLLOUT if self._to_container else 0))

    def _take_output(self) -> None:
        try:
            self._copy_output()
        except (
            OSError
        ):  # EIO: every process has closed the terminal; one may open it again, but nobody waits for that
            self._open = False
            self._poll.unregister(self._master)

    def _copy_output(self) -> bool:
        """Copy what is there; tell whether there was something. Raises OSError if the terminal is closed inside."""
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        while data:
            data = data[os.write(1, data) :]
        if self._ended_in is not None and self._is_canonical() != self._ended_in:
            self._end_input()  # a shell that has just taken over its terminal does not see what came before
        return True

    def _drain(self) -> None:
        try:
            while self._copy_output():
                pass
        except OSError:
            pass
