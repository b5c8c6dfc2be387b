# SPDX-License-Identifier: Apache-2.0
"""The two system calls that cgroups need and Python lacks: clone3 into a group, bpf."""

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_CLONE3 = 435
_BPF = 321 if os.uname().machine == "x86_64" else 280
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17
# flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
_CLONE_ARGS = struct.Struct("=11Q")


_PROG_LOAD, _PROG_ATTACH, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO, _PROG_QUERY = 5, 8, 13, 15, 16
_TYPE_CGROUP_DEVICE, _AT_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI, _REPLACE = 2, 4
_INSTRUCTION_SIZE = 8
_NAME_OFFSET, _NAME_SIZE = 64, 16  # in struct bpf_prog_info
_MOST_PROGRAMS = 64  # that the kernel attaches to one group


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fork_into(cgroup_fd: int, flags: int = 0) -> int:
    """Fork; the child starts inside the v2 group whose directory `cgroup_fd` is. Only for a process with one thread.

    `flags` are those of clone(2). A new cgroup namespace is none of them: its root would be the parent's group.

    Returns the child's pid, 0 in the child. ENOSYS before Linux 5.7 and under some seccomp profiles, EBUSY if the group hands
    controllers down, EACCES without the right to move processes there.
    """
    arguments = _CLONE_ARGS.pack(_CLONE_INTO_CGROUP | flags, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    pid = _check(_syscall(_CLONE3, ctypes.c_char_p(arguments), ctypes.c_size_t(len(arguments))))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return pid


def load_device_program(instructions: bytes, name: bytes) -> int:
    """Load a program of type cgroup device and return its descriptor; EPERM without CAP_BPF and CAP_NET_ADMIN."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    addresses = ctypes.addressof(code), ctypes.addressof(licence)
    no_log = (0, 0, 0)
    count = len(instructions) // _INSTRUCTION_SIZE
    return _bpf(
        _PROG_LOAD, struct.pack("=IIQQIIQII16s", _TYPE_CGROUP_DEVICE, count, *addresses, *no_log, 0, 0, name)
    )


def attach_device_program(group: int, program: int, old: int) -> None:
    """Attach a program to a v2 group beside others, in place of `old` if that is not -1."""
    flags = _ALLOW_MULTI if old < 0 else _ALLOW_MULTI | _REPLACE
    _bpf(_PROG_ATTACH, struct.pack("=5I", group, program, _AT_CGROUP_DEVICE, flags, max(old, 0)))


def attached_device_programs(group: int) -> list[int]:
    """Return the ids of the programs attached to a v2 group itself."""
    identifiers = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    query = ctypes.create_string_buffer(
        struct.pack("=4IQI", group, _AT_CGROUP_DEVICE, 0, 0, ctypes.addressof(identifiers), _MOST_PROGRAMS),
        64,
    )
    _bpf(_PROG_QUERY, query)
    (count,) = struct.unpack_from("=I", query, 24)
    return list(identifiers[:count])


def open_program(identifier: int) -> int:
    """Return a descriptor of the program with this id."""
    return _bpf(_PROG_GET_FD_BY_ID, struct.pack("=3I", identifier, 0, 0))


def program_name(program: int) -> bytes:
    """Return the name that a program was loaded with."""
    info = ctypes.create_string_buffer(_NAME_OFFSET + _NAME_SIZE)
    _bpf(_OBJ_GET_INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    return info.raw[_NAME_OFFSET:].rstrip(b"\0")


def _bpf(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Call bpf(2) with a packed `union bpf_attr`, a buffer where the kernel answers in it."""
    if isinstance(attributes, bytes):
        attributes = ctypes.create_string_buffer(attributes, len(attributes))
    return _check(_syscall(_BPF, command, attributes, len(attributes)))
