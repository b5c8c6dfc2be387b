# SPDX-License-Identifier: Apache-2.0
"""Kernel settings of the container's namespaces, written through a procfs that nobody else can reach.

The container's own /proc may be arranged by its image or another container; a write there could go to any file as root
(CVE-2025-52881). So a detached procfs is made, and in it no link and no mount is crossed.
"""

from __future__ import annotations

import errno
import os

from runtime.oci.rootfs import syscalls
from runtime.oci.rootfs.filesystems import new_filesystem
from runtime.oci.syscalls import filesystem_magic

_RULES = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV

# Settings that each IPC namespace has for itself; fs.mqueue.* too.
_IPC = frozenset(
    "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced shm_next_id msg_next_id sem_next_id".split()
)


def path_of(key: str) -> str:
    """Return the path below /proc/sys of `net.ipv4.conf.eth0/1.x` or `net/ipv4/conf/eth0.1/x`.

    The first separator decides; after a dot, a slash stands for a dot that belongs to a name.
    """
    if "/" in key.partition(".")[0]:
        return key
    return "/".join(part.replace("/", ".") for part in key.split("."))


def refusal(key: str, namespaces: set[str]) -> str:
    """Return why a container with these own namespaces may not set `key`, or nothing."""
    names = path_of(key).split("/")
    if ".." in names or "" in names:
        return "is no name of a setting"
    if names[:2] == ["kernel", "hostname"]:
        return "is set by the config's hostname"
    owner = _owner(names)
    if not owner:
        return "belongs to the whole machine, not to a namespace"
    return "" if owner in namespaces else f"needs a {owner} namespace of the container's own"


def _owner(names: list[str]) -> str:
    if names[0] == "net":
        return "network"
    if names[:2] == ["fs", "mqueue"] or (names[0] == "kernel" and len(names) == 2 and names[1] in _IPC):
        return "ipc"
    if names == ["kernel", "domainname"]:
        return "uts"
    if names[0] == "user":
        return "user"
    return ""


def write_all(settings: dict[str, str]) -> None:
    """Write the settings in their order. Raises `OSError` with the key as its path."""
    proc = _open_proc()
    try:
        for key, value in settings.items():
            try:
                _write(proc, f"sys/{path_of(key)}", str(value))
            except OSError as error:
                raise OSError(error.errno, error.strerror, key) from None
    finally:
        os.close(proc)


def _write(proc: int, path: str, value: str) -> None:
    fd = syscalls.openat2(path, os.O_WRONLY, dir_fd=proc, resolve=_RULES)
    try:
        if filesystem_magic(fd) != syscalls.PROC_MAGIC:
            raise OSError(errno.EXDEV, "is not a file of proc", path)
        os.write(fd, os.fsencode(value))
    finally:
        os.close(fd)


def _open_proc() -> int:
    """Return a procfs of our own; where a user namespace may not make one, the container's, verified."""
    try:
        return new_filesystem("proc", "proc", [], 0)
    except PermissionError:
        pass
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if filesystem_magic(proc) == syscalls.PROC_MAGIC and os.fstat(proc).st_ino == 1:
        return proc
    os.close(proc)
    raise OSError(errno.EINVAL, "is not procfs", "/proc")
