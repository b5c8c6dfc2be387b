# SPDX-License-Identifier: Apache-2.0
"""`unionrt run`: make a container, start it, wait for its end and delete it."""

from __future__ import annotations

import os

from runtime.oci import syscalls
from runtime.oci.commands.create import OPTIONS, SUBREAPER, request
from runtime.oci.create import create
from runtime.oci.options import Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.settings import Settings
    from runtime.oci.state import Container

COMMAND = Command(
    "run",
    "make a container, start it, wait for its end and delete it",
    "ID",
    (
        *OPTIONS,
        SUBREAPER,
        Option("detach", "d", "", "return when its program runs"),
        Option("keep", "", "", "do not delete it after its end"),
        Option("dry-run", "", "", "show the steps instead of doing them"),
    ),
)


def run(settings: Settings, options: Options) -> int:
    """Run the container; return the exit status of its program, or 0 if detached."""
    asked = request(options)
    asked.detach = options.flag("detach")
    if options.flag("dry-run"):
        from runtime.oci import steps

        print("\n".join(steps.of_run(settings, asked)))
        return 0
    if not asked.detach and not options.flag("no-subreaper"):
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    container = create(settings, asked, _import_the_rest)
    from runtime.oci.process import foreground
    from runtime.oci.start import start

    if not asked.detach:
        foreground.block()  # from here on signals are for the container, once it runs
    ours = container.record
    try:
        readiness = start(container, stays=not asked.detach)
        container.release()
        if asked.detach and readiness is not None:
            readiness.wait(ours["pid"])
    except BaseException:
        _delete(container, ours)
        raise
    if asked.detach:
        return 0
    status = foreground.wait(ours["pid"], asked.terminal, readiness)
    if not options.flag("keep"):
        _delete(container, ours)
    return status


def _import_the_rest() -> None:
    """Import what comes after the creation."""
    import runtime.oci.destroy
    import runtime.oci.process.foreground
    import runtime.oci.start  # noqa: F401


def _delete(container: Container, ours: dict[str, Any]) -> None:
    """Delete the container, unless somebody else has done so, and perhaps made another; or a poststart hook that failed."""
    from runtime.oci import destroy

    if os.path.isdir(container.directory):
        with container.lock():
            if container.record.get("created") == ours["created"]:
                destroy.destroy(container)
