# SPDX-License-Identifier: Apache-2.0
"""The two system calls that cgroups need and Python lacks: clone3 into a group, bpf."""

from __future__ import annotations

import struct

from runtime.oci.native import address, call, forked, number

_CLONE3, _BPF = 435, number(321, 280)
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


def fork_into(cgroup_fd: int, flags: int = 0) -> int:
    """Fork; the child starts inside the v2 group whose directory `cgroup_fd` is. Only for a process with one thread.

    `flags` are those of clone(2). A new cgroup namespace is none of them: its root would be the parent's group.

    Returns the child's pid, 0 in the child. ENOSYS before Linux 5.7 and under some seccomp profiles, EBUSY if the group hands
    controllers down, EACCES without the right to move processes there.
    """
    arguments = _CLONE_ARGS.pack(_CLONE_INTO_CGROUP | flags, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    return forked(call(_CLONE3, arguments, len(arguments)))


def load_device_program(instructions: bytes, name: bytes) -> int:
    """Load a program of type cgroup device and return its descriptor; EPERM without CAP_BPF and CAP_NET_ADMIN."""
    code, licence = bytearray(instructions), bytearray(b"Apache-2.0\0")
    addresses = address(code), address(licence)
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
    identifiers = bytearray(4 * _MOST_PROGRAMS)
    query = bytearray(64)
    struct.pack_into("=4IQI", query, 0, group, _AT_CGROUP_DEVICE, 0, 0, address(identifiers), _MOST_PROGRAMS)
    _bpf(_PROG_QUERY, query)
    (count,) = struct.unpack_from("=I", query, 24)
    return list(struct.unpack_from(f"={count}I", identifiers))


def open_program(identifier: int) -> int:
    """Return a descriptor of the program with this id."""
    return _bpf(_PROG_GET_FD_BY_ID, struct.pack("=3I", identifier, 0, 0))


def program_name(program: int) -> bytes:
    """Return the name that a program was loaded with."""
    info = bytearray(_NAME_OFFSET + _NAME_SIZE)
    _bpf(_OBJ_GET_INFO, bytearray(struct.pack("=IIQ", program, len(info), address(info))))
    return bytes(info[_NAME_OFFSET:]).rstrip(b"\0")


def _bpf(command: int, attributes: bytes | bytearray) -> int:
    """Call bpf(2) with a packed `union bpf_attr`, a buffer where the kernel answers in it."""
    data = attributes if isinstance(attributes, bytes) else address(attributes)
    return call(_BPF, command, data, len(attributes))
