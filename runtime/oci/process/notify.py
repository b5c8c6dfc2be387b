# SPDX-License-Identifier: Apache-2.0
"""NOTIFY_SOCKET: readiness messages of the container's process, passed on to the service manager."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def offer(config: "dict[str, Any]", directory: str) -> "int | None":
    """Make a socket below the state `directory`, add its mount and variable to `config`; return the socket.

    None if our own environment has no NOTIFY_SOCKET. Called before anything reads the mounts of `config`.
    """
    raise NotImplementedError


def relay(listener: int, pid: int) -> None:
    """Pass on the messages of the container until it has said READY=1 or `pid` has ended."""
    raise NotImplementedError
