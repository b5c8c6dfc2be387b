# SPDX-License-Identifier: Apache-2.0
"""The steps of init that make the container's root, in the namespaces of the container."""

from __future__ import annotations

import os

from runtime.oci.failure import Step
from runtime.oci.rootfs import devices, masks, pivot
from runtime.oci.rootfs.mounts import Mount
from runtime.oci.rootfs.prepare import Prepared
from runtime.oci.rootfs.syscalls import MS_SHARED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


def stand_at_root(prepared: Prepared) -> None:
    """Make the directory that a union is to be mounted on the current one, while we have the caller's rights.

    The root of a user namespace may not be able to go there. A new mount namespace takes its processes' directories along.
    """
    if prepared.union is not None:
        with Step("enter the directory of the root", "see root.path of config.json"):
            os.chdir(prepared.root)


def build(config: Config, prepared: Prepared) -> None:
    """Mount everything below the root and make the devices. Leaves the root as the current directory. Raises `Failure`."""
    with Step("open the root", "see root.path of config.json"):
        if not prepared.has_namespace:
            prepared.root_fd = os.open(prepared.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            pivot.isolate(prepared.propagation)
            shared = bool(prepared.propagation & MS_SHARED)
            if prepared.union is not None:
                prepared.root_fd = pivot.mount_union(prepared.union.become_root, shared)
            else:
                prepared.root_fd = pivot.mount_root(prepared.root, shared)
    mask = os.umask(0)
    for mount in prepared.mounts:
        _attach(mount, prepared)
    if prepared.devices is not None and prepared.has_namespace:
        with Step("make devices"):
            devices.make_all(prepared.root_fd, prepared.devices, prepared.nodes, prepared.made_devices)
    os.umask(mask)
    os.fchdir(prepared.root_fd)


def _attach(mount: Mount, prepared: Prepared) -> None:
    try:
        mount.attach(prepared.root_fd)
    except OSError as error:
        if error.filename == mount.where:  # the title says it
            error.filename = None
        with Step(mount.title(), prepared.hint if isinstance(error, PermissionError) else ""):
            raise


def enter(config: Config, prepared: Prepared, *, no_pivot: bool = False) -> None:
    """Make what `build` made the root of this process (and forget the host's). Raises `Failure`."""
    hint = "on an initramfs, give --no-pivot" if not no_pivot else ""
    with Step("enter the root", hint):
        if not prepared.has_namespace:
            os.fchdir(prepared.root_fd)
            pivot.change_root()
        elif no_pivot:
            pivot.move(prepared.root_fd)
        else:
            pivot.enter(prepared.root_fd)
        os.close(prepared.root_fd)
        prepared.root_fd = -1
        if prepared.has_namespace and prepared.propagation:
            pivot.spread(prepared.propagation, prepared.tree_propagation)


def finish(config: Config, prepared: Prepared) -> None:
    """Set sysctls, then make read-only and hide what the config names. Nothing in the root can be changed after it."""
    if prepared.set_sysctls:
        with Step("set sysctl"):
            prepared.set_sysctls(prepared.sysctl)
    for mount in prepared.mounts:
        with Step(f"make {mount.where} read-only"):
            mount.seal()
    if not prepared.has_namespace:
        return
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with Step("make paths read-only"):
        for path in prepared.read_only_paths:
            masks.make_read_only(root, path)
    with Step("hide paths"):
        cover = masks.Mask(root)
        for path in prepared.masked:
            cover.hide(path)
        cover.close()
    os.close(root)
    if prepared.read_only:
        with Step("make the root read-only"):
            pivot.seal_root()
