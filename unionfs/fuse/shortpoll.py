# SPDX-License-Identifier: Apache-2.0
"""Wait a moment for the next request before the event loop does: leaving and entering that takes longer than most requests.

The wait is one poll(2), asleep. Polling without sleep was tried and measured: it keeps a processor from the clients, also
from the one that waits for the answer, and is no faster even on an idle machine (docs/profile.md).
"""

from __future__ import annotations

import select

# For so long other tasks of the event loop can wait.
_MOMENT_MS = 1


class ShortPoll:
    """Waits for input on one descriptor."""

    # All that wait in this process: none may be kept waiting for another one.
    _everybody = select.poll()
    _count = 0

    def __init__(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll = poller.poll
        self._fd = fd
        self._everybody.register(fd, select.POLLIN)
        ShortPoll._count += 1

    def ready(self) -> bool:
        """Tell whether there is input now or in a moment."""
        if self._count == 1:
            return bool(self._poll(_MOMENT_MS))
        return bool(self._poll(0)) or any(fd == self._fd for fd, _ in self._everybody.poll(_MOMENT_MS))

    def close(self) -> None:
        """Wait no more: the descriptor is about to be closed."""
        self._everybody.unregister(self._fd)
        ShortPoll._count -= 1
