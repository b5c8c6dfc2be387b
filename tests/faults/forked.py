# SPDX-License-Identifier: Apache-2.0
"""Run the program `unionfs` in a process that is forked, not executed: its modules are there, its calls can be decided over."""

from __future__ import annotations

import gc
import itertools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence

import unionfs.cli.client
import unionfs.cli.commit
import unionfs.cli.main
import unionfs.server.process
import unionfs.session.direct
import unionfs.session.pyfuse3.session
from tests.faults.calls import Fault
from tests.faults.injector import Injector, Trace, listen
from tests.support.syscalls import die_with_parent
from unionfs.branches import stage


class Forked:
    """A process that runs `unionfs ARGUMENTS`, with both outputs to a descriptor; what tests need of subprocess.Popen.

    Its calls are those of `injector`, and it does not begin before `go`.
    """

    def __init__(self, arguments: Sequence[str], output: int) -> None:
        self.arguments = tuple(arguments)
        self.returncode: int | None = None
        self._channel, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            _be(arguments, output, theirs)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        self.injector = Injector(self.pid, descriptors[0])

    def go(self) -> None:
        """Let it begin."""
        self._channel.send(b".")
        self._channel.close()

    def poll(self) -> int | None:
        """Return how it ended, None if it has not."""
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return how it ended; subprocess.TimeoutExpired."""
        if self.returncode is None and timeout is not None:
            fd = os.pidfd_open(self.pid)
            try:
                if not select.select([fd], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.arguments, timeout)
            finally:
                os.close(fd)
        status = self._wait(0)
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _wait(self, flags: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _be(arguments: Sequence[str], output: int, channel: socket.socket) -> None:
    """Be the program, and never return."""
    status = 1
    try:
        die_with_parent()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter("ignore")  # a test run makes errors of them
        gc.freeze()
        stage._counter = itertools.count(random.SystemRandom().getrandbits(16))  # as in a new interpreter
        listener = listen()
        socket.send_fds(channel, [b"."], [listener])
        os.close(listener)
        channel.recv(1)  # it may begin
        status = _status(arguments)
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, "".join(traceback.format_exception(error)).encode())
    finally:
        os._exit(status)


def _status(arguments: Sequence[str]) -> int:
    try:
        return unionfs.cli.main.main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def run(
    arguments: Sequence[str], timeout: float, calls: Sequence[str] = (), fault: Fault | None = None
) -> tuple[int, str, Trace]:
    """Run a command to its end, with its calls watched; return status, output and trace; subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as output:
        process = Forked(arguments, output.fileno())
        with process.injector.watching(calls, fault) as trace:
            process.go()
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        output.seek(0)
        return status, output.read().decode(errors="replace"), trace
