# SPDX-License-Identifier: Apache-2.0
"""The pyfuse3 session: serves one mount through libfuse. One per process: pyfuse3 keeps its session in its module."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pyfuse3
import trio

from unionfs.filesystem import UnionFilesystem
from unionfs.session.background import Background, Tasks
from unionfs.session.notify import Notifier
from unionfs.session.pyfuse3.handshake import negotiate
from unionfs.session.pyfuse3.operations import Operations
from unionfs.session.pyfuse3.wait import short_poll

if TYPE_CHECKING:
    from unionfs.session.latencies import Statistics

log = logging.getLogger(__name__)
NAME = "pyfuse3"


class Pyfuse3Background(Background):
    """The same for the pyfuse3 session, whose library has one field for a node's nodeid and its number."""

    nodeids_are_numbers = True

    def __init__(self, operations: Operations, notifier: Notifier, tasks: Tasks) -> None:
        super().__init__(operations.filesystem, notifier, operations.cached, tasks)
        self._operations = operations

    def options_changed(self) -> None:
        """Take the timeouts."""
        self._operations.use_options()


async def serve(filesystem: UnionFilesystem, device_fd: int, statistics: Statistics) -> None:
    """Serve requests from `device_fd` until the mount is gone, and close it."""
    operations = Operations(filesystem, statistics)
    notifier = Notifier(device_fd)
    try:
        async with trio.open_nursery() as nursery:
            tasks = Tasks(nursery)
            beside = Pyfuse3Background(operations, notifier, tasks)
            beside.begin()
            try:
                await negotiate(operations, device_fd)
                with short_poll(device_fd):
                    await _until_unmounted()
            finally:
                pyfuse3.close(unmount=False)
                beside.end()
                nursery.cancel_scope.cancel()
    finally:
        # Not sooner: threads may be telling the kernel something through it.
        notifier.close()
        os.close(device_fd)


async def _until_unmounted() -> None:
    """Let pyfuse3 serve; the end of the connection while a request was being read is an end like any other."""
    try:
        await pyfuse3.main()
    except* ConnectionAbortedError:
        # The kernel's answer to a read that had taken a request (a release, say) when umount(2) ended the connection.
        log.debug("the connection ended while a request was read")
