# SPDX-License-Identifier: Apache-2.0
"""Descriptors that several hold, and errands: work for another thread on descriptors that it holds.

A bare number is no reference: once its owner has closed it, it may mean another file. So what waits for a thread holds what
it works on, and the number stays taken until the last holder has dropped it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NamedTuple

# One for all: it is taken only while a descriptor has several holders.
_counting = threading.Lock()


class Descriptor:
    """A descriptor with one holder at first, who made it; who holds it may let others hold it too."""

    __slots__ = ("_holders", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._holders = 1

    def hold(self) -> None:
        """Keep the descriptor open until one more `drop`; to be called by, or on behalf of, a holder."""
        with _counting:
            self._holders += 1

    def drop(self) -> None:
        """Hold the descriptor no more; the last one closes it."""
        if self._holders > 1:
            with _counting:
                self._holders -= 1
                if self._holders:
                    return
        fd, self.fd = self.fd, -1  # whoever still uses it gets EBADF, and never somebody else's file
        os.close(fd)


class Errand(NamedTuple):
    """Work that may block, for another thread: `function` returns the payload of the reply, or None for an empty one.

    Whoever takes an errand drops each of `held` once, after the work or instead of it. One that `waits_for_us` makes the kernel
    ask the thread that serves for something, and so must not be done by that.
    """

    function: Callable[[], bytes | memoryview | None]
    held: tuple[Descriptor, ...] = ()
    waits_for_us: bool = False

    def drop(self) -> None:
        """Drop what the errand holds."""
        for descriptor in self.held:
            descriptor.drop()


def errand(
    function: Callable[[], bytes | memoryview | None], *descriptors: Descriptor, waits_for_us: bool = False
) -> Errand:
    """Return an errand that holds `descriptors`, which stay the caller's too."""
    for descriptor in descriptors:
        descriptor.hold()
    return Errand(function, descriptors, waits_for_us)
