# SPDX-License-Identifier: Apache-2.0
"""An interrupt that cannot be lost: Python drops an exception that is raised in a callback, of a weak reference for instance."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_asked = False


def expect() -> None:
    """From now on let SIGINT raise KeyboardInterrupt, at once or at the next `check`."""
    signal.signal(signal.SIGINT, _handle)
    sys.unraisablehook = _tell


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def _tell(dropped: sys.UnraisableHookArgs) -> None:
    if dropped.exc_type is not KeyboardInterrupt:  # that one is raised again
        sys.__unraisablehook__(dropped)


def check() -> None:
    """Raise KeyboardInterrupt if SIGINT came, also if that was raised before."""
    if _asked:
        raise KeyboardInterrupt
