# SPDX-License-Identifier: Apache-2.0
"""`unionrt delete`: remove a container that has ended."""

from __future__ import annotations

from runtime.oci import destroy, state
from runtime.oci.failure import Failure
from runtime.oci.options import Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command(
    "delete",
    "remove a container that has ended",
    "ID",
    (Option("force", "f", "", "kill it if it runs; no error if there is none"),),
)
_DELETABLE = ("stopped", "created")


def run(settings: Settings, options: Options) -> int:
    """Remove the container, its cgroup and its state; then its poststop hooks run."""
    force = options.flag("force")
    identity = state.check_id(options.arguments[0])
    container = (
        state.open_if_there(settings.root, identity)
        if force
        else state.open_container(settings.root, identity)
    )
    if container is None:
        return 0
    with container.lock():
        status = container.status()
        if status not in _DELETABLE and not force:
            raise Failure(
                f"cannot delete container {container.id}: it is {status}", "kill it first, or give --force"
            )
        destroy.destroy(container)
    return 0
