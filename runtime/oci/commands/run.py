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
    from runtime.oci.job import Request
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
    from runtime.oci import destroy
    from runtime.oci.process import foreground
    from runtime.oci.start import start

    if not asked.detach:
        foreground.block()  # from here on signals are for the container, once it runs
    try:
        start(container)
    except BaseException:
        if os.path.isdir(container.directory):  # a poststart hook that failed has removed it already
            destroy.destroy(container)
        raise
    container.release()
    return 0 if asked.detach else _attend(container, asked, keep=options.flag("keep"))


def _import_the_rest() -> None:
    """Import what comes after the creation."""
    import runtime.oci.destroy
    import runtime.oci.process.foreground
    import runtime.oci.start  # noqa: F401


def _attend(container: Container, asked: Request, *, keep: bool) -> int:
    from runtime.oci import destroy
    from runtime.oci.process import foreground

    ours = container.record
    status = foreground.wait(ours["pid"], asked.terminal)
    if not keep and os.path.isdir(container.directory):
        with container.lock():
            if (
                container.record.get("created") == ours["created"]
            ):  # else somebody has deleted it, and made another
                destroy.destroy(container)
    return status
