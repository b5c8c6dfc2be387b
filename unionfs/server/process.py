# SPDX-License-Identifier: Apache-2.0
"""The server process: mounts (`served`) and signals as tasks of one nursery, until the last mount is gone."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable

import trio

from unionfs.errors import UserError
from unionfs.filesystem import UnionFilesystem
from unionfs.server import ending
from unionfs.server.commands import Commands
from unionfs.server.manager import notify_manager
from unionfs.server.served import ServedMount

log = logging.getLogger(__name__)

# Objects made between two runs of the garbage collector.
_COLLECT_AFTER = 50_000
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(
    filesystem: UnionFilesystem,
    device_fd: int,
    *,
    mountpoint: str | None,
    on_ready: Callable[[], None],
    control: bool = True,
    session: str = "auto",
) -> int:
    """Serve one mount until it is gone; return the exit code. The arguments are those of `Server.add`."""
    server = Server()
    server.add(
        filesystem, device_fd, mountpoint=mountpoint, on_ready=on_ready, control=control, session=session
    )
    return server.run()


class Server:
    """Serves mounts in this process, each with its own session and control socket, until the last one is gone.

    SIGTERM, SIGINT and SIGHUP unmount them all, and end a flush of pseudo-links that is at work.
    """

    def __init__(self) -> None:
        self._mounts: list[ServedMount] = []
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._failures: list[Exception] = []

    def add(
        self,
        filesystem: UnionFilesystem,
        device_fd: int,
        *,
        mountpoint: str | None,
        on_ready: Callable[[], None] = lambda: None,
        control: bool = True,
        session: str = "auto",
        on_gone: Callable[[], object] = lambda: None,
    ) -> None:
        """Take over a mount: its filesystem and device are closed when it is gone. Also from a task while `run` is at work.

        `on_ready` is called when requests are being answered, `on_gone` before pseudo-links are flushed at the end. With
        `mountpoint` None the mount lives in another mount namespace (a container's): nothing is unmounted here, the end of the
        namespace ends the mount, or `end_when_idle`. UserError if the session cannot run, or not beside the others.
        """
        mount = ServedMount(filesystem, device_fd, mountpoint, on_ready, control, session)
        mount.on_gone = on_gone
        if self._mounts and "pyfuse3" in (mount.session, self._mounts[0].session):
            raise UserError("the pyfuse3 session serves one mount in a process", "use the direct session")
        self._mounts.append(mount)
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, mount)

    def run(self) -> int:
        """Serve until every mount is gone; return the exit code, or raise what ended the first session that failed."""
        # Nodes are taken apart when the kernel forgets them; a collector that walks a million of them finds nothing.
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 50, 50)
        try:
            trio.run(self._main)
        finally:
            for mount in self._mounts:
                mount.close()
            notify_manager("STOPPING=1")
        if self._failures:
            raise self._failures[0]
        return 0

    async def _main(self) -> None:
        # Before anything can be asked of a mount, so that a signal never finds its default action.
        with trio.open_signal_receiver(*_SIGNALS) as signals, ending.calling(self._end_flushes, _SIGNALS):
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._unmount_on_signal, signals)
                async with trio.open_nursery() as self._nursery:
                    for mount in self._mounts:
                        self._nursery.start_soon(self._serve, mount)
                self._nursery = None
                nursery.cancel_scope.cancel()

    def _end_flushes(self) -> bool:
        """Return whether the signal is to do more than that: a mount is left."""
        for mount in self._mounts:
            mount.filesystem.end_flush()
        return not all(mount.gone.is_set() for mount in self._mounts)

    def end_when_idle(self, patience: float) -> None:
        """End mounts in other namespaces of which nothing is asked for `patience` seconds; from any thread.

        For the end of a container whose mount namespace somebody else has entered: the mount would stay as long as they do.
        """
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._start_ending, patience)

    def _start_ending(self, patience: float) -> None:
        for mount in self._mounts:
            if self._nursery is not None and mount.mountpoint is None:
                self._nursery.start_soon(mount.end_when_idle, patience)

    async def _serve(self, mount: ServedMount) -> None:
        """Serve one mount; if its session fails, the others go on."""
        try:
            await mount.serve(self._announced, functools.partial(Commands, mount))
        except Exception as error:
            if len(self._mounts) > 1:
                log.exception("the session of %s failed", mount.mountpoint)
            self._failures.append(error)

    def _announced(self) -> None:
        if all(mount.ready for mount in self._mounts):
            notify_manager("READY=1")

    async def _unmount_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("signal %d: unmounting", number)
            for mount in self._mounts:
                if mount.mountpoint is not None and not mount.closed:
                    await mount.unmount()
