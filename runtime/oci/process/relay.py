# SPDX-License-Identifier: Apache-2.0
"""Between the caller's terminal (or pipes) and the master of a container's terminal, for a process in the foreground."""

from __future__ import annotations

import os
import select
import termios
import tty

from runtime.oci import console
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.process.event_loop import EventLoop

_CHUNK = 65536
_END_OF_INPUT = b"\x04"  # Ctrl-D, as a terminal has no end of file


class Relay:
    """Copies both ways, or only from the container without `stdin`, as long as the event loop runs.

    A context manager that restores our terminal. OSError with the path "standard output" if that cannot be written.
    """

    def __init__(self, master: int, loop: EventLoop, *, stdin: bool = True) -> None:
        self._master = master
        self._stdin = stdin
        self._loop = loop
        self._to_container = b""
        self._open = True
        self._ended_in: bool | None = None  # whether the terminal was canonical when our input ended
        self._saved: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> Relay:
        os.set_blocking(self._master, False)
        if self._stdin:
            self._loop.watch(0, self._take_input)
        self._loop.watch(self._master, self._exchange)
        if self._stdin and os.isatty(0):
            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
        self._loop.on(signal.SIGWINCH, self._resize)
        self._resize()
        return self

    def __exit__(self, *_: object) -> None:
        self._drain()
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        os.close(self._master)

    def _resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if window := console.own_window():
            console.set_window(self._master, window)

    def _exchange(self) -> None:
        self._take_output()
        self._give_input()

    def _take_input(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except OSError:  # our terminal has gone
            data = b""
        if not data:
            self._loop.ignore(0)
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
            wanted = select.POLLIN | (select.POLLOUT if self._to_container else 0)
            self._loop.watch(self._master, self._exchange, wanted)

    def _take_output(self) -> None:
        self._copy_output()
        if not self._open:
            self._loop.ignore(self._master)

    def _copy_output(self) -> bool:
        """Copy what is there; tell whether there was something."""
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: all have closed the terminal; one may open it again, but nobody waits for that
            self._open = False
            return False
        _write_out(data)
        if self._ended_in is not None and self._is_canonical() != self._ended_in:
            self._end_input()  # a shell that has just taken over its terminal does not see what came before
        return True

    def _drain(self) -> None:
        while self._copy_output():
            pass


def _write_out(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(1, data) :]
        except BlockingIOError:  # our caller's pipe does not wait; we do
            select.select([], [1], [])
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None
