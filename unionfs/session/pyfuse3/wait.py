# SPDX-License-Identifier: Apache-2.0
"""Let pyfuse3 poll for the next request for a moment before it sleeps, as the direct session does.

pyfuse3 waits with `trio.lowlevel.wait_readable`, and finds `trio` in its own module, where another implementation may take
its place (`pyfuse3.asyncio.enable` does the same). So no code of pyfuse3 is changed, and the end of the session undoes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pyfuse3
import trio

from unionfs.session.waiting.short_poll import ShortPoll


@contextlib.contextmanager
def short_poll(device_fd: int) -> Iterator[None]:
    """Within this context pyfuse3's loop polls `device_fd`, of which its own descriptor is a duplicate, before it sleeps.

    Other tasks still get their turn before each request: the lock around pyfuse3's waiting is a checkpoint.
    """
    poll = ShortPoll(device_fd)

    async def wait_readable(fd: int) -> None:
        if trio.lowlevel.current_statistics().tasks_runnable or not poll.ready():
            await trio.lowlevel.wait_readable(fd)

    lowlevel = SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": wait_readable})
    names = pyfuse3.__dict__
    former = names["trio"]
    names["trio"] = SimpleNamespace(**{**vars(trio), "lowlevel": lowlevel})
    try:
        yield
    finally:
        names["trio"] = former
        poll.close()
