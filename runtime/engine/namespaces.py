# SPDX-License-Identifier: Apache-2.0
"""Namespaces: which ones a container gets, id maps, and the loopback device of a new network namespace."""

import fcntl
import os
import socket
import struct
from collections.abc import Sequence

from runtime.engine.spec import ContainerSpec, IdMap
from runtime.oci import syscalls

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1


def flags(spec: ContainerSpec) -> int:
    """Return the CLONE_NEW* flags of `spec`, all but the user namespace, which must come first and alone."""
    wanted = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS
    wanted |= syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWCGROUP
    return wanted if spec.host_network else wanted | syscalls.CLONE_NEWNET


def write_id_maps(pid: int, uid_map: Sequence[IdMap], gid_map: Sequence[IdMap]) -> None:
    """Give the new user namespace of `pid` its ids; to be called from the parent namespace.

    Without CAP_SETGID the kernel wants setgroups denied before gid_map (user_namespaces(7)).
    """
    if os.geteuid() != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", _lines(gid_map))
    _write(f"/proc/{pid}/uid_map", _lines(uid_map))


def _lines(maps: Sequence[IdMap]) -> str:
    return "".join(f"{m.inside} {m.outside} {m.size}\n" for m in maps)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def bring_loopback_up() -> None:
    """Set `lo` of this network namespace UP; the kernel then adds 127.0.0.1/8 and ::1 by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        (state,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", state | _IFF_UP))
