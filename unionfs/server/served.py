# SPDX-License-Identifier: Apache-2.0
"""One mount that this process serves: its session, control socket and run-time directory, until it is gone."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import trio

from unionfs.commit.committing import Committing
from unionfs.filesystem import UnionFilesystem
from unionfs.kernel import mount_table
from unionfs.kernel.procfs import open_inodes
from unionfs.live.run_directory import RunDirectory
from unionfs.options.table import shown
from unionfs.server import control as channel
from unionfs.server import ending
from unionfs.server.choice import choose_session, load_session
from unionfs.session import child, device, threads
from unionfs.session.latencies import Statistics

log = logging.getLogger(__name__)


class ServedMount:
    """One mount: session, control socket and run-time directory."""

    def __init__(
        self,
        filesystem: UnionFilesystem,
        device_fd: int,
        mountpoint: str | None,
        on_ready: Callable[[], None],
        control: bool,
        session: str,
    ) -> None:
        self.filesystem = filesystem
        self.device_fd = device_fd
        self.mountpoint = mountpoint
        self.on_ready = on_ready
        self.on_gone: Callable[[], object] = lambda: None
        self.control = control
        self.session, self.why = choose_session(session)
        self.statistics = Statistics()
        self.committing = Committing(filesystem, mountpoint)
        self.directory: RunDirectory | None = None
        self._device = ""  # the mount's number, once that is known
        self.ready = False
        self.closed = False
        self.session_scope = trio.CancelScope()
        self.gone = trio.Event()
        filesystem.attach_host(self)

    def status(self) -> dict[str, Any] | None:
        """Return everything that `unionfs status` shows, if this mount has a control socket."""
        return self.shown() if self.directory is not None else None

    def shown(self) -> dict[str, Any]:
        """Return everything that `unionfs status` shows."""
        filesystem = self.filesystem
        return {
            "mountpoint": self.mountpoint,
            "id": self.directory.id if self.directory else None,
            "run_directory": str(self.directory.path) if self.directory else None,
            "pid": os.getpid(),
            "session": self.session,
            "session_reason": self.why,
            **filesystem.session_state(),
            "options": shown(filesystem.options, self.directory.id if self.directory else ""),
            "branches": [
                {
                    "index": index,
                    "id": branch.id,
                    "branch": str(branch),
                    "lost": filesystem.lost_reason(branch),
                }
                for index, branch in enumerate(filesystem.branches)
            ],
            "counters": filesystem.counters(),
        }

    def open_inodes(self) -> Iterable[tuple[int, int]]:
        """Return (pid, number) of what processes have open in the mount, or as a working directory."""
        return open_inodes(self._device) if self._device else ()

    def close(self) -> None:
        """Close the filesystem."""
        if not self.closed:
            self.closed = True
            self.on_gone()
            self.filesystem.close()

    async def serve(self, announced: Callable[[], None], commands: Callable[[], channel.Commands]) -> None:
        """Serve until the mount is gone, then close the filesystem; the run-time directory stays until that is done.

        `commands` makes what one conversation on the control socket can ask for; `announced` is called when the mount answers.
        """
        session = load_session(self.session)
        with contextlib.ExitStack() as stack:
            if self.control:
                self.directory = stack.enter_context(RunDirectory())
                self.show_branches()
            stack.callback(self.close)
            async with trio.open_nursery() as nursery:
                if self.directory is not None:
                    listening = trio.Event()
                    nursery.start_soon(
                        channel.serve,
                        self.directory.socket,
                        commands,
                        listening.set,
                        self._settled,
                        self._is_gone,
                    )
                    await listening.wait()
                nursery.start_soon(self._announce, announced)
                with ending.announced(self.gone), self.session_scope:
                    await session.serve(self.filesystem, self.device_fd, self.statistics)
                nursery.cancel_scope.cancel()

    def _is_gone(self) -> bool:
        return self.gone.is_set() or device.is_gone(self.device_fd)

    async def end_when_idle(self, patience: float) -> None:
        """End the session once nothing is asked of it for `patience` seconds, unless it ends before."""
        if await ending.is_idle(self.statistics.requests, self.gone, patience):
            log.info("another process keeps the mount of a namespace that has ended")
            self.session_scope.cancel()

    async def _settled(self) -> None:
        """Wait until the kernel knows what commands have changed."""
        await self.filesystem.settled()

    async def _announce(self, announced: Callable[[], None]) -> None:
        """Ask the mount itself and tell those who wait for it when it answers.

        Another process asks: a thread of this one, killed while it waits for our own answer, could never end, and it would
        keep the device open, so that the connection would not end either.
        """
        if self.mountpoint is not None:
            mountpoint = self.mountpoint
            if number := await child.ask(lambda: _device_of(mountpoint)):
                if self.directory is not None:
                    self.directory.show_device(mountpoint, number)
                self._device = number
        self.ready = True
        self.on_ready()
        announced()

    async def unmount(self) -> None:
        """Unmount; what is busy goes lazily, so that a stopped service leaves nothing behind.

        Another process does it, for the reason that `_announce` gives: unmounting writes back through us.
        """
        assert self.mountpoint is not None
        reason = ""
        for lazy in (False, True):
            try:
                done = await threads.run_program(
                    functools.partial(device.unmount_command, self.mountpoint, lazy=lazy)
                )
            except OSError as error:
                reason = str(error)
                continue
            if done.returncode == 0:
                return
            reason = done.stderr.decode(errors="replace").strip()
        log.warning("cannot unmount %s: %s", self.mountpoint, reason)

    def show_branches(self) -> None:
        """Write down for other programs which branches the mount has."""
        if self.directory is not None:
            self.directory.show_branches(self.filesystem.branches, self.filesystem.options.xino)


def _device_of(mountpoint: str) -> str:
    """Ask a mount for its device number; if it cannot tell, because a branch was lost already, the kernel's table does."""
    try:
        number = os.stat(mountpoint).st_dev
        return f"{os.major(number)}:{os.minor(number)}"
    except OSError:
        found = mount_table.find(mountpoint)
        return found.device if found is not None else ""
