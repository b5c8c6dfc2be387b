# SPDX-License-Identifier: Apache-2.0
"""The second half of `run`: start the container that was made, wait for its end, delete it.

A module of its own, as it is imported while the container's first process is at work.
"""

from __future__ import annotations

import os

from runtime.oci import destroy
from runtime.oci.process import foreground
from runtime.oci.start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.job import Request
    from runtime.oci.process.foreground import Beside
    from runtime.oci.state import Container


def run_created(container: Container, asked: Request, *, keep: bool, beside: Beside | None = None) -> int:
    """Start the container, whose lock is held; return its exit status at its end, or 0 at once if detached.

    It is deleted at its end unless it is to be kept, and if it cannot be started or waited for. `beside` is foreground.wait's.
    """
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
    try:
        status = foreground.wait(ours["pid"], asked.terminal, readiness, stdin=asked.stdin, beside=beside)
    except BaseException:  # nobody takes its output any more
        _delete(container, ours)
        raise
    if not keep:
        _delete(container, ours)
    return status


def _delete(container: Container, ours: dict[str, Any]) -> None:
    """Delete the container, unless somebody else has done so, and perhaps made another; or a poststart hook that failed."""
    if os.path.isdir(container.directory):
        with container.lock():
            if container.record.get("created") == ours["created"]:
                destroy.destroy(container)
