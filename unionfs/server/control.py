# SPDX-License-Identifier: Apache-2.0
"""The control socket: commands to a running server, one JSON object a line each way.

A request is {"command": NAME, ...arguments}; the answer is {"ok": true, "result": ...} or
{"ok": false, "errno": N, "message": TEXT}.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from unionfs.errors import UserError
from unionfs.live import registry, replies

log = logging.getLogger(__name__)

_PATIENCE = 300.0  # seconds; a flush of many pseudo-links or a move of a big file takes its time
_ENDS = 10.0  # seconds; so long a server whose mount is gone may still be listening
_MOST = (
    256 << 20
)  # bytes of an answer: `which` and `busy` of a union with thousands of branches and open files
Command = Callable[..., Any]  # Any: whatever JSON can carry


class Commands(Protocol):
    """What one conversation can ask for."""

    def table(self) -> dict[str, Command]:
        """Return the commands by name."""
        ...

    async def left(self) -> None:
        """Do what is to be done when the client has gone."""


async def serve(
    path: Path,
    commands: Callable[[], Commands],
    ready: Callable[[], None],
    settled: Callable[[], Awaitable[None]],
    gone: Callable[[], bool],
) -> None:
    """Answer commands on a new 0600 socket at `path` until cancelled, each when what it began is `settled`.

    `commands` makes what one conversation can ask for. Once the mount is `gone` nobody is answered: another one may have its
    device number already, by which clients have found us.
    """
    import trio

    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        own.bind(str(path))  # trio would have a thread do that
    finally:
        os.umask(previous)
    listener = trio.socket.from_stdlib_socket(own)
    listener.listen()
    ready()
    await trio.serve_listeners(
        lambda stream: _converse(stream, commands(), settled, gone), [trio.SocketListener(listener)]
    )


async def _converse(
    stream: Any, commands: Commands, settled: Callable[[], Awaitable[None]], gone: Callable[[], bool]
) -> None:
    import trio

    buffer = b""
    table = commands.table()
    try:
        async with stream:
            async for chunk in stream:
                buffer += chunk
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    if gone():
                        return
                    reply = json.dumps(answer(line, table))
                    await settled()
                    await stream.send_all(reply.encode() + b"\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client went away
    await commands.left()


def answer(line: bytes, commands: dict[str, Command]) -> dict[str, Any]:
    """Run one command and return its answer; nothing that a client sends can end the server."""
    try:
        request = json.loads(line)
        command = commands[request.pop("command")]
        return {"ok": True, "result": command(**request)}
    except UserError as error:
        return {"ok": False, "errno": errno.EINVAL, "message": error.line()}
    except OSError as error:
        # What failed by a descriptor has its number there.
        named = isinstance(error.filename, str | bytes) and error.filename not in (".", b".")
        name = os.fsdecode(error.filename) if named else ""
        text = error.strerror or str(error)
        return {"ok": False, "errno": error.errno, "message": f"{name}: {text}" if name else text}
    except (ValueError, KeyError, TypeError) as error:
        return {"ok": False, "errno": errno.EINVAL, "message": f"bad request: {error}"}
    except Exception as error:
        log.exception("control command failed")
        return {"ok": False, "errno": errno.EIO, "message": f"internal error: {error!r}"}


class Conversation:
    """A connection to the server of `mountpoint`; a context manager that ends it."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._answered = False
        self._connect()

    def _connect(self) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with registry.find(self._mountpoint) as entry:
                self._server = entry.path
                self._connection.settimeout(_PATIENCE)
                entry.connect(self._connection)
        except OSError as error:
            self.close()
            raise self._silence(error) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation."""
        self._connection.close()

    def request(self, command: str, **arguments: Any) -> Any:
        """Send one command to the server and return its result; OSError with its errno if it refuses.

        UserError if it does not answer, or not as a server of ours does: who mounted the union chose the server, and that may be
        somebody else than who asks.
        """
        request = json.dumps({"command": command, **arguments}).encode() + b"\n"
        line = self._ask(request)
        if not line and not self._answered and self._finds_another():
            line = self._ask(request)
        if not line:
            raise UserError(f"{self._mountpoint}: its server went away")
        self._answered = True
        try:
            return replies.read(command, line)
        except ValueError as error:
            raise UserError(f"{self._mountpoint}: its server answers nonsense: {error}") from None

    def _ask(self, request: bytes) -> bytes:
        """Return the answer, b"" if the server ends the conversation instead."""
        try:
            self._connection.settimeout(_PATIENCE)
            self._connection.sendall(request)
            return _read_line(self._connection)
        except (ConnectionResetError, BrokenPipeError):
            return b""
        except OSError as error:
            raise self._silence(error) from None

    def _finds_another(self) -> bool:
        """Find the union's own server after one that was about to end was taken for it: both had its device number."""
        former, end = self._server, time.monotonic() + _ENDS
        while self._server == former and time.monotonic() < end:
            self.close()
            time.sleep(0.02)
            self._connect()
        return self._server != former

    def _silence(self, error: OSError) -> UserError:
        text = error.strerror or f"after {_PATIENCE:.0f} s"
        return UserError(f"{self._mountpoint}: its server does not answer ({text})")


def request(mountpoint: str, command: str, **arguments: Any) -> Any:
    """Send one command to the server of `mountpoint` and return its result; errors are those of `Conversation.request`."""
    with Conversation(mountpoint) as server:
        return server.request(command, **arguments)


def _read_line(connection: socket.socket) -> bytes:
    """Return what comes up to a line end, b"" if the server goes away; TimeoutError, EMSGSIZE for what no server sends."""
    end = time.monotonic() + _PATIENCE
    parts: list[bytes] = []
    size = 0
    while True:
        connection.settimeout(max(0.001, end - time.monotonic()))
        part = connection.recv(1 << 16)
        size += len(part)
        if size > _MOST:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        parts.append(part)
        if not part or part.endswith(b"\n"):
            line = b"".join(parts)
            return line if line.endswith(b"\n") else b""
