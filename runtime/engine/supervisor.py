# SPDX-License-Identifier: Apache-2.0
"""The supervisor: a process beside a container, in the host's namespaces, that serves its union and cleans up after it.

It listens at the socket that the bundle names, takes the FUSE descriptor there, and serves until the mount has gone with the
container's mount namespace. It is tied to the client by one socket: "ended" there says that the container has, and that the
client will clean up; the end of the socket that the client has died, and the container with it. It never ends before it has
heard one of the two: so if the client hears its end, it was killed. What it says there is "error TEXT", when it cannot serve,
and "warning TEXT".

What comes after the end of the container (pseudo-links of a directory that is kept become real links, for which the whole root is
walked) can take long, and SIGTERM ends it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from runtime.engine import bundle, ids
from runtime.engine.container import Container
from runtime.engine.request import Request
from runtime.oci import channel as messages
from runtime.oci.failure import Failure
from unionfs.errors import UserError
from unionfs.program import describe

if TYPE_CHECKING:
    from unionfs.filesystem import UnionFilesystem

log = logging.getLogger(__name__)

ENDED = "ended"
_PATIENCE = 5.0  # seconds that a server which has failed waits for the news that its container has ended


def fork(request: Request, container: Container) -> tuple[int, messages.Channel]:
    """Fork the supervisor of a container that is about to be created; return its pid and the socket to it."""
    listener = messages.listen(os.path.join(container.directory, bundle.SOCKET))
    ours, theirs = messages.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _main(request, container, listener, theirs)
    listener.close()
    theirs.close()
    return pid, ours


def _main(
    request: Request, container: Container, listener: messages.Channel, client: messages.Channel
) -> NoReturn:
    """Be the supervisor from start to end. Never returns."""
    watch = _Watch(client, container)
    try:
        os.setsid()
        _set_name("unionbox-serve")
        _leave_streams()
        _serve(request, listener, client, watch)
    except BaseException as error:
        messages.send(client, "error", _words(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on there is only cleaning
        watch.wait()
        if messages.has_ended(client):
            _clean(container, client)
        os._exit(0)


def _set_name(name: str) -> None:
    """Call this process `name` (15 bytes) in listings."""
    with open("/proc/self/comm", "wb") as stream:
        stream.write(name.encode())


def _leave_streams() -> None:
    """Let go of the caller's input and output; who reads that is not to wait for us."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _words(error: BaseException) -> str:
    """Return what to tell the user; what nobody foresaw is logged, too."""
    if isinstance(error, UserError | Failure):
        return error.line()
    if isinstance(error, OSError):
        return describe(error)
    log.error("the supervisor failed", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _serve(request: Request, listener: messages.Channel, client: messages.Channel, watch: _Watch) -> None:
    """Open the branches, take the descriptor, serve until the mount has gone."""
    opened: UnionFilesystem | Exception
    try:
        opened = _open(request)
    except Exception as error:
        opened = error
    device = _accept(listener, client)
    if isinstance(opened, Exception):
        if device is not None:
            # Not before the container has come so far: its own failure, if there is one, is told instead.
            messages.send(client, "error", _words(opened))
            os.close(device)
        return
    if device is None:
        opened.close()
        return
    _serve_mount(opened, device, watch)


def _open(request: Request) -> UnionFilesystem:
    wish = request.wish
    ids.enter_servers((wish.uid_map, wish.gid_map))  # before the union's modules look whose they are
    # Only here: the client was forked before and need not carry these modules.
    from unionfs.filesystem import UnionFilesystem
    from unionfs.kernel.reserve import raise_limit
    from unionfs.server import process  # noqa: F401  # while the container is being made

    for name in ("pyfuse3", "pyfuse3._pyfuse3"):
        logging.getLogger(name).addFilter(_is_news)
    raise_limit()  # every node that is in use holds descriptors
    return UnionFilesystem.open(
        request.branches, request.options, overlap_ok=True, held=request.hold, discarded=request.private
    )


def _serve_mount(filesystem: UnionFilesystem, device: int, watch: _Watch) -> None:
    from unionfs.server import process

    served = process.Server()
    told = partial(watch.ended.wait, _PATIENCE)  # the client's own end is first, ours may take long
    served.add(filesystem, device, mountpoint=None, control=False, on_gone=told)
    # A mount outlives the container when somebody else has entered its mount namespace.
    watch.on_end = lambda: served.end_when_idle(_PATIENCE)
    watch.start()
    try:
        served.run()
    except Exception:
        # A container that dies while the server starts, or in mid-request, is no failure of the server.
        if not watch.ended.wait(_PATIENCE):
            raise
        log.debug("the server of a dead container ended badly", exc_info=True)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what pyfuse3 says of answers to processes that were killed while they waited: with a container that is usual."""
    return "fuse_reply_* failed" not in record.getMessage()


def _accept(listener: messages.Channel, client: messages.Channel) -> int | None:
    """Wait for the FUSE descriptor and return it; None if no container came to be."""
    poll = select.poll()
    for source in (listener, client):
        poll.register(source.fileno(), select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    try:
        if listener.fileno() not in ready:
            return None
        connection = messages.accept(listener)
        try:
            _word, _text, descriptors = messages.receive(connection)
        finally:
            connection.close()
        return descriptors[0] if descriptors else None
    finally:
        listener.close()  # there is one union; whoever comes later is to hear that nobody serves


def _clean(container: Container, client: messages.Channel) -> None:
    try:
        container.clean()
    except (OSError, Failure) as error:
        messages.send(client, "warning", f"container {container.id} could not be removed: {_words(error)}")


class _Watch(threading.Thread):
    """Waits beside the server until the client says that the container has ended, or dies."""

    def __init__(self, client: messages.Channel, container: Container) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.on_end: Callable[[], None] = lambda: None
        self._client = client
        self._container = container

    def run(self) -> None:
        """Wait in this thread, and see to it that a container whose client has died dies too."""
        if messages.receive(self._client)[0] != ENDED:
            self._kill()
        self.ended.set()
        self.on_end()

    def _kill(self) -> None:
        """Kill what has switched its parent-death signal off, or lost it; all others are dead by now."""
        try:
            self._container.kill()
        except (OSError, Failure) as error:
            log.debug("cannot kill container %s: %s", self._container.id, error)

    def wait(self) -> None:
        """Wait here, whether the thread runs or not."""
        if not self.ended.is_set() and not self.is_alive():
            messages.receive(self._client)
            self.ended.set()
        self.ended.wait()
