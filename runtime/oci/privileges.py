# SPDX-License-Identifier: Apache-2.0
"""Privileges of a container: capabilities, the user it runs as, no_new_privs.

Names of users are looked up in the container's own files with our own parser: the C library's name service would load
the container's shared objects into a privileged process.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.oci import syscalls

# The set that Docker gives by default, as capability numbers of <linux/capability.h>.
DEFAULT_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
MKNOD = DEFAULT_CAPABILITIES["MKNOD"]
_HIGHEST = 63
_LARGEST_FILE = 1 << 20  # /etc/passwd of a container is foreign input


@dataclass(frozen=True, slots=True)
class User:
    """A resolved user: numeric ids, supplementary groups and home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def capability_mask(*, without_mknod: bool = False) -> int:
    """Return the default capabilities as a bit mask."""
    mask = sum(1 << number for number in DEFAULT_CAPABILITIES.values())
    return mask & ~(1 << MKNOD) if without_mknod else mask


def limit_capabilities(mask: int) -> None:
    """Keep no capability outside `mask` in any set, and none inheritable or ambient (CVE-2022-24769)."""
    for number in range(_HIGHEST + 1):
        try:
            held = syscalls.prctl(syscalls.PR_CAPBSET_READ, number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the kernel's last capability
                break
            raise
        if not held:
            mask &= ~(1 << number)
        elif not mask >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(mask, mask, 0)


def become(user: User, *, set_groups: bool = True) -> None:
    """Become `user` for good; a user other than 0 loses its capabilities through setuid(2)."""
    if set_groups:
        os.setgroups(list(user.groups))
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def resolve_user(text: str) -> User:
    """Resolve `USER[:GROUP]`, names or numbers, with the present root's files; KeyError says what is unknown.

    What looks like a number is one, whatever names an image has (CVE-2026-46680); one that is too big is nobody.
    """
    name, _, group = text.partition(":")
    account = _find("/etc/passwd", name, columns=7)
    if account is not None:
        uid, gid, home, login = int(account[2]), int(account[3]), account[5] or "/", account[0]
    elif _is_id(name):
        uid, gid, home, login = int(name), 0, "/", ""
    else:
        raise KeyError(f"no user {name!r} in /etc/passwd of the container")
    if group:
        gid = _group_id(group)
        return User(uid, gid, (gid,), home)
    return User(uid, gid, (gid, *sorted(_memberships(login) - {gid})), home)


def _group_id(name: str) -> int:
    entry = _find("/etc/group", name, columns=4)
    if entry is not None:
        return int(entry[2])
    if _is_id(name):
        return int(name)
    raise KeyError(f"no group {name!r} in /etc/group of the container")


def _is_id(text: str) -> bool:
    """Tell whether this is a number that the kernel takes for a user or group; 2³²−1 means "leave it"."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 0xFFFFFFFF


def _memberships(login: str) -> set[int]:
    lines = _entries("/etc/group", columns=4)
    return {int(line[2]) for line in lines if login and login in line[3].split(",")}


def _find(path: str, name: str, *, columns: int) -> list[str] | None:
    """Return the first entry called `name`, or of that number if it is one."""
    column = 2 if name.isascii() and name.isdigit() else 0
    return next((line for line in _entries(path, columns=columns) if line[column] == name), None)


def _entries(path: str, *, columns: int) -> Iterator[list[str]]:
    for line in _read(path).split("\n"):
        fields = line.split(":")
        if len(fields) >= columns and _is_id(fields[2]) and (columns < 7 or _is_id(fields[3])):
            yield fields


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        data = b""
        while len(data) < _LARGEST_FILE and (chunk := os.read(fd, 65536)):
            data += chunk
        return data.decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
