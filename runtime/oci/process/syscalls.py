# SPDX-License-Identifier: Apache-2.0
"""System calls about one process that Python lacks: capabilities, limits, scheduling, keys. The C library has few of them.

Wrappers keep the call's name and raise `OSError(errno, text)`.
"""

from __future__ import annotations

import errno
import os
import struct

from runtime.oci.native import address, call, number

_PRCTL, _CAPGET, _CAPSET = number(157, 167), number(125, 90), number(126, 91)
_PRLIMIT64, _PERSONALITY, _IOPRIO_SET = number(302, 261), number(135, 92), number(251, 30)
_SCHED_SETATTR, _SET_MEMPOLICY, _KEYCTL = number(314, 274), number(238, 237), number(250, 219)
_RT_SIGACTION, _CLOSE_RANGE = number(13, 134), 436
_LIBRARY_SIGNALS = (32, 33)  # which the C library keeps for its threads, and does not let anybody set

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP = 4, 8, 23, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 2, 4
IOPRIO_WHO_PROCESS = 1
CLOSE_RANGE_CLOEXEC = 4
_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING, _KEYCTL_DESCRIBE, _KEYCTL_SETPERM = 1, 6, 5
_LOW = 0xFFFFFFFF


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Call prctl(2) with integer arguments."""
    return call(_PRCTL, option, argument, second)


def reset_library_signals() -> None:
    """Give the C library's own signals their default action: its posix_spawn(3) leaves them ignored, and that survives exec."""
    for signal in _LIBRARY_SIGNALS:
        call(_RT_SIGACTION, signal, bytes(32), None, 8)


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this thread, each a bit mask."""
    data = bytearray(24)
    call(_CAPGET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), address(data))
    low = struct.unpack("=6I", data)
    return (low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capabilities of this thread, each set a bit mask."""
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(mask & _LOW for mask in sets), *(mask >> 32 for mask in sets))
    call(_CAPSET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)


def prlimit(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Set the (soft, hard) limits of `pid` (0: ours) if given, and return those before; RLIM_INFINITY is 2**64 - 1."""
    new = struct.pack("=QQ", *limits) if limits is not None else None
    old = bytearray(16)
    call(_PRLIMIT64, pid, resource, new, address(old))
    soft, hard = struct.unpack("=QQ", old)
    return soft, hard


def personality(domain: int) -> None:
    """Set the execution domain of this process."""
    call(_PERSONALITY, domain)


def ioprio_set(pid: int, priority: int) -> None:
    """Set the I/O priority (class << 13 | level) of `pid`."""
    call(_IOPRIO_SET, IOPRIO_WHO_PROCESS, pid, priority)


def sched_setattr(
    pid: int, policy: int, flags: int, nice: int, priority: int, times: tuple[int, int, int]
) -> None:
    """Set the scheduling policy of `pid`; `times` are runtime, deadline and period in nanoseconds."""
    attributes = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, *times)
    call(_SCHED_SETATTR, pid, attributes)


def set_mempolicy(mode: int, nodes: int) -> None:
    """Set the NUMA policy of this thread; `nodes` is a bit mask."""
    width = 1024  # the most nodes that the kernel knows; it wants whole words
    mask = nodes.to_bytes(width // 8, "little") if nodes else None
    call(_SET_MEMPOLICY, mode, mask, width + 1 if nodes else 0)


def join_session_keyring(name: bytes) -> int:
    """Join the session keyring called `name`, new unless it exists and is ours to search; return its serial number."""
    return call(_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name)


def keyring_permissions(serial: int) -> int:
    """Return the permission mask of a keyring."""
    text = bytearray(512)
    length = call(_KEYCTL, _KEYCTL_DESCRIBE, serial, address(text), len(text))
    return int(text[: min(length, len(text))].split(b";")[3], 16)  # type;uid;gid;perm;description


def set_keyring_permissions(serial: int, permissions: int) -> None:
    """Set the permission mask of a keyring."""
    call(_KEYCTL, _KEYCTL_SETPERM, serial, permissions)


def close_range(first: int, last: int = _LOW, flags: int = 0) -> None:
    """Close the descriptors from `first` to `last`; with CLOSE_RANGE_CLOEXEC an exec will."""
    try:
        call(_CLOSE_RANGE, first, last, flags)
    except OSError as error:
        # Linux before 5.9, or a seccomp profile that is older than the call.
        if error.errno not in (errno.ENOSYS, errno.EPERM) or flags:
            raise
        os.closerange(first, min(last, os.sysconf("SC_OPEN_MAX")) + 1)
