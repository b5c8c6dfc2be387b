# SPDX-License-Identifier: Apache-2.0
"""How a server comes to its end: signals that are obeyed at once, and mounts that nobody asks anything of any more."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import trio


@contextlib.contextmanager
def calling(action: Callable[[], bool], numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Call `action` when a signal comes; if it returns True, then the handler that is set now.

    trio's receivers tell tasks, and no task runs before what is at work has ended; signals that none has heard of when a
    receiver ends kill the process.
    """
    former = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: FrameType | None) -> None:
        handler = former[signal.Signals(number)]
        if action() and callable(handler):
            handler(number, frame)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def announced(event: trio.Event) -> Iterator[None]:
    """Set `event` at the end, however it comes."""
    try:
        yield
    finally:
        event.set()


async def is_idle(requests: Callable[[], int], gone: trio.Event, patience: float) -> bool:
    """Wait until the count `requests` stays the same for `patience` seconds, then True; False once `gone` is set."""
    before = -1
    while (count := requests()) != before:
        before = count
        with trio.move_on_after(patience):
            await gone.wait()
            return False
    return True
