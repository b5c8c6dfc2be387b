# SPDX-License-Identifier: Apache-2.0
"""`unionrt resume`: let the processes of a paused container go on."""

from __future__ import annotations

from runtime.oci.failure import Failure
from runtime.oci.options import Command, Options
from runtime.oci.state import open_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command("resume", "let the processes of a paused container go on", "ID")


def run(settings: Settings, options: Options) -> int:
    """Thaw the container, which must be paused."""
    container = open_container(settings.root, options.arguments[0])
    with container.lock():
        status = container.status()
        if status != "paused":
            raise Failure(f"cannot resume the container {container.id}: it is not paused but {status}")
        container.group().thaw()
    return 0
