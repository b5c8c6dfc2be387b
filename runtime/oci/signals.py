# SPDX-License-Identifier: Apache-2.0
"""Signals without the package `signal`, whose enumerations cost more than a container's start can spare."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

__all__ = ["signal"]
