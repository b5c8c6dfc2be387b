# SPDX-License-Identifier: Apache-2.0
"""Device nodes and links of the container's /dev.

Where mknod is refused (user namespace) nodes are bound: those of the config from a tmpfs that the parent made, the others and
those of an ordinary user from the host's /dev.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci.rootfs import resolve, syscalls
from runtime.oci.rootfs.filesystems import new_filesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ranges = list[dict[str, Any]]

# What every container has: name, minor number, major number.
_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

NULL = os.makedev(1, 3)


class Device:
    """A node of the config, or one of the default ones."""

    __slots__ = ("gid", "mode", "number", "path", "tree", "uid")

    def __init__(self, path: str, mode: int, number: int, uid: int = 0, gid: int = 0) -> None:
        self.path = path
        self.mode = mode  # type and permissions
        self.number = number
        self.uid = uid
        self.gid = gid
        self.tree = -1  # a detached mount of the node, if it cannot be made in its place


def wanted(listed: list[dict[str, Any]]) -> list[Device]:
    """Return the default nodes and the config's; one of the config's takes the place of a default one."""
    devices = {
        f"/dev/{name}": Device(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        for name, major, minor in _NODES
    }
    for entry in listed:
        mode = _TYPES[entry["type"]] | entry.get("fileMode", 0o666) & 0o7777
        number = os.makedev(entry.get("major", 0), entry.get("minor", 0))
        if stat.S_ISFIFO(mode):
            number = 0
        device = Device(entry["path"], mode, number, entry.get("uid", 0), entry.get("gid", 0))
        devices[os.path.normpath(device.path)] = device
    return list(devices.values())


def make_nodes(devices: list[Device], ids: tuple[Ranges, Ranges]) -> int:
    """Return a detached tmpfs with the nodes, named by their place in the list, or -1 where that is refused.

    Called with the parent's rights; `ids` are the maps of users and groups of the container's user namespace.
    """
    try:
        nodes = new_filesystem("tmpfs", "tmpfs", ["mode=755"], syscalls.ATTR_NOSUID | syscalls.ATTR_NOEXEC)
    except PermissionError:
        return -1
    mask = os.umask(0)
    try:
        for index, device in enumerate(devices):
            os.mknod(str(index), device.mode, device.number, dir_fd=nodes)
            os.chown(str(index), _on_host(device.uid, ids[0]), _on_host(device.gid, ids[1]), dir_fd=nodes)
    except PermissionError:
        os.close(nodes)
        return -1
    finally:
        os.umask(mask)
    return nodes


def _on_host(number: int, ranges: Ranges) -> int:
    """Return the host's number of a container's id, 0 if it has none."""
    for entry in ranges:
        if entry["containerID"] <= number < entry["containerID"] + entry["size"]:
            return int(entry["hostID"] + number - entry["containerID"])
    return 0


def _take_nodes(dev: int, nodes: int, devices: list[Device]) -> None:
    """Give each device its own mount out of the tmpfs that `make_nodes` made; it is attached for that moment only.

    Leaves the working directory somewhere else.
    """
    syscalls.move_mount(nodes, dev)
    for index, device in enumerate(devices):
        device.tree = syscalls.open_tree(str(index), dir_fd=nodes)
    os.fchdir(nodes)
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.close(nodes)


def make_all(root: int, devices: list[Device], nodes: int, made: list[Device]) -> None:
    """Make the nodes and links below `root`, with an umask of 0. /dev must be a directory, not a link (CVE-2026-41579).

    `nodes` is what `make_nodes(made)` returned, or -1.
    """
    dev = resolve.make_directory(root, "/dev", links=False)
    try:
        if nodes >= 0:
            _take_nodes(dev, nodes, made)
        for device in devices:
            directory, _, name = device.path.rpartition("/")
            if directory == "/dev":
                _make(dev, name, device)
            else:
                parent, name = resolve.make_parent(root, device.path)
                try:
                    _make(parent, name, device)
                finally:
                    os.close(parent)
        for name, target in _LINKS:
            _link(dev, name, target)
        # The container's own terminals, whatever the image has there.
        _link(dev, "ptmx", "pts/ptmx", replace=True)
    finally:
        os.close(dev)


def _make(directory: int, name: str, device: Device) -> None:
    try:
        os.mknod(name, device.mode, device.number, dir_fd=directory)
    except FileExistsError:
        if _is_right(directory, name, device):
            return
        _bind(directory, name, device)
    except PermissionError:
        _bind(directory, name, device)
    else:
        if device.uid or device.gid:
            os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)


def _is_right(directory: int, name: str, device: Device) -> bool:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return stat.S_IFMT(status.st_mode) == stat.S_IFMT(device.mode) and status.st_rdev == device.number


def _bind(directory: int, name: str, device: Device) -> None:
    """Bind the node that the parent made, else the host's of the same path, verified to be the same device."""
    tree = device.tree
    if tree < 0:
        source = open_node(device.path, device.mode, device.number)
        try:
            tree = syscalls.open_tree("", dir_fd=source)
        finally:
            os.close(source)
    try:
        target = _open_target(directory, name)
        try:
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def _open_target(directory: int, name: str) -> int:
    """Return a descriptor of the file to cover; a link there is replaced, since it is not followed."""
    how = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, how, dir_fd=directory)
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    os.mknod(name, 0o666 | stat.S_IFREG, dir_fd=directory)
    return os.open(name, how, dir_fd=directory)


def open_node(path: str, mode: int, number: int) -> int:
    """Return an O_PATH descriptor of the node at `path`; ENXIO if it is not the device that it should be."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(mode) or status.st_rdev != number:
        os.close(fd)
        raise OSError(errno.ENXIO, "is not the device it should be", path)
    return fd


def _link(directory: int, name: str, target: str, *, replace: bool = False) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        if replace and not _is_link_to(directory, name, target):
            os.unlink(name, dir_fd=directory)
            os.symlink(target, name, dir_fd=directory)


def _is_link_to(directory: int, name: str, target: str) -> bool:
    try:
        return os.readlink(name, dir_fd=directory) == target
    except OSError:  # EINVAL: not a link
        return False
