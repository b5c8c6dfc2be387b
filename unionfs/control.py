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
from typing import Any

from unionfs import registry, replies
from unionfs.errors import UserError

log = logging.getLogger(__name__)

_PATIENCE = 300.0  # seconds; a flush of many pseudo-links or a move of a big file takes its time
_MOST = (
    256 << 20
)  # bytes of an answer: `which` and `busy` of a union with thousands of branches and open files
Command = Callable[..., Any]  # Any: whatever JSON can carry


async def serve(
    path: Path,
    commands: dict[str, Command],
    ready: Callable[[], None],
    settled: Callable[[], Awaitable[None]],
) -> None:
    """Answer commands on a new 0600 socket at `path` until cancelled, each when what it began is `settled`."""
    import trio

    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        await listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen()
    ready()
    await trio.serve_listeners(
        lambda stream: _converse(stream, commands, settled), [trio.SocketListener(listener)]
    )


async def _converse(
    stream: Any, commands: dict[str, Command], settled: Callable[[], Awaitable[None]]
) -> None:
    import trio

    buffer = b""
    try:
        async with stream:
            async for chunk in stream:
                buffer += chunk
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    reply = json.dumps(answer(line, commands))
                    await settled()
                    await stream.send_all(reply.encode() + b"\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client went away


def answer(line: bytes, commands: dict[str, Command]) -> dict[str, Any]:
    """Run one command and return its answer; nothing that a client sends can end the server."""
    try:
        request = json.loads(line)
        command = commands[request.pop("command")]
        return {"ok": True, "result": command(**request)}
    except UserError as error:
        return {"ok": False, "errno": errno.EINVAL, "message": error.line()}
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else ""
        text = error.strerror or str(error)
        return {"ok": False, "errno": error.errno, "message": f"{name}: {text}" if name else text}
    except (ValueError, KeyError, TypeError) as error:
        return {"ok": False, "errno": errno.EINVAL, "message": f"bad request: {error}"}
    except Exception as error:
        log.exception("control command failed")
        return {"ok": False, "errno": errno.EIO, "message": f"internal error: {error!r}"}


def request(mountpoint: str, command: str, **arguments: Any) -> Any:
    """Send one command to the server of `mountpoint` and return its result; OSError with its errno if it refuses.

    UserError if it does not answer, or not as a server of ours does: who mounted the union chose the server, and that may be
    somebody else than who asks.
    """
    with registry.find(mountpoint) as entry, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_PATIENCE)
            entry.connect(connection)
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            line = _read_line(connection)
        except OSError as error:
            text = error.strerror or f"after {_PATIENCE:.0f} s"
            raise UserError(f"{mountpoint}: its server does not answer ({text})") from None
    if not line:
        raise UserError(f"{mountpoint}: its server went away")
    try:
        return replies.read(command, line)
    except ValueError as error:
        raise UserError(f"{mountpoint}: its server answers nonsense: {error}") from None


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
