# SPDX-License-Identifier: Apache-2.0
"""Fill a new tmpfs with what the directory below it holds (`tmpcopyup`), before anybody can see the tmpfs."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int) -> None:
    """Copy the entries of one directory into another, both with owners, modes, times and xattrs. O_PATH descriptors do."""
    old = os.open(".", _DIRECTORY, dir_fd=source)
    try:
        new = os.open(".", _DIRECTORY, dir_fd=target)
        try:
            for name in os.listdir(old):
                _copy(old, new, name)
            _copy_attributes(old, new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy(old: int, new: int, name: str) -> None:
    status = os.stat(name, dir_fd=old, follow_symlinks=False)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(name, 0o700, dir_fd=new)
        _in_both(old, new, name, _DIRECTORY, _DIRECTORY, copy_tree)
    elif stat.S_ISREG(mode):
        make = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        _in_both(old, new, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, make, _copy_file)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=old), name, dir_fd=new)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=new, follow_symlinks=False)
    else:
        os.mknod(name, mode, status.st_rdev, dir_fd=new)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=new, follow_symlinks=False)


def _in_both(old: int, new: int, name: str, how: int, make: int, copy: Callable[[int, int], None]) -> None:
    source = os.open(name, how, dir_fd=old)
    try:
        target = os.open(name, make, 0o600, dir_fd=new)
        try:
            copy(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_file(source: int, target: int) -> None:
    while os.sendfile(target, source, None, _CHUNK):
        pass
    _copy_attributes(source, target)


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in _attributes(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):  # tmpfs or we may not keep this one
                raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _attributes(source: int) -> list[str]:
    try:
        return os.listxattr(source)
    except OSError:  # EOPNOTSUPP
        return []
