# SPDX-License-Identifier: Apache-2.0
"""The client of a container in the foreground: has it made by the runtime, attends it, waits for the supervisor, and reports.

The container's first process is this one's child and dies with it; if the supervisor dies, it is killed. Whoever of the two is
left removes what they leave.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from runtime.engine import bundle, supervisor
from runtime.engine.container import Container
from runtime.engine.request import Request
from runtime.oci import channel as messages
from runtime.oci.failure import Failure
from unionfs.program import one_line

if TYPE_CHECKING:
    from runtime.oci.job import Request as Asked
    from runtime.oci.state import Container as Made

FAILED = 125
_CANNOT_EXECUTE, _NOT_FOUND, _INTERRUPTED = 126, 127, 128
_LOST = "the container's supervisor died; the container was killed and removed"
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# Of services that started us: it is not the container that they wait for, or have opened something for.
_NOT_FOR_CONTAINERS = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")


def run(request: Request, container: Container) -> int:
    """Run a container and return the exit status for our caller."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it cannot wait for a child
    for name in _NOT_FOR_CONTAINERS:
        os.environ.pop(name, None)
    run = _Run(request, container)
    try:
        status = run.make_and_wait()
    finally:
        run.wait_for_supervisor()
        container.clean()
    if run.problem:
        print(f"unionbox: {one_line(run.problem)}", file=sys.stderr)
    return status


class _Run:
    """One run: the container, and its supervisor unless the root is no union."""

    def __init__(self, request: Request, container: Container) -> None:
        self.problem = ""
        self._request = request
        self._container = container
        self._made: Made | None = None
        self._lost = False  # whether the supervisor ended before the container
        self._supervisor = -1
        self._channel: messages.Channel | None = None
        if request.wish.plain_rootfs is None:
            self._supervisor, self._channel = supervisor.fork(request, container)

    def make_and_wait(self) -> int:
        """Make the container, wait for its end, return its exit status; what kept it from starting becomes the problem."""
        status = FAILED
        try:
            status = self._make_and_wait()
        except Failure as failure:
            self._hear()
            self._lost = self._channel is not None and messages.has_ended(self._channel)
            if not self._lost:
                self.problem = self.problem or _words(failure, self._request.wish.arguments[0])
                return _status(failure)
        if self._lost:
            self._hear()
            self.problem = self.problem or _LOST
            return FAILED
        kills = self._made.group().oom_kills() if self._made is not None else 0
        if kills:
            self.problem = f"processes killed at the memory limit: {kills}"
        return status

    def _make_and_wait(self) -> int:
        # Only here: the supervisor loads its modules meanwhile, on another processor.
        from runtime.oci import create, log
        from runtime.oci.run_created import run_created
        from runtime.oci.settings import Settings

        log.speak_as("unionbox")
        wish = self._request.wish
        if not wish.stdin:
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            os.dup2(null, 0)
            os.close(null)
        settings = Settings(self._container.states, rootless=os.geteuid() != 0)
        asked = self._asked()
        self._made = create.create(settings, asked)
        beside = None if self._channel is None else (self._channel.fileno(), self._lose)
        return run_created(self._made, asked, keep=True, beside=beside)

    def _asked(self) -> Asked:
        from runtime.oci import job

        directory = self._container.directory
        asked = job.Request(self._container.id, directory, os.path.join(directory, bundle.CONFIG))
        asked.detach = False
        asked.tied = True
        asked.init = self._request.wish.init
        asked.stdin = self._request.wish.stdin
        return asked

    def _lose(self) -> None:
        """The supervisor has died or cannot serve: a container without a root must go."""
        assert self._made is not None
        self._lost = True
        os.kill(self._made.record["pid"], signal.SIGKILL)  # ours, and not waited for yet

    def _hear(self) -> None:
        """Take what the supervisor has said, if it has: why it cannot serve is the reason of all that follows."""
        channel = self._channel
        while channel is not None and messages.has_words(channel):
            word, text, _ = messages.receive(channel)
            if not word:
                return
            self.problem = self.problem or text

    def wait_for_supervisor(self) -> None:
        """Tell the supervisor that the container has ended, and wait until it has, too; what would end us ends its work."""
        channel = self._channel
        if channel is None:
            return
        messages.send(channel, supervisor.ENDED)
        from runtime.oci.process.event_loop import EventLoop

        with EventLoop(self._hurry) as loop:
            loop.wait(self._collect)
        self._hear()

    def _hurry(self, number: int) -> None:
        if number in _ENDING:
            try:
                os.kill(self._supervisor, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def _collect(self) -> int | None:
        """Return 0 when the supervisor has ended; who waited for the container may have reaped it."""
        try:
            return None if os.waitpid(self._supervisor, os.WNOHANG) == (0, 0) else 0
        except ChildProcessError:
            return 0


def _status(failure: Failure) -> int:
    known = failure.program or failure.status
    return known if known in (_CANNOT_EXECUTE, _NOT_FOUND) or known > _INTERRUPTED else FAILED


def _words(failure: Failure, program: str) -> str:
    """Return what to say; of a program that cannot be executed its name and the reason, as a shell does."""
    if not (failure.program or failure.status in (_CANNOT_EXECUTE, _NOT_FOUND)):
        return failure.line()
    return failure.line().removeprefix("exec ").replace(f'"{one_line(program)}"', program, 1)
