# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: move interfaces of the host into a container's network namespace.

The work is done by another interpreter (`netmove.py`): the netlink library is large, and brings an event loop that this
program must not have when it forks.
"""

from __future__ import annotations

import os
import sys

from runtime.oci import jsontext
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST_NAME = 15  # bytes, of an interface


def check(devices: dict[str, Any]) -> None:
    """Check `linux.netDevices`; raises Failure naming the key."""
    names = [device.get("name") or host for host, device in devices.items()]
    for name in {*devices, *names}:
        data = name.encode("utf-8", "surrogateescape")
        if not 0 < len(data) <= _LONGEST_NAME or name in (".", "..") or any(c in name for c in "/: \t\n\0"):
            raise Failure(f"linux.netDevices: {name!r} is not the name of an interface")
    for name in names:
        if names.count(name) > 1 and "%" not in name:
            raise Failure(f"linux.netDevices: two interfaces would be called {name!r}")


def move(devices: dict[str, Any], pid: int) -> None:
    """Move each of `devices` into the network namespace of `pid`, rename it, restore its permanent addresses, set it up.

    Called by the parent when the namespace exists; raises Failure naming the device.
    """
    check(devices)
    wanted = jsontext.dumps({host: device.get("name") or host for host, device in devices.items()})
    program = os.path.join(os.path.dirname(__file__), "netmove.py")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
    try:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", program, str(pid), wanted],
            dict(os.environ),
            file_actions=actions,
        )
    finally:
        os.close(writer)
    text = b""
    while part := os.read(reader, 65536):
        text += part
    os.close(reader)
    if os.waitpid(child, 0)[1] != 0:
        last = text.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Failure(f"linux.netDevices: {last or 'the helper process died'}")
