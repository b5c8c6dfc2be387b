# SPDX-License-Identifier: Apache-2.0
"""The signals of a process that is about to become the user's program."""

from __future__ import annotations

from runtime.oci.process import syscalls
from runtime.oci.signals import signal

_UNCHANGEABLE = (signal.SIGKILL, signal.SIGSTOP)


def reset() -> None:
    """Give every signal its default action and unblock it: an ignored one (Python's SIGPIPE, nohup's SIGHUP) survives exec."""
    for number in signal.valid_signals():
        if number not in _UNCHANGEABLE and signal.getsignal(number) is not signal.SIG_DFL:
            try:
                signal.signal(number, signal.SIG_DFL)
            except OSError:
                continue  # those that the C library keeps for itself
    syscalls.reset_library_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
