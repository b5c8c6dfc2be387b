# SPDX-License-Identifier: Apache-2.0
"""A container around one command: namespaces of its own and a target as the root, the same for every target.

The machine's own programs are bound into it read-only, so that nothing has to be copied and only the files that are
measured lie on the target.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.machine import syscalls
from bench.machine.layers import Layers
from unionfs.kernel import syscalls as mounts

_PROGRAMS = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES = ("null", "zero", "urandom")
_EMPTY = ("proc", "dev", "tmp")
_NAMESPACES = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET
)  # fmt: skip


def build_root(layers: Layers) -> None:
    """Make the directories and links that a container's root has, without any program."""
    for name in _EMPTY:
        layers.path(f"{name}/x")  # which makes the directory
    for name in _PROGRAMS:
        source = Path("/", name)
        if source.is_symlink():
            layers.path(name).symlink_to(os.readlink(source))
        elif source.is_dir():
            layers.path(f"{name}/x")


def contained(root: Path) -> Callable[[], None]:
    """Give this process namespaces of its own; return what a child must do to be in a container with `root` as its root.

    The first child becomes process 1 of the process namespace: there can be no other one after it.
    """
    syscalls.unshare(_NAMESPACES)
    mounts.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    mounts.mount(str(root), str(root), None, mounts.MS_BIND)
    for name in _PROGRAMS:
        if Path("/", name).is_dir() and not Path("/", name).is_symlink():
            _bind(Path("/", name), root / name)
            mounts.mount(None, str(root / name), None, mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY)
    mounts.mount("tmpfs", str(root / "dev"), "tmpfs", 0, "mode=755,size=64k")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        _bind(Path("/dev", name), root / "dev" / name)

    def enter() -> None:
        mounts.mount("proc", str(root / "proc"), "proc", 0, "")
        os.chdir(root)
        mounts.mount(".", "/", None, mounts.MS_MOVE)
        os.chroot(".")
        os.chdir("/")

    return enter


def _bind(source: Path, target: Path) -> None:
    mounts.mount(str(source), str(target), None, mounts.MS_BIND)
