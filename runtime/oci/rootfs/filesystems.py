# SPDX-License-Identifier: Apache-2.0
"""Detached mounts: make a filesystem, change one. Nobody sees such a mount before it is attached."""

from __future__ import annotations

import os

from runtime.oci.rootfs import syscalls
from runtime.oci.rootfs.syscalls import ATTR_ATIME

_LONGEST_PARAMETER = 255

# (attribute, flag of mount(2))
_OLD_ATTRIBUTES = (
    (0x1, 1),
    (0x2, 2),
    (0x4, 4),
    (0x8, 8),
    (0x10, 1024),
    (0x20, 1 << 24),
    (0x80, 2048),
    (0x200000, 256),
)
_OLD_FLAGS = {"sync": 16, "dirsync": 128, "lazytime": 1 << 25, "mand": 64, "ro": 1, "iversion": 1 << 23}


def make(kind: str, source: str, flags: list[str], data: list[str], attributes: int, place: int) -> int:
    """Return a detached mount of a new filesystem.

    `flags` are those that every filesystem has (ro, sync, ...), `data` its own parameters, `attributes` the mount's (ATTR_*).
    `place` is a directory that is going to be mounted on. What the kernel says goes into the error.
    """
    if "iversion" in flags or not _fits(kind, data):
        return _make_by_mount(kind, source, flags, data, attributes, place)
    return new_filesystem(kind, source, [*flags, *data], attributes)


def new_filesystem(kind: str, source: str, words: list[str], attributes: int) -> int:
    """Return a detached mount of a new filesystem; `words` are `key=value` or flags. What the kernel says goes into the error."""
    context = syscalls.fsopen(kind)
    try:
        syscalls.fsconfig_set(context, "source", source or kind)
        _configure(context, words)
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, attributes)
    except OSError as error:
        raise OSError(error.errno, _explain(context, error), error.filename) from None
    finally:
        os.close(context)


def reconfigure(mount: int, words: list[str]) -> None:
    """Change the parameters of the filesystem that is mounted at the descriptor."""
    context = syscalls.fspick("", dir_fd=mount)
    try:
        _configure(context, words)
        syscalls.fsconfig_reconfigure(context)
    except OSError as error:
        raise OSError(error.errno, _explain(context, error), error.filename) from None
    finally:
        os.close(context)


def _configure(context: int, words: list[str]) -> None:
    for word in words:
        key, equals, value = word.partition("=")
        syscalls.fsconfig_set(context, key, value if equals else None)


def _explain(context: int, error: OSError) -> str:
    """Return the error's text with what the kernel logged in the context, a line a message ("e tmpfs: Unknown parameter")."""
    lines = []
    try:
        while True:
            lines.append(os.read(context, 512).decode("utf-8", "replace").strip()[2:])
    except OSError:
        pass  # ENODATA: that was all
    text = os.strerror(error.errno or 0)
    return f"{text} ({'; '.join(lines)})" if lines else text


def _fits(kind: str, words: list[str]) -> bool:
    """Tell whether a filesystem takes these parameters one by one: not when it parses quotes or long lists itself."""
    if kind == "overlay" or "." in kind:
        return False
    return all(len(word) <= _LONGEST_PARAMETER and not ("\\" in word or '"' in word) for word in words)


def _make_by_mount(
    kind: str, source: str, flags: list[str], data: list[str], attributes: int, place: int
) -> int:
    """Mount by mount(2), which sets no limit to a parameter, and take the mount away again as a detached one.

    mount(2) wants a path: it gets one in an empty directory of our own that covers `place` meanwhile.
    """
    bits = sum(_OLD_FLAGS[flag] for flag in flags)
    bits |= sum(old for new, old in _OLD_ATTRIBUTES if attributes & new)
    cover = new_filesystem("tmpfs", "tmpfs", ["mode=700"], 0)
    try:
        syscalls.move_mount(cover, place)
        os.fchdir(cover)
        try:
            os.mkdir("mount")
            syscalls.mount(source or kind, "mount", kind, bits, ",".join(data) or None)
            return syscalls.open_tree("mount")
        except OSError as error:
            raise OSError(error.errno, error.strerror) from None
        finally:
            syscalls.umount2(".", syscalls.MNT_DETACH)
            os.chdir("/")
    finally:
        os.close(cover)


def change(tree: int, add: int, drop: int, *, recursive: bool) -> None:
    """Add and drop attributes. What a user namespace has locked stays: a flag that may not be dropped is kept."""
    kept = drop & ATTR_ATIME if add & ATTR_ATIME else 0
    attempts = [(add, drop), (add, kept), (add & ~ATTR_ATIME, 0)]
    for index, (more, less) in enumerate(attempts):
        if not more and not less:
            return
        try:
            syscalls.mount_setattr(tree, add=more, drop=less, recursive=recursive)
            return
        except PermissionError:
            if index == len(attempts) - 1:
                raise
