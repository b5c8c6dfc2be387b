# SPDX-License-Identifier: Apache-2.0
"""The server process: sessions, control sockets and signals as tasks of one nursery, until the last mount is gone."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import importlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from types import ModuleType
from typing import Any

import trio

from unionfs.branches.branch import Branch
from unionfs.commit.committing import Committing
from unionfs.errors import UserError
from unionfs.filesystem import UnionFilesystem
from unionfs.kernel import mount_table
from unionfs.kernel.procfs import open_inodes
from unionfs.live.run_directory import RunDirectory
from unionfs.options.aufs import parse
from unionfs.options.table import shown
from unionfs.server import control as channel
from unionfs.server import ending, remount
from unionfs.session import child, device, threads
from unionfs.session.latencies import Statistics

log = logging.getLogger(__name__)

SESSIONS = ("auto", "direct", "pyfuse3")
# What the direct session takes for granted (FUSE 7.31), and what it speaks of more than that, came with this kernel.
_DIRECT_SINCE = (5, 4)
# Objects made between two runs of the garbage collector.
_COLLECT_AFTER = 50_000
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def choose_session(wanted: str) -> tuple[str, str]:
    """Return (session, why); UserError for one that cannot run here."""
    if wanted not in SESSIONS:
        raise UserError(f"unknown session {wanted!r}", f"choose one of {', '.join(SESSIONS)}")
    if wanted != "auto":
        return wanted, "asked for"
    preset = os.environ.get("UNIONFS_SESSION", "auto")
    if preset in SESSIONS and preset != "auto":
        return preset, "set in UNIONFS_SESSION"
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in (*release.split("."), "0")[:2])
    if (major, minor) >= _DIRECT_SINCE:
        return "direct", f"the faster one, and Linux {release} has what it needs"
    return "pyfuse3", f"Linux {release} is too old for the direct session, which needs 5.4"


def load_session(name: str) -> ModuleType:
    """Import the module of a session, if that was not done before."""
    return importlib.import_module(f"unionfs.session.{name}")


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
        self._mounts: list[_Mount] = []
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
        mount = _Mount(filesystem, device_fd, mountpoint, on_ready, control, session)
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

    async def _serve(self, mount: _Mount) -> None:
        """Serve one mount; if its session fails, the others go on."""
        try:
            await mount.serve(self._announced)
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


class _Mount:
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
        return Commands(self).do_status() if self.directory is not None else None

    def open_inodes(self) -> Iterable[tuple[int, int]]:
        """Return (pid, number) of what processes have open in the mount, or as a working directory."""
        return open_inodes(self._device) if self._device else ()

    def close(self) -> None:
        """Close the filesystem."""
        if not self.closed:
            self.closed = True
            self.on_gone()
            self.filesystem.close()

    async def serve(self, announced: Callable[[], None]) -> None:
        """Serve until the mount is gone, then close the filesystem; the run-time directory stays until that is done."""
        session = load_session(self.session)
        with contextlib.ExitStack() as stack:
            if self.control:
                self.directory = stack.enter_context(RunDirectory())
                self._show_branches()
            stack.callback(self.close)
            async with trio.open_nursery() as nursery:
                if self.directory is not None:
                    listening = trio.Event()
                    commands = functools.partial(Commands, self)
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

    def _show_branches(self) -> None:
        if self.directory is not None:
            self.directory.show_branches(self.filesystem.branches, self.filesystem.options.xino)


class Commands:
    """What one conversation on the control socket can ask for."""

    def __init__(self, server: _Mount) -> None:
        self._server = server
        self._filesystem = server.filesystem

    def table(self) -> dict[str, channel.Command]:
        """Return the commands by name."""
        names = (
            "status",
            "stats",
            "add",
            "delete",
            "modify",
            "busy",
            "flush",
            "which",
            "move_down",
            "refresh",
            "set_options",
            "commit_begins",
            "freeze_begins",
            "folded",
            "commit_ended",
        )
        return {name: functools.partial(self._run, getattr(self, f"do_{name}")) for name in names}

    def _run(self, command: channel.Command, **arguments: Any) -> Any:
        """Run a command; once more if it failed because a branch was lost, without which it may be done."""
        try:
            return command(**arguments)
        except OSError as error:
            if not self._filesystem.notice(error):
                raise
        return command(**arguments)

    def do_status(self) -> dict[str, Any]:
        """Return everything that `unionfs status` shows."""
        server = self._server
        return {
            "mountpoint": server.mountpoint,
            "id": server.directory.id if server.directory else None,
            "run_directory": str(server.directory.path) if server.directory else None,
            "pid": os.getpid(),
            "session": server.session,
            "session_reason": server.why,
            **self._filesystem.session_state(),
            "options": shown(self._filesystem.options, server.directory.id if server.directory else ""),
            "branches": [
                {
                    "index": index,
                    "id": branch.id,
                    "branch": str(branch),
                    "lost": self._filesystem.lost_reason(branch),
                }
                for index, branch in enumerate(self._filesystem.branches)
            ],
            "counters": self._filesystem.counters(),
        }

    def do_stats(self) -> dict[str, Any]:
        """Return request counts and latencies."""
        return self._server.statistics.snapshot()

    def do_add(self, index: int | None, branch: str) -> None:
        """Insert a branch given as DIR[=PERM]."""
        wanted = Branch.parse(branch)
        self._refuse_own(wanted.path)
        self._filesystem.add_branch(index, wanted)
        self._server._show_branches()

    def _refuse_own(self, path: str) -> None:
        """Refuse a directory inside this very mount without touching it: the server would wait for itself for ever.

        Clients have checked the real path before they send it.
        """
        mountpoint = self._server.mountpoint
        if mountpoint is not None and os.path.abspath(path).startswith(mountpoint.rstrip("/") + "/"):
            raise OSError(errno.EINVAL, "it is inside the same union", path)

    def do_delete(self, path: str) -> None:
        """Remove a branch."""
        self._refuse_own(path)
        self._filesystem.delete_branch(path)
        self._server._show_branches()

    def do_modify(self, path: str, permission: str) -> None:
        """Change a branch's permission."""
        self._refuse_own(path)
        self._filesystem.modify_branch(path, permission)
        self._server._show_branches()

    def do_busy(self, path: str) -> list[tuple[int, str]]:
        """Return who holds a branch."""
        self._refuse_own(path)
        return self._filesystem.busy(self._filesystem.find_branch(path))

    def do_flush(self) -> int:
        """Flush pseudo-links."""
        return self._filesystem.flush_plinks()

    def do_which(self, path: str) -> list[dict[str, Any]]:
        """Return per branch what is at a path of the union."""
        return self._filesystem.which(os.fsencode(path))

    def do_move_down(self, path: str, overwrite: bool = False, keep: bool = False) -> str:
        """Move a file down one writable branch."""
        return self._filesystem.move_down(os.fsencode(path), overwrite=overwrite, keep=keep)

    def do_commit_begins(self, target: str) -> None:
        """Note that the client folds the top branch into `target`; if it goes away before the end, that is undone."""
        self._server.committing.begin(self, target)

    def do_freeze_begins(self) -> None:
        """Note that the client makes the mount read-only until the end."""
        self._server.committing.freeze(self)

    def do_folded(self, keep_top: bool = False) -> str:
        """Empty the top branch, all of it or nothing, and look at the branches anew; return what the client is to delete."""
        return self._server.committing.fold(self, keep_top=keep_top)

    def do_commit_ended(self) -> None:
        """Note that nothing is left to be undone."""
        self._server.committing.end(self)

    async def left(self) -> None:
        """Undo what a client that died left."""
        await self._server.committing.left(self)

    def do_set_options(self, text: str) -> None:
        """Apply an option string's words to the options in force, left to right; branches are other commands' matter."""
        options = parse(text, remount=True).applied_to(self._filesystem.options)
        remount.set_options(self._filesystem, options)

    def do_refresh(self) -> None:
        """Forget what the kernel cached: AUFS' bare remount."""
        self._filesystem.invalidate_all()


def _device_of(mountpoint: str) -> str:
    """Ask a mount for its device number; if it cannot tell, because a branch was lost already, the kernel's table does."""
    try:
        number = os.stat(mountpoint).st_dev
        return f"{os.major(number)}:{os.minor(number)}"
    except OSError:
        found = mount_table.find(mountpoint)
        return found.device if found is not None else ""


def notify_manager(state: str) -> None:
    """Tell the service manager (sd_notify's protocol) when NOTIFY_SOCKET is set; failures do not matter to the mount."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address)
        connection.send(state.encode())
