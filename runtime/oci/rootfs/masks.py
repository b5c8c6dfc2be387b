# SPDX-License-Identifier: Apache-2.0
"""What the container may not see or not write: a file gives way to /dev/null, a directory to an empty one, some are read-only.

Every directory shows the same empty tmpfs: one superblock to make and to destroy, whatever the number of masks.
"""

from __future__ import annotations

import os
import stat

from runtime.oci.rootfs import devices, filesystems, resolve, syscalls
from runtime.oci.rootfs.syscalls import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY

_EMPTY = ["ro", "mode=555", "size=4k", "nr_inodes=1"]


def make_read_only(root: int, path: str) -> None:
    """Bind `path` on itself, read-only with all below it; nothing to do if it does not exist."""
    found = _find(root, path)
    if found is None:
        return
    try:
        tree = syscalls.open_tree("", dir_fd=found, recursive=True)
        try:
            syscalls.mount_setattr(tree, add=ATTR_RDONLY, recursive=True)
            syscalls.move_mount(tree, found)
        finally:
            os.close(tree)
    finally:
        os.close(found)


class Mask:
    """Hides paths below `root`."""

    __slots__ = ("_empty", "_null", "_root")

    def __init__(self, root: int) -> None:
        self._root = root
        self._empty = self._null = -1

    def hide(self, path: str) -> None:
        """Cover a path if it exists."""
        found = _find(self._root, path)
        if found is None:
            return
        try:
            cover = self._directory() if stat.S_ISDIR(os.fstat(found).st_mode) else self._file()
            try:
                syscalls.move_mount(cover, found)
            finally:
                os.close(cover)
        finally:
            os.close(found)

    def close(self) -> None:
        """Close the covers."""
        for fd in (self._empty, self._null):
            if fd >= 0:
                os.close(fd)

    def _directory(self) -> int:
        """Return another mount of the one empty directory. A copy can be made of what is attached or was never."""
        if self._empty < 0:
            quiet = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC
            self._empty = filesystems.new_filesystem("tmpfs", "tmpfs", _EMPTY, quiet)
            return os.dup(self._empty)
        return syscalls.open_tree("", dir_fd=self._empty)

    def _file(self) -> int:
        """Return another mount of /dev/null, which was verified once (CVE-2025-31133)."""
        if self._null < 0:
            self._null = _open_null(self._root)
        return syscalls.open_tree("", dir_fd=self._null)


def _open_null(root: int) -> int:
    fd = resolve.find(root, "/dev/null", links=False)
    if fd is None:
        raise FileNotFoundError(2, os.strerror(2), "/dev/null")
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == devices.NULL:
        return fd
    os.close(fd)
    raise OSError(6, "is not the null device", "/dev/null")


def _find(root: int, path: str) -> int | None:
    """Return a descriptor of what is there. Links are followed inside of the root: hiding only the link would hide nothing."""
    try:
        return resolve.find(root, path)
    except NotADirectoryError:
        return None
