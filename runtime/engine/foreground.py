# SPDX-License-Identifier: Apache-2.0
"""The client of a container in the foreground: forwards signals, lends the terminal, waits, and reports.

If the supervisor dies, init dies with it, and this process removes what they leave.
"""

import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable

from runtime.engine import supervisor
from runtime.engine.container import Container
from runtime.engine.request import Request
from runtime.oci import channel as messages
from runtime.oci import console, syscalls
from unionfs.program import one_line

_PR_SET_CHILD_SUBREAPER = 36
_LOCAL = {
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGABRT,
}
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_CHUNK = 65536


def run(request: Request, container: Container) -> int:
    """Run a container and return the exit status for our caller."""
    # So that init, whose parent may be killed, comes to us to be reaped.
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control, supervisor_side = messages.pair()
    terminal, container_side = messages.pair() if request.spec.process.terminal else (None, None)
    pid = os.fork()
    if pid == 0:
        control.close()
        if terminal is not None:
            terminal.close()
        supervisor.main(request, container, supervisor_side, container_side)
    supervisor_side.close()
    if container_side is not None:
        container_side.close()
    client = _Client(request, control, terminal, pid)
    try:
        status = client.attend()
    finally:
        client.restore()
        _wait_for_children(pid)
        container.clean()  # usually the supervisor has, and there is nothing left to do
    if client.problem:
        print(f"unionbox: {one_line(client.problem)}", file=sys.stderr)
    return status


def _wait_for_children(pid: int) -> None:
    """Wait for the supervisor and then for whatever else has become our child."""
    try:
        os.waitpid(pid, 0)
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


class _Client:
    """Moves signals, terminal bytes and messages until the container has ended."""

    def __init__(
        self, request: Request, control: messages.Channel, terminal: messages.Channel | None, supervisor: int
    ) -> None:
        self.problem = ""
        self._request = request
        self._control = control
        self._terminal = terminal
        self._supervisor = supervisor
        self._status: int | None = None
        self._pidfd = -1
        self._pending: list[int] = []
        self._master = -1
        self._to_container = b""
        self._saved: list[int | list[bytes | int]] | None = None
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._catch_signals()

    def _catch_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        for number in signal.valid_signals() - _LOCAL:
            try:
                signal.signal(number, lambda _number, _frame: None)
            except OSError:
                continue

    def attend(self) -> int:
        """Work until the supervisor has gone; return the exit status."""
        handlers: dict[int, Callable[[], bool]] = {
            self._control.fileno(): self._hear,
            self._wakeup.fileno(): self._forward_signals,
        }
        if self._terminal is not None:
            handlers[self._terminal.fileno()] = lambda: self._take_terminal(handlers)
        while True:
            readers = list(handlers)
            writers = [self._master] if self._to_container and self._master >= 0 else []
            readable, writable, _ = select.select(readers, writers, [])
            if writable:
                self._write_to_container()
            for fd in readable:
                if not handlers[fd]():
                    if fd == self._control.fileno():
                        return self._finish()
                    del handlers[fd]

    def _finish(self) -> int:
        if self._master >= 0:
            # What the terminal still holds.
            while select.select([self._master], [], [], 0)[0] and self._copy_output():
                pass
        if self._status is None:
            self.problem = "the container's supervisor died; the container was killed and removed"
            return supervisor.FAILED
        return self._status

    def _hear(self) -> bool:
        word, text, descriptors = messages.receive(self._control)
        if word == "init":
            self._pidfd = descriptors[0]
            for number in self._pending:
                self._send_signal(number)
        elif word == "error":
            status, _, self.problem = text.partition(" ")
            if self._status is None:
                self._status = int(status)
        elif word == "warning":
            self.problem = self.problem or text
        elif word == "exit" and self._status is None:
            self._status = int(text)
        return bool(word)

    def _forward_signals(self) -> bool:
        for number in self._wakeup.recv(256):
            if number == signal.SIGWINCH:
                self._resize()
            elif self._pidfd < 0:
                self._pending.append(number)
            else:
                self._send_signal(number)
        return True

    def _send_signal(self, number: int) -> None:
        if self._status is None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass
        elif number in _ENDING:  # what the supervisor still does may be left undone
            os.kill(self._supervisor, signal.SIGTERM)

    def _resize(self) -> None:
        if self._master >= 0 and os.isatty(1):
            console.set_window(self._master, console.window_of(1))

    def _take_terminal(self, handlers: dict[int, Callable[[], bool]]) -> bool:
        word, _, descriptors = messages.receive(self._terminal) if self._terminal else ("", "", [])
        if word == "terminal":
            self._master = descriptors[0]
            os.set_blocking(self._master, False)
            self._resize()
            handlers[self._master] = self._copy_output
            if self._request.spec.process.stdin:
                if os.isatty(0):
                    self._saved = termios.tcgetattr(0)
                    tty.setraw(0)
                handlers[0] = self._copy_input
        return False

    def _copy_output(self) -> bool:
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last process has closed the terminal
            return False
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None
        return True

    def _copy_input(self) -> bool:
        data = os.read(0, _CHUNK)
        self._to_container += data or b"\x04"  # the end of input is Ctrl-D to a terminal
        self._write_to_container()
        return bool(data)

    def _write_to_container(self) -> None:
        try:
            self._to_container = self._to_container[os.write(self._master, self._to_container) :]
        except BlockingIOError:
            pass
        except OSError:
            self._to_container = b""

    def restore(self) -> None:
        """Give the user the terminal back as it was."""
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            self._saved = None
