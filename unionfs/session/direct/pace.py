# SPDX-License-Identifier: Apache-2.0
"""Whether the disk held a write up a moment ago: then others are left to threads for a while, so that no client waits for it."""

from __future__ import annotations

import time

# A write that takes longer was held up (1 MiB into the page cache takes 0.3 ms).
_SLOW_SECONDS = 2e-3
_SLOW_FOR_SECONDS = 0.2


class Pace:
    """How writes go that the thread that serves makes itself."""

    def __init__(self) -> None:
        self._slow_until = 0.0

    @property
    def slow(self) -> bool:
        """Tell whether a thread is to write."""
        return time.monotonic() < self._slow_until

    def since(self, start: float) -> None:
        """Note that a write which began at `start` has ended."""
        end = time.monotonic()
        if end - start > _SLOW_SECONDS:
            self._slow_until = end + _SLOW_FOR_SECONDS
