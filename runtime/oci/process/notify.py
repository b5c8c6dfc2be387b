# SPDX-License-Identifier: Apache-2.0
"""NOTIFY_SOCKET: readiness messages of the container's process, passed on to the service manager that started us.

The container sees a directory of the state directory with a socket of ours, never the manager's own: of what it says only
that it is ready is passed on, by ourselves, as a manager may believe nobody else. Imported only if the environment has the
variable.
"""

from __future__ import annotations

import _socket
import os
import select

from runtime.oci.failure import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "NOTIFY_SOCKET"
_DIRECTORY, _NAME = "notify", "notify"
_INSIDE = "/run/notify"  # if the manager's socket has no path
_READY = b"READY=1"
_LONGEST = 65536


def offer(config: dict[str, Any], directory: str) -> None:
    """Add the mount and the variable to `config`, with a place for the socket below the state `directory`.

    What is the manager's socket outside is a directory inside, with our socket in it.

    Called before anything reads the mounts of `config`.
    """
    place = os.path.join(directory, _DIRECTORY)
    with Step("make the directory of the notify socket"):
        os.mkdir(place, 0o755)
    manager = os.environ.get(VARIABLE, "")
    inside = os.path.normpath(manager) if manager.startswith("/") else _INSIDE
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    config["mounts"].append({"destination": inside, "type": "bind", "source": place, "options": options})
    config["process"].setdefault("env", []).append(f"{VARIABLE}={inside}/{_NAME}")


class Readiness:
    """Where a container says that it is ready. `main_pid` is its process if the manager is to watch that from then on, not us."""

    __slots__ = ("_main_pid", "_socket")

    def __init__(self, listener: _socket.socket, main_pid: int) -> None:
        self._socket = listener
        self._main_pid = main_pid

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is something to hear."""
        return self._socket.fileno()

    def hear(self) -> bool:
        """Take what has been said and pass on that the container is ready, if it is; return whether."""
        while True:
            try:
                message = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return False
            if _READY in message.split(b"\n"):
                _tell(_READY)
                if self._main_pid:
                    _tell(b"MAINPID=%d" % self._main_pid)
                return True

    def wait(self, pid: int) -> None:
        """Return when the container's process `pid` is ready or has ended."""
        try:
            end = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        poll = select.poll()
        poll.register(self, select.POLLIN)
        poll.register(end, select.POLLIN)
        try:
            while True:
                ended = end in [fd for fd, _ in poll.poll()]
                if self.hear() or ended:
                    return
        finally:
            os.close(end)


def listen(directory: str, main_pid: int) -> Readiness | None:
    """Listen where `offer` said, before the program is started; None if it was not called for this container."""
    try:
        place = os.open(os.path.join(directory, _DIRECTORY), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    listener = _datagrams()
    listener.setblocking(False)
    path = (
        f"/proc/self/fd/{place}/{_NAME}"  # an address has 108 bytes; a state directory's path may have more
    )
    with Step("make the notify socket"):
        listener.bind(path)
        os.chmod(path, 0o777)  # the container's process may be any user; who reaches it is in the container
    os.close(place)
    return Readiness(listener, main_pid)


def _datagrams() -> _socket.socket:
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)


def _tell(message: bytes) -> None:
    address = os.environb.get(VARIABLE.encode(), b"")
    sender = _datagrams()
    try:
        # A first "@" stands for an abstract address.
        sender.sendto(message, b"\0" + address[1:] if address.startswith(b"@") else address)
    except OSError:
        pass  # the manager has gone; the container need not
    finally:
        sender.close()
