# SPDX-License-Identifier: Apache-2.0
"""`unionrt pause`: stop all processes of a container."""

from __future__ import annotations

from runtime.oci.failure import Failure
from runtime.oci.options import Command, Options
from runtime.oci.state import open_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command("pause", "stop all processes of a container", "ID")


def run(settings: Settings, options: Options) -> int:
    """Freeze the container, which must be created or running."""
    container = open_container(settings.root, options.arguments[0])
    with container.lock():
        status = container.status()
        if status not in ("created", "running"):
            raise Failure(f"cannot pause the container {container.id}: it is {status}")
        container.group().freeze()
    return 0
