# SPDX-License-Identifier: Apache-2.0
"""System calls about one process that Python lacks: capabilities, limits, scheduling, keys. The C library has few of them.

Wrappers keep the call's name and raise `OSError(errno, text)`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long

_PRCTL, _CAPGET, _CAPSET, _PRLIMIT64, _PERSONALITY, _IOPRIO_SET, _SCHED_SETATTR, _SET_MEMPOLICY, _KEYCTL = (
    (157, 125, 126, 302, 135, 251, 314, 238, 250)
    if os.uname().machine in ("x86_64", "AMD64")
    else (167, 90, 91, 261, 92, 30, 274, 237, 219)  # the generic table: aarch64, riscv64
)
_CLOSE_RANGE = 436
_RT_SIGACTION = 13 if os.uname().machine in ("x86_64", "AMD64") else 134
_LIBRARY_SIGNALS = (32, 33)  # which the C library keeps for its threads, and does not let anybody set

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP = 4, 8, 23, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 2, 4
IOPRIO_WHO_PROCESS = 1
CLOSE_RANGE_CLOEXEC = 4
_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING, _KEYCTL_DESCRIBE, _KEYCTL_SETPERM = 1, 6, 5
_LOW = 0xFFFFFFFF


def _call(number: int, *arguments: object) -> int:
    result: int = _syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _word(value: int) -> ctypes.c_ulong:
    return ctypes.c_ulong(value)


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Call prctl(2) with integer arguments."""
    return _call(_PRCTL, option, _word(argument), _word(second), _word(0), _word(0))


def reset_library_signals() -> None:
    """Give the C library's own signals their default action: its posix_spawn(3) leaves them ignored, and that survives exec."""
    for number in _LIBRARY_SIGNALS:
        _call(_RT_SIGACTION, number, bytes(32), None, _word(8))


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this thread, each a bit mask."""
    data = ctypes.create_string_buffer(24)
    _call(_CAPGET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)
    low = struct.unpack("=6I", data.raw)
    return (low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capabilities of this thread, each set a bit mask."""
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(mask & _LOW for mask in sets), *(mask >> 32 for mask in sets))
    _call(_CAPSET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)


def prlimit(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Set the (soft, hard) limits of `pid` (0: ours) if given, and return those before; RLIM_INFINITY is 2**64 - 1."""
    new = struct.pack("=QQ", *limits) if limits is not None else None
    old = ctypes.create_string_buffer(16)
    _call(_PRLIMIT64, pid, resource, new, old)
    soft, hard = struct.unpack("=QQ", old.raw)
    return soft, hard


def personality(domain: int) -> None:
    """Set the execution domain of this process."""
    _call(_PERSONALITY, _word(domain))


def ioprio_set(pid: int, priority: int) -> None:
    """Set the I/O priority (class << 13 | level) of `pid`."""
    _call(_IOPRIO_SET, IOPRIO_WHO_PROCESS, pid, priority)


def sched_setattr(
    pid: int, policy: int, flags: int, nice: int, priority: int, times: tuple[int, int, int]
) -> None:
    """Set the scheduling policy of `pid`; `times` are runtime, deadline and period in nanoseconds."""
    attributes = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, *times)
    _call(_SCHED_SETATTR, pid, attributes, 0)


def set_mempolicy(mode: int, nodes: int) -> None:
    """Set the NUMA policy of this thread; `nodes` is a bit mask."""
    width = 1024  # the most nodes that the kernel knows; it wants whole words
    mask = nodes.to_bytes(width // 8, "little") if nodes else None
    _call(_SET_MEMPOLICY, mode, mask, _word(width + 1 if nodes else 0))


def join_session_keyring(name: bytes) -> int:
    """Join the session keyring called `name`, new unless it exists and is ours to search; return its serial number."""
    return _call(_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name)


def keyring_permissions(serial: int) -> int:
    """Return the permission mask of a keyring."""
    text = ctypes.create_string_buffer(512)
    length = _call(_KEYCTL, _KEYCTL_DESCRIBE, serial, text, _word(512))
    return int(text.raw[: min(length, 512)].split(b";")[3], 16)  # type;uid;gid;perm;description


def set_keyring_permissions(serial: int, permissions: int) -> None:
    """Set the permission mask of a keyring."""
    _call(_KEYCTL, _KEYCTL_SETPERM, serial, ctypes.c_uint(permissions))


def close_range(first: int, last: int = _LOW, flags: int = 0) -> None:
    """Close the descriptors from `first` to `last`; with CLOSE_RANGE_CLOEXEC an exec will."""
    try:
        _call(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags))
    except OSError as error:
        # Linux before 5.9, or a seccomp profile that is older than the call.
        if error.errno not in (errno.ENOSYS, errno.EPERM) or flags:
            raise
        os.closerange(first, min(last, os.sysconf("SC_OPEN_MAX")) + 1)
