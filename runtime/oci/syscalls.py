# SPDX-License-Identifier: Apache-2.0
"""System calls that a container needs and Python 3.11 lacks: processes, namespaces, names, filters.

Those about mounts are in `rootfs/syscalls.py`, those about one process' rights and limits in `process/syscalls.py`. Wrappers keep
the call's name and raise `OSError(errno, text, path)`.
"""

from __future__ import annotations

import struct

from runtime.oci.native import address, call, forked, number

_CLONE, _UNSHARE, _SETNS = number(56, 220), number(272, 97), number(308, 268)
_PRCTL, _CAPSET = number(157, 167), number(126, 91)
_KEYCTL, _SECCOMP = number(250, 219), number(317, 277)
_SETHOSTNAME, _SETDOMAINNAME = number(170, 161), number(171, 162)
_FSTATFS, _CLOSE_RANGE = number(138, 44), 436

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP = 0x80, 0x20000, 0x02000000
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_PARENT = 0x20000000, 0x40000000, 0x8000
CLONE_FILES = 0x400
_SIGCHLD = 17
CLOSE_RANGE_CLOEXEC = 4

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 1, 4, 8, 15
PR_SET_CHILD_SUBREAPER = 36
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4

_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
_STATFS = 120  # bytes of struct statfs, which begins with a word, f_type
_WORD = 8


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces; EPERM without the right, EINVAL if threads forbid it."""
    call(_UNSHARE, flags)


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind `fd`, which must be of type `kind` (a CLONE_NEW* flag, 0 for any)."""
    call(_SETNS, fd, kind)


def fork_sibling() -> int:
    """Fork with CLONE_PARENT: the child's parent is ours, so it is the first of a pid namespace we unshared, yet reaped there.

    Only for a process with one thread. Returns the child's pid as this process sees it, 0 in the child.
    """
    return fork(CLONE_PARENT)


def fork(flags: int = 0) -> int:
    """Fork with clone(2) flags, into new namespaces for example; only for a process with one thread."""
    return forked(call(_CLONE, flags | _SIGCHLD))


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Call prctl(2) with integer arguments."""
    return call(_PRCTL, option, argument, second)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three capability sets of the calling thread, each a bit mask."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(s & low for s in sets), *(s >> high for s in sets))
    call(_CAPSET, header, data)


def join_session_keyring() -> None:
    """Give this process an empty session keyring, so that the container sees no key of the caller."""
    call(_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING)


def filesystem_magic(fd: int) -> int:
    """Return f_type of the filesystem behind `fd` (`os.statvfs` leaves it out)."""
    status = bytearray(_STATFS)
    call(_FSTATFS, fd, address(status))
    return int.from_bytes(status[:_WORD], "little") & 0xFFFFFFFF


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close every descriptor from `first` to `last`; with CLOSE_RANGE_CLOEXEC at the next exec."""
    call(_CLOSE_RANGE, first, last, flags)


def sethostname(name: bytes) -> None:
    """Set the host name of this UTS namespace."""
    call(_SETHOSTNAME, name, len(name))


def setdomainname(name: bytes) -> None:
    """Set the NIS domain name of this UTS namespace."""
    call(_SETDOMAINNAME, name, len(name))


def seccomp(flags: int, program: bytes) -> int:
    """Filter the calling thread's system calls by `program` (struct sock_filter[]) from now on.

    Returns the listener's descriptor, close-on-exec, with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0. EACCES without
    no_new_privs and CAP_SYS_ADMIN, EINVAL for a program that the kernel refuses, EBUSY if there is a listener already.
    """
    buffer = bytearray(program)
    header = struct.pack("=HxxxxxxQ", len(program) // 8, address(buffer))
    return call(_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags, header)
