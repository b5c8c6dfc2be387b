# SPDX-License-Identifier: Apache-2.0
"""System calls that a container needs and Python 3.11 lacks. The only module of `runtime` that may use ctypes.

Mount calls come from `unionfs.syscalls`. Wrappers keep the call's name and raise `OSError(errno, text, path)`.
"""

import ctypes
import os
import struct

from unionfs.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_STRICTATIME,
    OPEN_TREE_CLONE,
    filesystem_magic,
    mount,
    open_tree,
    openat2,
    umount2,
)

__all__ = [
    "AT_RECURSIVE",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_STRICTATIME",
    "OPEN_TREE_CLONE",
    "filesystem_magic",
    "mount",
    "open_tree",
    "openat2",
    "umount2",
]

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

# (x86_64, the generic table of aarch64 and riscv64)
_OLD_CALLS = {
    "clone": (56, 220),
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "keyctl": (250, 219),
    "seccomp": (317, 277),
}
_COLUMN = 0 if os.uname().machine == "x86_64" else 1
_MOVE_MOUNT, _CLOSE_RANGE = 429, 436

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


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _old(name: str) -> int:
    return _OLD_CALLS[name][_COLUMN]


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces; EPERM without the right, EINVAL if threads forbid it."""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind `fd`, which must be of type `kind` (a CLONE_NEW* flag, 0 for any)."""
    _check(_libc.setns(fd, kind))


def fork_sibling() -> int:
    """Fork with CLONE_PARENT: the child's parent is ours, so it is the first of a pid namespace we unshared, yet reaped there.

    Only for a process with one thread. Returns the child's pid as this process sees it, 0 in the child.
    """
    return fork(CLONE_PARENT)


def fork(flags: int = 0) -> int:
    """Fork with clone(2) flags, into new namespaces for example; only for a process with one thread."""
    pid = _check(_syscall(_old("clone"), ctypes.c_ulong(flags | _SIGCHLD), 0, 0, 0, 0))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return pid


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root`, a mount point, the root mount of this mount namespace."""
    arguments = (ctypes.c_char_p(os.fsencode(new_root)), ctypes.c_char_p(os.fsencode(put_old)))
    _check(_syscall(_old("pivot_root"), *arguments), new_root)


def move_mount_fd(source_fd: int, target_fd: int) -> None:
    """Attach the detached mount behind `source_fd` on what `target_fd` refers to; no path is resolved."""
    empty = ctypes.c_char_p(b"")
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(_syscall(_MOVE_MOUNT, source_fd, empty, target_fd, empty, flags))


def clone_mount(path: str, *, recursive: bool = False) -> int:
    """Return a detached copy of the mount (or the part of it) at `path`, as a descriptor."""
    return open_tree(path, OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0), dir_fd=AT_FDCWD)


def clone_mount_fd(fd: int) -> int:
    """Return a detached copy of what the O_PATH descriptor `fd` refers to."""
    return open_tree(b"", OPEN_TREE_CLONE | AT_EMPTY_PATH, dir_fd=fd)


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Call prctl(2) with integer arguments."""
    return _check(
        _libc.prctl(
            option, ctypes.c_ulong(argument), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)
        )
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three capability sets of the calling thread, each a bit mask."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(s & low for s in sets), *(s >> high for s in sets))
    _check(_syscall(_old("capset"), header, data))


def join_session_keyring() -> None:
    """Give this process an empty session keyring, so that the container sees no key of the caller."""
    _check(_syscall(_old("keyctl"), _KEYCTL_JOIN_SESSION_KEYRING, None))


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close every descriptor from `first` to `last`; with CLOSE_RANGE_CLOEXEC at the next exec."""
    _check(_syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags)))


def sethostname(name: bytes) -> None:
    """Set the host name of this UTS namespace."""
    _check(_libc.sethostname(ctypes.c_char_p(name), ctypes.c_size_t(len(name))))


def setdomainname(name: bytes) -> None:
    """Set the NIS domain name of this UTS namespace."""
    _check(_libc.setdomainname(ctypes.c_char_p(name), ctypes.c_size_t(len(name))))


def seccomp(flags: int, program: bytes) -> int:
    """Filter the calling thread's system calls by `program` (struct sock_filter[]) from now on.

    Returns the listener's descriptor, close-on-exec, with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0. EACCES without
    no_new_privs and CAP_SYS_ADMIN, EINVAL for a program that the kernel refuses, EBUSY if there is a listener already.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    return _check(
        _syscall(_old("seccomp"), ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(flags), header)
    )
