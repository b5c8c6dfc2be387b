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
    "CONTAINER",
    (
        Option("force", "f", "", "kill it if it runs; no error if there is none"),
        Option(
            "regex",
            "r",
            "",
            "CONTAINER is a regular expression: remove all containers that it matches somewhere",
        ),
    ),
)
_DELETABLE = ("stopped", "created")


def run(settings: Settings, options: Options) -> int:
    """Remove the container, its cgroup and its state; then its poststop hooks run."""
    force = options.flag("force")
    if options.flag("regex"):
        for container in _matching(settings.root, options.arguments[0]):
            _delete(container, force=force)
        return 0
    identity = state.check_id(options.arguments[0])
    found = (
        state.open_if_there(settings.root, identity)
        if force
        else state.open_container(settings.root, identity)
    )
    if found is not None:
        _delete(found, force=force)
    return 0


def _matching(root: str, pattern: str) -> list[state.Container]:
    import re

    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise Failure(f"--regex: {pattern!r}: {error}") from None
    return [container for container in state.all_containers(root) if expression.search(container.id)]


def _delete(container: state.Container, *, force: bool) -> None:
    with container.lock():
        status = container.status()
        if status not in _DELETABLE and not force:
            raise Failure(
                f"cannot delete container {container.id}: it is {status}", "kill it first, or give --force"
            )
        destroy.destroy(container)
