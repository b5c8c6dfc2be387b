# SPDX-License-Identifier: Apache-2.0
"""Being the foreground parent of a container's process: copies its terminal, hands signals on, waits for its end.

Has threads neither before nor after.
"""

from __future__ import annotations

import os

from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.oci.process.notify import Readiness

    Beside = tuple[int, Callable[[], object]]

# About ourselves, not to be caught, or (the terminal's stop signals) meant for us.
_NOT_FORWARDED = (
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


def block() -> None:
    """Block every signal, so that none is lost before `wait` takes them; called before the fork (the exec unblocks)."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def wait(
    pid: int,
    master: int | None = None,
    readiness: Readiness | None = None,
    *,
    stdin: bool = True,
    beside: Beside | None = None,
) -> int:
    """Wait for the child `pid` and return its exit status (128 + n for signal n); for `run` and `exec`.

    Forwards signals and reaps whatever else becomes a child of ours. `master` is the terminal's other end, copied from
    and to our descriptors 0 (with `stdin`) and 1, with ours in raw mode if it is a terminal. What `readiness` hears is passed on
    meanwhile. `beside` is a descriptor and what is called, once, when it can be read or its other end has gone.
    """

    def forward(number: int) -> None:
        if number not in _NOT_FORWARDED:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    if master is not None or readiness is not None or beside is not None:
        return _wait_in_loop(lambda: collect(pid), forward, master, readiness, stdin=stdin, beside=beside)
    block()
    while (status := collect(pid)) is None:
        forward(signal.sigwait(signal.valid_signals()))
    return status


def _wait_in_loop(
    collect: Callable[[], int | None],
    forward: Callable[[int], None],
    master: int | None,
    readiness: Readiness | None,
    *,
    stdin: bool,
    beside: Beside | None,
) -> int:
    from runtime.oci.process.event_loop import EventLoop

    with EventLoop(forward) as loop:
        if readiness is not None:
            loop.watch(readiness.fileno(), readiness.hear)
        if beside is not None:
            fd, act = beside
            loop.once(fd, act)
        if master is None:
            status = loop.wait(collect)
        else:
            from runtime.oci.process.relay import Relay

            with Relay(master, loop, stdin=stdin):
                status = loop.wait(collect)
    if readiness is not None:
        readiness.hear()  # its last words
    return status


def collect(main: int) -> int | None:
    """Reap every child that has ended; return the exit status of `main` if it is among them."""
    status = None
    while True:
        try:
            pid, result = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == main:
            code = os.waitstatus_to_exitcode(result)
            status = code if code >= 0 else 128 - code
