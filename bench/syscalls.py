# SPDX-License-Identifier: Apache-2.0
"""The system calls that the benchmark needs and Python 3.11 lacks, and nothing else."""

from __future__ import annotations

import ctypes
import os
import time

CLONE_NEWNS = 0x20000
CLONE_NEWPID = 0x20000000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name; EPERM without privilege."""
    _check(_libc.unshare(flags))


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process signal `number` when its parent dies."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def process_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that all threads of `pid` have used; ProcessLookupError if it is gone.

    The clock of another process is numbered (~pid << 3) | 2 (kernel: posix-cpu-timers). It counts in nanoseconds
    where /proc/PID/stat counts in hundredths of a second, too coarse for a run of some milliseconds.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError as error:
        raise ProcessLookupError(error.errno, "no such process") from None
