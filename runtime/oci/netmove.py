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


def main(pid: str, wanted: dict[str, str]) -> None:
    """Move the interfaces `wanted`, new names by old ones, to the network namespace of `pid`."""
    target = open(f"/proc/{pid}/ns/net")  # noqa: SIM115  # until the end
    with IPRoute() as outside:
        found = {name: _index(outside, name) for name in wanted}
        addresses = {name: _addresses(outside, index) for name, index in found.items()}
        netns.setns(target.fileno())
        with IPRoute() as inside:
            for name, new_name in wanted.items():
                _move(outside, inside, found[name], name, new_name, target.fileno(), addresses[name])


def _index(route: IPRoute, name: str) -> int:
    indexes = route.link_lookup(ifname=name)
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
    outside: IPRoute,
    inside: IPRoute,
    index: int,
    name: str,
    new_name: str,
    target: int,
    addresses: list[dict[str, Any]],
) -> None:
    before = _indexes(inside)
    (link,) = outside.get_links(index)
    was_up = link["flags"] & _IFF_UP
    try:
        outside.link("set", index=index, state="down")
        outside.link("set", index=index, net_ns_fd=target, ifname=new_name)
        # Its number may be taken there, and "%d" in the name has become a number: what is new is it.
        (moved,) = _indexes(inside) - before
        for address in addresses:
            inside.addr("add", index=moved, **address)
        inside.link("set", index=moved, state="up")
    except NetlinkError as error:
        if was_up and index in _indexes(outside):
            outside.link("set", index=index, state="up")
        reason = "the name is taken" if error.code == errno.EEXIST else str(error.args[-1]).lower()
        raise Problem(f"cannot move interface {name} to the container as {new_name}: {reason}") from None


def _indexes(route: IPRoute) -> set[int]:
    return {int(link["index"]) for link in route.get_links()}


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except Problem as problem:
        sys.exit(str(problem))
