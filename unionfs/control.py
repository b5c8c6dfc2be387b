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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import unionfs.rundir as rundir
from unionfs.errors import UserError

log = logging.getLogger(__name__)

_PATIENCE = 300.0  # seconds; a flush of many pseudo-links or a move of a big file takes its time
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
    """Send one command to the server of `mountpoint` and return its result; OSError with its errno if it refuses."""
    directory = rundir.find(mountpoint)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(str(directory / rundir.SOCKET))
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        except OSError as error:
            text = error.strerror or f"after {_PATIENCE:.0f} s"
            raise UserError(f"{mountpoint}: its server does not answer ({text})") from None
    if not line:
        raise UserError(f"{mountpoint}: its server went away")
    reply = json.loads(line)
    if not reply["ok"]:
        raise OSError(reply["errno"], reply["message"])
    return reply["result"]
