# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: move interfaces of the host into a container's network namespace."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def move(devices: "dict[str, dict[str, Any]]", pid: int) -> None:
    """Move each of `devices` into the network namespace of `pid`, rename it, restore its permanent addresses, set it up.

    Called by the parent when the namespace exists and its loopback is configured; raises Failure naming the device.
    """
    raise NotImplementedError
