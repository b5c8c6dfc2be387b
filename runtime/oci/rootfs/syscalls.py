# SPDX-License-Identifier: Apache-2.0
"""The mount interface that works on descriptors: make, copy, change and attach a mount without resolving a path twice.

A mount made here is detached: nobody sees it before `move_mount` attaches it, and its descriptor still means the same
mount afterwards. Needs Linux 5.12. Wrappers raise `OSError(errno, text, path)`.
"""

from __future__ import annotations

import os
import struct

from runtime.oci.native import call, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    Path = str | bytes

# Numbers of the generic table, equal on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 428, 429, 430, 431, 432, 433
_OPENAT2, _MOUNT_SETATTR = 437, 442
# The ones that are not.
_PIVOT_ROOT, _MOUNT, _UMOUNT2 = number(155, 41), number(165, 40), number(166, 39)

_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH, _AT_SYMLINK_NOFOLLOW = -100, 0x8000, 0x1000, 0x100
_OPEN_TREE_CLONE, _MOVE_FROM_AND_TO_DESCRIPTORS = 1, 0x44
_SET_FLAG, _SET_STRING, _CREATE, _RECONFIGURE = 0, 1, 6, 7
_CLOEXEC = 1

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x08, 0x10

ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
ATTR_ATIME, ATTR_NOATIME, ATTR_STRICTATIME, ATTR_NODIRATIME = 0x70, 0x10, 0x20, 0x80
ATTR_IDMAP, ATTR_NOSYMFOLLOW = 0x100000, 0x200000

MS_REMOUNT, MS_MOVE, MS_REC = 32, 8192, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2

PROC_MAGIC, SYSFS_MAGIC = 0x9FA0, 0x62656572

_ATTRIBUTES = struct.Struct("=QQQQ")
_HOW = struct.Struct("=QQQ")


def _text(value: Path | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def openat2(name: Path, flags: int, *, dir_fd: int, resolve: int, mode: int = 0) -> int:
    """Open `name` below `dir_fd` under the rules of `resolve` (RESOLVE_*)."""
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return call(_OPENAT2, dir_fd, _text(name), how, _HOW.size, path=name)
        except (
            InterruptedError,
            BlockingIOError,
        ):  # EAGAIN: a rename raced with the walk; the kernel asks for another try
            continue


def open_tree(path: Path, *, dir_fd: int = _AT_FDCWD, recursive: bool = False, follow: bool = True) -> int:
    """Return a detached copy of the mount at `path`, of its sub-mounts too if `recursive`; an empty path is `dir_fd` itself."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    flags |= _AT_RECURSIVE if recursive else 0
    flags |= 0 if path else _AT_EMPTY_PATH
    flags |= 0 if follow else _AT_SYMLINK_NOFOLLOW
    return call(_OPEN_TREE, dir_fd, _text(path), flags, path=path or None)


def move_mount(mount: int, target: int) -> None:
    """Attach the detached mount `mount` on what the descriptor `target` refers to."""
    call(_MOVE_MOUNT, mount, b"", target, b"", _MOVE_FROM_AND_TO_DESCRIPTORS)


def fsopen(kind: str) -> int:
    """Return a context to configure a new filesystem of type `kind`; ENODEV if the kernel does not know it."""
    return call(_FSOPEN, _text(kind), _CLOEXEC, path=kind)


def fspick(path: Path, *, dir_fd: int) -> int:
    """Return a context to reconfigure the filesystem mounted at `path`; an empty path is `dir_fd` itself."""
    return call(_FSPICK, dir_fd, _text(path), _CLOEXEC | (0 if path else 0x8), path=path or None)


def fsconfig_set(context: int, key: str, value: str | None = None) -> None:
    """Set a parameter to `value` (at most 255 bytes), or a flag."""
    command = _SET_FLAG if value is None else _SET_STRING
    call(_FSCONFIG, context, command, _text(key), _text(value), path=key)


def fsconfig_create(context: int) -> None:
    """Make the filesystem of the context."""
    call(_FSCONFIG, context, _CREATE)


def fsconfig_reconfigure(context: int) -> None:
    """Change the filesystem of the context."""
    call(_FSCONFIG, context, _RECONFIGURE)


def fsmount(context: int, attributes: int = 0) -> int:
    """Return a detached mount with `attributes` (ATTR_*) of the context's filesystem."""
    return call(_FSMOUNT, context, _CLOEXEC, attributes)


def mount_setattr(
    mount: int, *, add: int = 0, drop: int = 0, propagation: int = 0, users: int = 0, recursive: bool = False
) -> None:
    """Change a mount, given by a descriptor of its root, and all below it if `recursive`.

    `add` and `drop` are ATTR_*, `propagation` one MS_* kind, `users` a user namespace (with ATTR_IDMAP). EPERM for a flag
    that is locked, EINVAL for a descriptor that is no mount's root.
    """
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    attributes = _ATTRIBUTES.pack(add, drop, propagation, users)
    call(_MOUNT_SETATTR, mount, b"", flags, attributes, _ATTRIBUTES.size)


def mount(source: Path | None, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount as mount(2) does: for what the calls above cannot do."""
    call(_MOUNT, _text(source), _text(target), _text(kind), flags, _text(data), path=target)


def umount2(target: Path, flags: int = 0) -> None:
    """Unmount `target`; MNT_DETACH makes it lazy."""
    call(_UMOUNT2, _text(target), flags, path=target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make `new_root`, a mount point, the root mount of this mount namespace."""
    call(_PIVOT_ROOT, _text(new_root), _text(put_old), path=new_root)
