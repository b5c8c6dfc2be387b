# SPDX-License-Identifier: Apache-2.0
"""The user of a process: numbers only. A home directory comes from the container's own /etc/passwd, by our own parser.

The C library's name service would load shared objects of the container into a privileged process.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci.failure import Failure
from runtime.oci.process import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGEST_FILE = 1 << 20  # /etc/passwd of a container is foreign input
_LARGEST_ID = 0xFFFFFFFE  # the one above means "leave as it is"
_MOST_GROUPS = 65536  # NGROUPS_MAX
_NULL_DEVICE = os.makedev(1, 3)


class User:
    """Numeric ids, supplementary groups and the umask of a process."""

    __slots__ = ("gid", "groups", "uid", "umask")

    def __init__(self, uid: int, gid: int, groups: list[int] | None, umask: int) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups  # None: the caller's
        self.umask = umask


def lower(user: dict[str, Any]) -> User:
    """Check `process.user`."""
    groups = [_id(gid, "additionalGids") for gid in user.get("additionalGids") or ()]
    if len(groups) > _MOST_GROUPS:
        raise Failure(
            f"process.user.additionalGids: {len(groups)} groups are too many",
            f"the kernel takes {_MOST_GROUPS}",
        )
    umask = user.get("umask", 0o022)
    if not isinstance(umask, int) or not 0 <= umask <= 0o777:
        raise Failure(f"process.user.umask: {umask!r} is not a mask of permission bits")
    return User(_id(user.get("uid", 0), "uid"), _id(user.get("gid", 0), "gid"), groups, umask)


def _id(value: object, key: str) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_ID:
        raise Failure(f"process.user.{key}: {value!r} is not a numeric id")
    return value


def parse(text: str) -> dict[str, Any]:
    """Parse `UID[:GID]` as typed by a user, strictly: a name that looks like a number, a sign or a space is refused."""
    uid, colon, gid = text.partition(":")
    result = {"uid": number(uid, "user")}
    if colon:
        result["gid"] = number(gid, "user")
    return result


def number(text: str, option: str) -> int:
    """Parse an id given with `option`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LARGEST_ID):
        raise Failure(f"--{option}: {text!r} is not a numeric id", "names are not looked up")
    return int(text)


def become(user: User) -> None:
    """Become `user` for good, with permitted capabilities kept; they are still to be cut (`capabilities.apply`)."""
    _give_standard_descriptors(user.uid, user.gid)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    if user.groups is not None:
        _set_groups(user.groups)
    try:
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Failure(
                f"process.user: {user.uid}:{user.gid} has no id in the user namespace",
                "map it in linux.uidMappings and linux.gidMappings",
            ) from None
        raise
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)


def _set_groups(groups: list[int]) -> None:
    """Have these supplementary groups and none of the caller's, where the user namespace allows setting them at all."""
    try:
        os.setgroups(groups)
    except OSError as error:
        # Denied for a user's own map of one id: nobody could add or drop a group there.
        if error.errno == errno.EINVAL:
            raise Failure(
                "process.user.additionalGids: a group has no id in the user namespace",
                "map it in linux.gidMappings",
            ) from None
        if error.errno != errno.EPERM or groups or may_set_groups():
            raise


def may_set_groups() -> bool:
    """Tell whether this user namespace allows setgroups(2)."""
    try:
        fd = os.open("/proc/self/setgroups", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, 16).strip() == b"allow"
    finally:
        os.close(fd)


def _give_standard_descriptors(uid: int, gid: int) -> None:
    """Make the user own 0 to 2, so that it can reopen them (/dev/stdout); not the null device, which is everybody's."""
    for fd in range(3):
        try:
            status = os.fstat(fd)
            if status.st_uid == uid or (status.st_rdev == _NULL_DEVICE and stat.S_ISCHR(status.st_mode)):
                continue
            # A terminal keeps its group, the one that may write to it.
            os.fchown(fd, uid, -1 if stat.S_ISCHR(status.st_mode) else gid)
        except OSError as error:
            # A read-only file system, a file of an unmapped owner, or a closed descriptor: it can still be used as it is.
            if error.errno not in (errno.EROFS, errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOSYS):
                raise


def home(uid: int) -> bytes:
    """Return the home directory of `uid` by the present root's /etc/passwd, "/" if it knows none."""
    wanted = b"%d" % uid
    for line in read_file("/etc/passwd").split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 7 and fields[2] == wanted and b"\0" not in fields[5]:  # which no variable can hold
            return fields[5] or b"/"
    return b"/"


def read_file(path: str) -> bytes:
    """Return what a regular file of the container has, as far as it is not too much; nothing if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        data = b""
        while len(data) < _LARGEST_FILE and (chunk := os.read(fd, 65536)):
            data += chunk
        return data
    except OSError:
        return b""
    finally:
        os.close(fd)
