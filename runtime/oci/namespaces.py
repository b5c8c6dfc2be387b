# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a container: which are made, which are joined, and the loopback device of a new network."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from runtime.oci import syscalls
from runtime.oci.failure import Failure, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = {
    "mount": syscalls.CLONE_NEWNS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "user": syscalls.CLONE_NEWUSER,
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "time": syscalls.CLONE_NEWTIME,
}
_NS_GET_NSTYPE = 0xB703
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Namespaces:
    """`new` holds the flags of those to make, `joined` (flag, descriptor, path) of those to enter."""

    __slots__ = ("joined", "new")

    def __init__(self, new: int, joined: list[tuple[int, int, str]]) -> None:
        self.new = new
        self.joined = joined

    def has(self, kind: str) -> bool:
        """Tell whether the container does not share this namespace with us."""
        return bool(self.new & KINDS[kind]) or any(flag == KINDS[kind] for flag, _, _ in self.joined)

    def makes(self, kind: str) -> bool:
        """Tell whether the container gets a new namespace of this kind."""
        return bool(self.new & KINDS[kind])

    def simple(self) -> bool:
        """Tell whether all can be made by one clone(2): none joined, no ids to map, no clocks to set before the first process."""
        return not self.joined and not self.new & (syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWTIME)


def prepare(linux: dict[str, Any]) -> Namespaces:
    """Open the namespaces that are joined, all before any is, as joining changes what paths mean."""
    new = 0
    joined: list[tuple[int, int, str]] = []
    for entry in linux.get("namespaces", ()):
        flag = KINDS[entry["type"]]
        path = entry.get("path")
        if not path:
            new |= flag
            continue
        with Step(f"join the {entry['type']} namespace"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if _kind(fd, path) != flag:
                raise Failure(
                    f"join the {entry['type']} namespace: {path} is a namespace of another type",
                    "correct its path",
                )
        joined.append((flag, fd, path))
    return Namespaces(new, joined)


def _kind(fd: int, path: str) -> int:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise OSError(errno.EINVAL, "is not a namespace", path) from None
        raise


def join(namespaces: Namespaces) -> None:
    """Enter the joined namespaces: first with our rights, then the user namespace, then with its rights what was refused."""
    rest = []
    # setns refuses to enter our own user namespace again; once we have another root, /proc may not tell any more.
    for entry in [entry for entry in namespaces.joined if not _is_ours(entry)]:
        if entry[0] == syscalls.CLONE_NEWUSER or not _try(entry):
            rest.append(entry)
    rest.sort(key=lambda entry: entry[0] != syscalls.CLONE_NEWUSER)
    for flag, fd, path in rest:
        with Step(f"join the namespace {path}"):
            syscalls.setns(fd, flag)


def _try(entry: tuple[int, int, str]) -> bool:
    try:
        syscalls.setns(entry[1], entry[0])
    except OSError as error:
        if error.errno != errno.EPERM:
            raise Failure(f"join the namespace {entry[2]}: {os.strerror(error.errno or 0).lower()}") from None
        return False
    return True


def _is_ours(entry: tuple[int, int, str]) -> bool:
    if entry[0] != syscalls.CLONE_NEWUSER:
        return False
    theirs, ours = os.fstat(entry[1]), os.stat("/proc/self/ns/user")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def close(namespaces: Namespaces) -> None:
    """Close what `prepare` opened."""
    for _, fd, _ in namespaces.joined:
        os.close(fd)
    namespaces.joined = []


def bring_loopback_up() -> None:
    """Set the loopback device of this network namespace up."""
    import _socket

    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack_from("h", fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    finally:
        control.close()
