# SPDX-License-Identifier: Apache-2.0
"""Whether work that may block is done in the loop: as long as the disk answers faster than a thread could be woken."""

from __future__ import annotations

# Handing work to a thread and back costs 50 to 100 µs.
_SHORT = 0.4e-3
_LONG = 1e-3
_ENOUGH = 8


class Pace:
    """Learns from how long the same kind of work took, in the loop and in threads."""

    def __init__(self) -> None:
        self._short = 0  # in a row

    @property
    def is_quick(self) -> bool:
        """Tell whether the work has been short so often that the next one probably is."""
        return self._short >= _ENOUGH

    def took(self, seconds: float) -> None:
        """Learn: one that was long ends it."""
        if seconds < _SHORT:
            self._short += 1
        elif seconds > _LONG or self._short < _ENOUGH:
            self._short = 0
