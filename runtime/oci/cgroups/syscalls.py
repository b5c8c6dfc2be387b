# SPDX-License-Identifier: Apache-2.0
"""The two system calls that cgroups need and Python lacks: clone3 into a group, bpf."""

import ctypes
import os
import platform
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_CLONE3 = 435
_BPF = 321 if platform.machine() in ("x86_64", "AMD64") else 280
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17
# flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
_CLONE_ARGS = struct.Struct("=11Q")


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fork_into(cgroup_fd: int) -> int:
    """Fork; the child starts inside the v2 group whose directory `cgroup_fd` is. Only for a process with one thread.

    Returns the child's pid, 0 in the child. ENOSYS before Linux 5.7 and under some seccomp profiles, EBUSY if the group hands
    controllers down, EACCES without the right to move processes there.
    """
    arguments = _CLONE_ARGS.pack(_CLONE_INTO_CGROUP, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    pid = _check(_syscall(_CLONE3, ctypes.c_char_p(arguments), ctypes.c_size_t(len(arguments))))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return pid


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2) with a packed `union bpf_attr` and return its result; the kernel may write into what it points to only."""
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    return _check(_syscall(_BPF, command, buffer, len(buffer)))
