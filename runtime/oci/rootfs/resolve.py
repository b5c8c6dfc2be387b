# SPDX-License-Identifier: Apache-2.0
"""The one way to reach a path in a container's root: to a descriptor, never out of the root, whatever the root's files are.

A link means what it would mean inside the container: its target is taken from the container's root. The files may be
changed by somebody else meanwhile (a shared volume); then the result is another file of the same root, or an error.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci.rootfs import syscalls

_LINKS = 40  # as many as the kernel follows
_TRIES = 100  # to open or make a name that somebody else makes and removes
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def find(root: int, path: str, *, links: bool = True, flags: int = os.O_PATH) -> int | None:
    """Return a descriptor of the existing `path` below `root`, or None; without `links`, ELOOP if there is one on the way."""
    rules = syscalls.RESOLVE_IN_ROOT
    rules |= syscalls.RESOLVE_NO_MAGICLINKS if links else syscalls.RESOLVE_NO_SYMLINKS
    try:
        return syscalls.openat2(path or ".", flags, dir_fd=root, resolve=rules)
    except FileNotFoundError:
        return None


def find_last(root: int, path: str) -> int | None:
    """Return a descriptor of the existing `path`, of the link itself if its last name is one."""
    return find(root, path, flags=_NODE)


def make_directory(root: int, path: str, *, links: bool = True, mode: int = 0o755) -> int:
    """Return an O_PATH descriptor of the directory `path` below `root`, made with its parents where it is missing."""
    return _reach(root, path, links, mode | stat.S_IFDIR)


def make_file(root: int, path: str, *, links: bool = True, mode: int = 0o644) -> int:
    """Return an O_PATH descriptor of `path` below `root`; an empty file is made where it is missing."""
    return _reach(root, path, links, mode | stat.S_IFREG)


def make_parent(root: int, path: str, *, links: bool = True) -> tuple[int, str]:
    """Return a descriptor of the directory that `path` is in, made where it is missing, and the last name of `path`."""
    directory, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "does not end in a name", path)
    return make_directory(root, directory, links=links), name


def _reach(root: int, path: str, links: bool, mode: int) -> int:
    found = find(root, path, links=links)
    if found is not None:
        return found
    try:
        return _walk(root, path, links, mode)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None


def _walk(root: int, path: str, links: bool, mode: int) -> int:
    """Walk name by name and make what is missing. A `..` goes back the way we came, so it cannot leave the root."""
    trail = [os.dup(root)]
    names = _names(path)
    followed = 0
    try:
        while names:
            name = names.pop()
            if name == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            fd = _open_or_make(trail[-1], name, stat.S_IFDIR | 0o755 if names else mode)
            trail.append(fd)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                continue
            followed += 1
            if not links or followed > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            text = os.readlink(b"", dir_fd=fd)
            os.close(trail.pop())
            if text.startswith(b"/"):
                _close(trail, down_to=1)
            names.extend(_names(os.fsdecode(text)))
        return trail.pop()
    finally:
        _close(trail)


def _names(path: str) -> list[str]:
    """Return the names of a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _close(trail: list[int], down_to: int = 0) -> None:
    while len(trail) > down_to:
        os.close(trail.pop())


def _open_or_make(parent: int, name: str, mode: int) -> int:
    for _ in range(_TRIES):
        try:
            return os.open(name, _NODE, dir_fd=parent)
        except FileNotFoundError:
            pass
        try:
            if stat.S_ISDIR(mode):
                os.mkdir(name, stat.S_IMODE(mode), dir_fd=parent)
            else:
                # mknod follows no link and fails if there is one
                os.mknod(name, mode, dir_fd=parent)
        except FileExistsError:
            pass
    raise OSError(errno.EAGAIN, "somebody keeps making and removing it", name)
