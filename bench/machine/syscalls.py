# SPDX-License-Identifier: Apache-2.0
"""The system calls that the benchmark needs and Python 3.11 lacks, and nothing else."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWNET = 0x40000000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_SET_FILTER = 0x40082406  # PowerPC numbers ioctls in another way

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name; EPERM without privilege."""
    _check(_libc.unshare(flags))


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process signal `number` when its parent dies."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def become_subreaper() -> None:
    """Have processes below this one that lose their parent become its children."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def process_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that all threads of `pid` have used; ProcessLookupError if it is gone.

    The clock of another process is numbered (~pid << 3) | 2 (kernel: posix-cpu-timers). It counts in nanoseconds
    where /proc/PID/stat counts in hundredths of a second, too coarse for a run of some milliseconds.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError as error:
        raise ProcessLookupError(error.errno, "no such process") from None


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind `fd`, which must be of the kind that the clone flag `kind` names."""
    _check(_libc.setns(fd, kind))


def open_tracepoint(event: int, cpu: int, condition: str) -> int:
    """Return a descriptor that counts an event of the kernel on one processor, where its fields fulfil `condition`.

    Reading it gives the count in eight bytes. ENOSYS on an architecture not known here.
    """
    number = _PERF_EVENT_OPEN.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # perf_event_attr, first version: type, size, config; what follows is nought.
    attributes = struct.pack("=IIQ48x", _PERF_TYPE_TRACEPOINT, 64, event)
    fd = _check(_libc.syscall(number, attributes, -1, cpu, -1, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC)))
    fcntl.ioctl(fd, _PERF_EVENT_IOC_SET_FILTER, condition.encode() + b"\0")
    return fd
