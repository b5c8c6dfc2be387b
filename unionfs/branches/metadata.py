# SPDX-License-Identifier: Apache-2.0
"""Carry owner, mode, times and extended attributes from one copy to another, ignoring no error.

Works on descriptors (O_PATH allowed); knows branches only for their icex attributes.
"""

import contextlib
import errno
import logging
import os
import stat

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch

log = logging.getLogger(__name__)

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_ICEX = {"security": "icexsec", "system": "icexsys", "trusted": "icextr", "user": "icexusr"}
_NEVER_IGNORED = (errno.ENOMEM, errno.EDQUOT)


def copy_metadata(
    source: int,
    target: int,
    status: os.stat_result,
    branch: OpenBranch,
    *,
    times: bool = True,
    marked: bool = False,
) -> None:
    """Give the copy behind `target` the owner, xattrs, mode and times that `status` and `source` have.

    `branch` is the copy's; `marked`: the source is on a branch where overlayfs' marks count, so that they are not content.
    The owner comes first since chown clears set-id bits and capabilities; the mode after ACLs, which change it.
    """
    path = whiteout.proc_path(target)
    new = os.fstat(target)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        _chown(path, status, branch)
    copy_xattrs(source, target, branch, marked=marked)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    if times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def restore_times(fd: int, status: os.stat_result) -> None:
    """Give a directory its times back: internal work must not show in the union (docs/aufs.md §3.3)."""
    with contextlib.suppress(PermissionError):  # an unprivileged server and somebody else's directory
        os.utime(whiteout.proc_path(fd), ns=(status.st_atime_ns, status.st_mtime_ns))


def try_to_restore_times(fd: int, status: os.stat_result) -> None:
    """Do the same after an operation is done, once more if need be: an error cannot undo it, so it is only logged."""
    for last in (False, True):
        try:
            restore_times(fd, status)
            return
        except OSError as error:
            if last:
                log.warning("a directory's times moved, as they cannot be set: %s", error.strerror)


def _chown(path: bytes, status: os.stat_result, branch: OpenBranch) -> None:
    try:
        os.chown(path, status.st_uid, status.st_gid)
    except PermissionError:
        # An unprivileged server owns what it makes; docs/semantics.md says so. As root a refusal is an error.
        if os.geteuid() == 0:
            raise


def copy_xattrs(source: int, target: int, branch: OpenBranch, *, marked: bool) -> None:
    """Copy every extended attribute, and remove ACLs that the copy inherited; errors count unless icex masks them."""
    names = list_xattrs(source)
    for name in list_xattrs(target):
        if name in _ACLS and name not in names:
            os.removexattr(whiteout.proc_path(target), name)
    for name in names:
        if whiteout.is_private_xattr(name, overlay=marked or branch.overlay):
            continue
        try:
            value = os.getxattr(whiteout.proc_path(source), name)
            os.setxattr(whiteout.proc_path(target), name, value)
        except OSError as error:
            if error.errno == errno.ENODATA or _is_ignored(name, error, branch):
                continue
            raise


def list_xattrs(fd: int) -> list[str]:
    """Return the names of a file's extended attributes; none where the filesystem has no such thing."""
    try:
        return os.listxattr(whiteout.proc_path(fd))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return []
        raise


def _is_ignored(name: str, error: OSError, branch: OpenBranch) -> bool:
    if error.errno in _NEVER_IGNORED:
        return False
    if os.geteuid() != 0 and error.errno == errno.EPERM and name.partition(".")[0] in ("security", "trusted"):
        return True  # only root may set these; docs/semantics.md
    return _ICEX.get(name.partition(".")[0], "icexoth") in branch.attributes


def bring_mtime(shown: int, changed: int) -> None:
    """Give one directory the modification time of another if that is later."""
    before, after = os.fstat(shown), os.fstat(changed)
    if after.st_mtime_ns > before.st_mtime_ns:
        os.utime(whiteout.proc_path(shown), ns=(before.st_atime_ns, after.st_mtime_ns))


def with_blocks(status: os.stat_result, blocks: int) -> os.stat_result:
    """Return a stat with another number of blocks."""
    rest = {
        name: getattr(status, name)
        for name in ("st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    }
    sizes = {"st_blksize": status.st_blksize, "st_blocks": blocks, "st_rdev": status.st_rdev}
    return os.stat_result(tuple(status), {**rest, **sizes})
