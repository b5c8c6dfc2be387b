# SPDX-License-Identifier: Apache-2.0
"""A program of its own: move network interfaces to another namespace.  netmove.py PID JSON-OF-{NAME: NEW-NAME}

It imports nothing of ours, so that it runs by its path. Prints one line and ends with 1 if it fails.
"""

import errno
import json
import sys
from typing import Any

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

_IFF_UP = 1
_GLOBAL_SCOPE, _PERMANENT = 0, 0x80
_KEPT_FLAGS = 0x02 | 0x200  # no duplicate address detection, no route for the prefix


class Problem(Exception):
    """What the user is told."""


class Device:
    """An interface to move: what it is outside, and what it shall be called inside."""

    def __init__(self, route: IPRoute, name: str, new_name: str) -> None:
        self.name = name
        self.new_name = new_name
        self.index = _index(route, name)
        (link,) = route.get_links(self.index)
        self.was_up = bool(link["flags"] & _IFF_UP)
        self.addresses = _addresses(route, self.index)


def main(pid: str, wanted: dict[str, str]) -> None:
    """Move the interfaces `wanted`, new names by old ones, to the network namespace of `pid`; all of them or none."""
    with open("/proc/self/ns/net") as here, open(f"/proc/{pid}/ns/net") as there, IPRoute() as outside:
        devices = [Device(outside, name, new_name) for name, new_name in wanted.items()]
        netns.setns(there.fileno())
        moved: list[tuple[Device, int]] = []
        with IPRoute() as inside:
            try:
                for device in devices:
                    _move(outside, inside, device, there.fileno(), moved)
            except BaseException:
                for device, index in moved:
                    _return(outside, inside, device, index, here.fileno())
                raise


def _index(route: IPRoute, name: str) -> int:
    indexes = list(route.link_lookup(ifname=name))
    if not indexes:
        raise Problem(f"there is no interface {name} here")
    return int(indexes[0])


def _addresses(route: IPRoute, index: int) -> list[dict[str, Any]]:
    """Return the arguments to add each permanent, global address again: a move loses them all."""
    result = []
    for message in route.get_addr(index=index):
        flags = message.get_attr("IFA_FLAGS") or message["flags"]
        if message["scope"] != _GLOBAL_SCOPE or not flags & _PERMANENT:
            continue
        entry = {"family": message["family"], "prefixlen": message["prefixlen"], "scope": _GLOBAL_SCOPE}
        for key, attribute in (
            ("address", "IFA_ADDRESS"),
            ("local", "IFA_LOCAL"),
            ("broadcast", "IFA_BROADCAST"),
        ):
            if (value := message.get_attr(attribute)) is not None:
                entry[key] = value
        if flags & _KEPT_FLAGS:
            entry["IFA_FLAGS"] = flags & _KEPT_FLAGS
        result.append(entry)
    return result


def _move(
    outside: IPRoute, inside: IPRoute, device: Device, there: int, moved: list[tuple[Device, int]]
) -> None:
    before = _indexes(inside)
    try:
        outside.link("set", index=device.index, state="down")
        try:
            outside.link("set", index=device.index, net_ns_fd=there, ifname=device.new_name)
        finally:  # a name that is taken may be found out when the device is there already
            # Its number may have been taken there: what is new is it.
            moved += [(device, index) for index in _indexes(inside) - before]
        index = moved[-1][1]
        for address in device.addresses:
            inside.addr("add", index=index, **address)
        inside.link("set", index=index, state="up")
    except NetlinkError as error:
        reason = "the name is taken" if error.code == errno.EEXIST else str(error.args[-1]).lower()
        where = f"interface {device.name} to the container as {device.new_name}"
        raise Problem(f"cannot move {where}: {reason}") from None


def _return(outside: IPRoute, inside: IPRoute, device: Device, index: int, here: int) -> None:
    """Give the host a device back as it was: a virtual one would die with the container's namespace."""
    try:
        inside.link("set", index=index, state="down")
        inside.link("set", index=index, ifname=device.name)
        before = _indexes(outside)
        inside.link("set", index=index, net_ns_fd=here)
        (index,) = _indexes(outside) - before
        for address in device.addresses:
            outside.addr("add", index=index, **address)
        if device.was_up:
            outside.link("set", index=index, state="up")
    except NetlinkError as error:
        print(f"cannot give {device.name} back: {error}")


def _indexes(route: IPRoute) -> set[int]:
    return {int(link["index"]) for link in route.get_links()}


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except Problem as problem:
        sys.exit(str(problem))
