# SPDX-License-Identifier: Apache-2.0
"""The root itself: a private mount of its own, which becomes `/` while the host's goes away."""

from __future__ import annotations

import os

from runtime.oci.rootfs import mountinfo, syscalls
from runtime.oci.rootfs.mountflags import PROPAGATION
from runtime.oci.rootfs.syscalls import ATTR_RDONLY, MNT_DETACH, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def propagation(word: str) -> tuple[int, bool]:
    """Return the kind (MS_*) and whether it is recursive of a rootfsPropagation; ValueError for a word that is none."""
    if word in PROPAGATION:
        return PROPAGATION[word], False
    if word[:1] == "r" and word[1:] in PROPAGATION:
        return PROPAGATION[word[1:]], True
    raise ValueError(word)


def isolate(kind: int) -> None:
    """Decide what mount events this new namespace exchanges with the host; the default is to receive only.

    Nothing is made unbindable at this time, because the root and the sources of binds are to be bound.
    """
    kind = MS_PRIVATE if kind == MS_UNBINDABLE else kind or MS_SLAVE
    old = os.open("/", _DIRECTORY)
    try:
        syscalls.mount_setattr(old, propagation=kind, recursive=True)
    finally:
        os.close(old)


def mount_root(path: str, shared: bool) -> int:
    """Bind the root on itself, as a private mount, and return its descriptor. `shared`: the mounts around are."""
    target = os.open(path, _DIRECTORY)
    try:
        if shared:
            _make_parent_private(path)
        tree = syscalls.open_tree("", dir_fd=target, recursive=True)
        syscalls.mount_setattr(tree, propagation=MS_PRIVATE)
        syscalls.move_mount(tree, target)
        return tree
    finally:
        os.close(target)


def mount_union(attach: Callable[[], int], shared: bool) -> int:
    """Have the root attached to the current directory, and return its descriptor. `shared` as above."""
    if shared:
        _make_parent_private(os.getcwd())
    return attach()


def _make_parent_private(path: str) -> None:
    """Keep the mount that holds the root from passing it on, and pivot_root possible: the mount's root is one of the parents."""
    while True:
        fd = os.open(path, _DIRECTORY)
        try:
            return syscalls.mount_setattr(fd, propagation=MS_PRIVATE)
        except OSError:  # EINVAL: not the root of a mount
            if path == "/":
                raise
        finally:
            os.close(fd)
        path = os.path.dirname(path)


def enter(root: int) -> None:
    """Make the mount `root` the root directory, and let go of everything else that is mounted."""
    old = os.open("/", _DIRECTORY)
    os.fchdir(root)
    syscalls.pivot_root(".", ".")
    # The old root lies on top of the new one now. It goes with all below it, and the host must not hear of that.
    syscalls.mount_setattr(old, propagation=MS_SLAVE, recursive=True)
    os.close(old)
    syscalls.umount2(".", MNT_DETACH)
    os.chdir("/")


def move(root: int) -> None:
    """Move the root over `/` instead: for a host whose root (an initramfs) cannot be pivoted away.

    The host's mounts stay below. Its proc and sysfs go first, so that no complete one is left in this namespace.
    """
    os.fchdir(root)
    for path in _kernel_mounts():
        try:
            syscalls.umount2(path, MNT_DETACH)
        except OSError:
            pass  # EINVAL: locked, or gone with another
    syscalls.mount(".", "/", None, syscalls.MS_MOVE)
    change_root()


def change_root() -> None:
    """Make the current directory the root directory of this process alone."""
    os.chroot(".")
    os.chdir("/")


def _kernel_mounts() -> list[str]:
    """Return where proc and sysfs are mounted outside of the current directory, the deepest first."""
    inside = os.getcwd().rstrip("/") + "/"
    lines = [line for line in mountinfo.read() if line.kind in ("proc", "sysfs")]
    return [line.path for line in reversed(lines) if not line.path.startswith(inside)]


def spread(kind: int, recursive: bool) -> None:
    """Give the container's root its final propagation."""
    root = os.open("/", _DIRECTORY)
    try:
        syscalls.mount_setattr(root, propagation=kind, recursive=recursive)
    finally:
        os.close(root)


def seal_root() -> None:
    """Make the root's own mount read-only; what is mounted on it stays as it is."""
    root = os.open("/", _DIRECTORY)
    try:
        syscalls.mount_setattr(root, add=ATTR_RDONLY)
    finally:
        os.close(root)
