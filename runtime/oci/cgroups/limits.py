# SPDX-License-Identifier: Apache-2.0
"""Writing limits into a group's files, and handing its devices to what checks them."""

from __future__ import annotations

import errno
import os

from runtime.oci.cgroups import bpf, devices_v1
from runtime.oci.cgroups.creation import hand_down
from runtime.oci.cgroups.devices import rules
from runtime.oci.cgroups.files import read, write
from runtime.oci.cgroups.resources import plan
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.cgroups.directories import Directories
    from runtime.oci.cgroups.resources import Setting

# Written though the kernel counts no swap, these mean what is the case anyway.
_SWAP_FILES = ("memory.memsw.limit_in_bytes", "memory.swap.max")
_RETRIED = (errno.EINVAL, errno.EBUSY)


def apply(group: Directories, resources: dict[str, Any]) -> None:
    """Write the limits; Failure names the field that was refused.

    The files of a controller constrain one another (burst ≤ quota, memory ≤ memory + swap, quota / period ≤ the parent's),
    and which order works depends on what they hold: what is refused is tried once more after the others.
    """
    if not group.v1 and not group.v2:
        _without_group(group, resources)
        return

    def present(controller: str, file: str) -> str | None:
        directory = group.directory(controller)
        return read(directory, file) if directory else None

    planned = plan(resources, group.layout.v1, present)
    group.warnings += planned.warnings
    if group.layout.hybrid and group.v2:
        _hand_down_left_over(group, {setting[0] for setting in planned.settings})
    refused = []
    for setting in planned.settings:
        try:
            _write(group, setting)
        except OSError as error:
            if error.errno not in _RETRIED:
                raise _failure(group, setting, error) from None
            refused.append(setting)
    for setting in refused:
        try:
            _write(group, setting)
        except OSError as error:
            raise _failure(group, setting, error) from None


def restrict_devices(group: Directories, given: list[dict[str, Any]]) -> None:
    """Make the group's devices those of `linux.resources.devices` and the default ones."""
    wanted = rules(given)
    if "devices" in group.v1:
        devices_v1.restrict(group, wanted)
    elif group.layout.unified and group.v2:
        bpf.restrict(group, wanted)


def check_before_update(group: Directories, resources: dict[str, Any]) -> None:
    """Refuse a memory limit below what is in use if `memory.checkBeforeUpdate` says so: v2 would kill, v1 refuses anyway."""
    given = resources.get("memory") or {}
    limit = given.get("limit") or -1
    if not given.get("checkBeforeUpdate") or limit < 0 or "memory" in group.v1 or not group.v2:
        return
    used = int(read(group.v2, "memory.current") or 0)
    if used > limit:
        raise Failure(
            f"linux.resources.memory.limit: {limit} is below what the container uses, {used}",
            "memory.checkBeforeUpdate forbids to kill for it",
        )


def _write(group: Directories, setting: Setting) -> None:
    controller, file, text, _field = setting
    directory = group.directory(controller)
    if not directory:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
    try:
        write(directory, file, text)
    except FileNotFoundError:
        if file not in _SWAP_FILES or not _says_no_swap(group, text):
            raise


def _says_no_swap(group: Directories, text: str) -> bool:
    """Tell whether a limit on swap says: any, or none; on v1, which counts memory in, none is the limit on memory."""
    if text in ("max", "-1", "0"):
        return True
    return "memory" in group.v1 and text == read(group.v1["memory"], "memory.limit_in_bytes")


def _hand_down_left_over(group: Directories, controllers: set[str]) -> None:
    """In a hybrid layout, enable those of v2's few controllers that are needed; the hierarchy is otherwise left as it is."""
    wanted = tuple(word for word in sorted(controllers) if word and word not in group.layout.v1)
    if wanted:
        hand_down(group.layout.v2, group.v2, wanted)


def _without_group(group: Directories, resources: dict[str, Any]) -> None:
    asked = [section for section, given in sorted(resources.items()) if given and section != "devices"]
    if not asked:
        return
    if group.rootless:
        raise _not_delegated(asked[0])
    group.warnings.append(f"linux.resources.{asked[0]} is ignored: the cgroup manager is disabled")


def _not_delegated(field: str) -> Failure:
    return Failure(
        f"linux.resources.{field} needs a cgroup, and none was delegated to this user",
        "run as root, without limits, or on cgroup v2 in a user scope that delegates the controller (systemd-run --user --scope)",
    )


def _failure(group: Directories, setting: Setting, error: OSError) -> Failure:
    """Say which field was refused, and why as far as the errno tells."""
    controller, file, text, field = setting
    message = f"linux.resources.{field}: cannot write {text!r} to {file}: {(error.strerror or '').lower()}"
    if error.errno == errno.ENOENT:
        if not _has_controller(group, controller):
            if group.rootless:
                return _not_delegated(field)
            return Failure(
                f"linux.resources.{field}: the requested cgroup controller `{controller}` is not available",
                "is it mounted, and enabled?",
            )
        return Failure(message, "this kernel has no such limit")
    hints = {
        errno.EBUSY: f"the {field.partition('.')[0]} limit is too low: the container uses more than that",
        errno.EACCES: "the group above this one does not have it",
        errno.ENODEV: "there is no such device",
        errno.ERANGE: "too large, or more than this machine has",
        errno.EINVAL: "is the value in range, and does it fit the others and the parent's?",
        errno.EOPNOTSUPP: "the kernel or the device's scheduler does not support it",
    }
    return Failure(message, hints.get(error.errno or 0, ""))


def _has_controller(group: Directories, controller: str) -> bool:
    if controller in group.v1 or not controller:
        return True
    return bool(group.v2) and controller in (read(group.v2, "cgroup.controllers") or "").split()
