# SPDX-License-Identifier: Apache-2.0
"""A process beside the server that only makes a system call, where a thread may wait for the server's own answer for ever.

It is forked and executes no program: what would have to be looked for in PATH or read from /usr may lie in the union that is
mounted there. Such a child of vfork(2), which subprocess uses, would even hold the server up, which waits for the exec with the
interpreter's lock in its hands.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import trio

from unionfs.session import threads

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def ask(work: Callable[[], str]) -> str:
    """Return what `work` returns in a child of its own, or "" if it fails there.

    It must do without threads, the event loop and descriptors, which the child does not have: a copy of the device would keep
    the connection open if the server was killed.
    """
    reading, writing = os.pipe()
    try:
        pid = await threads.retry(lambda: _fork(work, writing))
    finally:
        os.close(writing)
    with open(reading, "rb", buffering=0) as stream:
        answer = b""
        while True:
            await trio.lowlevel.wait_readable(stream)
            if not (part := stream.read(1 << 16)):
                break
            answer += part
    os.waitpid(pid, 0)  # it has answered and ends
    return os.fsdecode(answer)


def _fork(work: Callable[[], str], writing: int) -> int:
    # Handlers are the server's; until the child knows that it is not the server it must not be asked to end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(work, writing)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_child(work: Callable[[], str], writing: int) -> None:
    try:
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        os.write(writing, os.fsencode(work()))
    finally:
        os._exit(0)
