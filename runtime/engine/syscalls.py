# SPDX-License-Identifier: Apache-2.0
"""The mount calls of unionbox: the file system's own, and those that take descriptors instead of paths."""

import os

from runtime.oci.native import call, number
from unionfs.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_STRICTATIME,
    OPEN_TREE_CLONE,
    mount,
    open_tree,
    openat2,
    umount2,
)

__all__ = [
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_STRICTATIME",
    "mount",
    "openat2",
    "umount2",
]

_PIVOT_ROOT, _MOVE_MOUNT = number(155, 41), 429


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root`, a mount point, the root mount of this mount namespace."""
    call(_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def move_mount_fd(source_fd: int, target_fd: int) -> None:
    """Attach the detached mount behind `source_fd` on what `target_fd` refers to; no path is resolved."""
    call(_MOVE_MOUNT, source_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def clone_mount(path: str, *, recursive: bool = False) -> int:
    """Return a detached copy of the mount (or the part of it) at `path`, as a descriptor."""
    return open_tree(path, OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0), dir_fd=AT_FDCWD)


def clone_mount_fd(fd: int) -> int:
    """Return a detached copy of what the O_PATH descriptor `fd` refers to."""
    return open_tree(b"", OPEN_TREE_CLONE | AT_EMPTY_PATH, dir_fd=fd)
