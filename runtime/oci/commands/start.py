# SPDX-License-Identifier: Apache-2.0
"""`unionrt start`: let the program of a created container run."""

from __future__ import annotations

from runtime.oci import state
from runtime.oci.failure import Failure
from runtime.oci.options import Command, Options
from runtime.oci.start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command("start", "let the program of a created container run", "CONTAINER")


def run(settings: Settings, options: Options) -> int:
    """Start the container; returns when its program runs, or is ready if a service manager waits for that."""
    container = state.open_container(settings.root, options.arguments[0])
    with container.lock():
        status = container.status()
        if status != "created":
            raise Failure(
                f"cannot start container {container.id}: it is {status}", "only a created one can be started"
            )
        readiness = start(container)
    if readiness is not None:  # it may take as long as it likes, and be killed and deleted meanwhile
        readiness.wait(container.record["pid"])
    return 0
