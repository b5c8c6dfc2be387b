# SPDX-License-Identifier: Apache-2.0
"""`unionrt run`: make a container, start it, wait for its end and delete it."""

from __future__ import annotations

from runtime.oci import module_cache, syscalls
from runtime.oci.commands.create import OPTIONS, SUBREAPER, request
from runtime.oci.create import create
from runtime.oci.failure import one_line
from runtime.oci.options import Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

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
        from runtime.oci import dry_run

        print("\n".join(map(one_line, dry_run.steps(settings, asked))))
        return 0
    if not asked.detach and not options.flag("no-subreaper"):
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    container = create(settings, asked, lambda: module_cache.load("runtime.oci.run_created"))
    from runtime.oci.run_created import run_created

    return run_created(container, asked, keep=options.flag("keep"))
