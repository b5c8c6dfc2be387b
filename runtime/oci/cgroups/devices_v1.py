# SPDX-License-Identifier: Apache-2.0
"""The device rules of a v1 group: what it stores is a default and exceptions from it, changed by writing line by line."""

from __future__ import annotations

import errno

from runtime.oci.cgroups.devices import ALL, ANY
from runtime.oci.cgroups.files import read, write
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups.devices import Rule
    from runtime.oci.cgroups.directories import Directories

    Device = tuple[str, int, int]


def restrict(group: Directories, rules: list[Rule]) -> None:
    """Make the rules the group's; at no time may it open more than before or after. An ordinary user may not: nothing is done."""
    directory = group.v1["devices"]
    try:
        _write(group, directory, changes(*lower(rules), read(directory, "devices.list") or ""))
    except PermissionError:
        if not group.rootless:
            raise


def lower(wanted: list[Rule]) -> tuple[bool, dict[Device, str]]:
    """Return what v1 stores: whether all is allowed or nothing, and the exceptions with their access.

    Failure for an exception from an exception (a rule against one device of a major number that is allowed), which v1
    cannot express.
    """
    allowed = wanted[0][0]
    exceptions: dict[Device, str] = {}
    for allow, kind, major, minor, access in wanted[1:]:
        for one in ("b", "c") if kind == "a" else (kind,):
            device = (one, major, minor)
            if allow != allowed:
                exceptions[device] = _ordered(exceptions.get(device, "") + access)
                continue
            _refuse_inexpressible(device, access, exceptions)
            if left := "".join(word for word in exceptions.pop(device, "") if word not in access):
                exceptions[device] = left
    return allowed, exceptions


def _refuse_inexpressible(device: Device, access: str, exceptions: dict[Device, str]) -> None:
    kind, major, minor = device
    for (other_kind, other_major, other_minor), words in exceptions.items():
        other = (other_kind, other_major, other_minor)
        wider = other_major in (ANY, major) and other_minor in (ANY, minor)
        if other != device and other_kind == kind and wider and set(words) & set(access):
            raise Failure(
                f"linux.resources.devices: cgroup v1 cannot except {text(device)} from {text(other)}",
                "list the devices one by one",
            )


def text(device: Device, access: str = "") -> str:
    """Return a device and access as the kernel writes them."""
    kind, major, minor = device
    numbers = ":".join("*" if number == ANY else str(number) for number in (major, minor))
    return f"{kind} {numbers} {access}".rstrip()


def changes(allowed: bool, exceptions: dict[Device, str], present: str) -> list[tuple[str, str]]:
    """Return (file, text) to get from `present`, the text of devices.list, to the wanted state.

    Where the group is a list of allowed devices before and after, only the difference is written: a device allowed in both
    is never refused meanwhile.
    """
    lines = present.splitlines()
    wanted = {text(device): access for device, access in exceptions.items()}
    if allowed:
        return [
            ("devices.allow", "a"),
            *(("devices.deny", f"{key} {value}") for key, value in wanted.items()),
        ]
    if not lines or lines[0].startswith("a "):
        return [
            ("devices.deny", "a"),
            *(("devices.allow", f"{key} {value}") for key, value in wanted.items()),
        ]
    old = {key: _ordered(access) for key, _, access in (line.rpartition(" ") for line in lines)}
    result = [
        ("devices.allow", f"{key} {value}")
        for key, value in wanted.items()
        if set(value) - set(old.get(key, ""))
    ]
    for key, access in old.items():
        if gone := "".join(word for word in access if word not in wanted.get(key, "")):
            result.append(("devices.deny", f"{key} {gone}"))
    return result


def _write(group: Directories, directory: str, steps: list[tuple[str, str]]) -> None:
    """Write the changes. The group above may refuse to allow what it does not have; the container then has less, never more."""
    start = 0
    while start < len(steps):
        file = steps[start][0]
        end = start
        while end < len(steps) and steps[end][0] == file:
            end += 1
        try:
            write(directory, file, *(line for _, line in steps[start:end]))
        except OSError as error:
            if error.errno != errno.EPERM or file != "devices.allow":
                raise
            _allow_one_by_one(group, directory, [line for _, line in steps[start:end]])
        start = end


def _allow_one_by_one(group: Directories, directory: str, lines: list[str]) -> None:
    for line in lines:
        try:
            write(directory, "devices.allow", line)
        except PermissionError as error:
            if error.errno != errno.EPERM or group.rootless:
                raise
            group.warnings.append(
                f"the cgroup above does not allow device {line!r}, so the container has not got it"
            )


def _ordered(access: str) -> str:
    return "".join(word for word in ALL if word in access)
