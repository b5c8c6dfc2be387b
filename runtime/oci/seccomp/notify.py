# SPDX-License-Identifier: Apache-2.0
"""Handing a filter's listener to the agent at `listenerPath`. The parent does it: the container's process may not any more."""

from __future__ import annotations

import array
import errno
import os
import socket

from runtime.oci import jsontext
from runtime.oci.failure import Failure, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.seccomp.filter import Filter

_SECONDS = 10


def send(seccomp: Filter, state: dict[str, Any], pid: int, listener: int) -> None:
    """Send the container process state and the descriptor `listener` to the agent; closes neither.

    `state` is the state JSON, `pid` the process that loaded the filter, as the caller sees it. Raises Failure with the
    agent's path. The kernel's limit of 107 bytes for the path of a socket does not apply.
    """
    message: dict[str, Any] = {
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],  # the name that the specification gives the only one
        "pid": pid,
        "metadata": seccomp.listener_metadata,
        "state": state,
    }
    if not seccomp.listener_metadata:
        del message["metadata"]
    data = jsontext.dumps(message).encode()
    path = seccomp.listener_path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
            agent.settimeout(_SECONDS)
            _connect(agent, path)
            # Descriptors go with the first bytes only, however many pieces the rest takes.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
            sent = agent.sendmsg([data], rights)
            if sent < len(data):  # even an empty send would fail if the agent has read all and closed
                agent.sendall(data[sent:])
    except OSError as error:
        error = error if error.strerror else OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        raise Failure(
            f"failed to connect with seccomp agent: {path}: {describe(OSError(error.errno, error.strerror))}",
            "start the agent that listens there",
        ) from None


def _connect(agent: socket.socket, path: str) -> None:
    """Connect by way of a descriptor, so that the path may be as long as any other. It is absolute and never abstract."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        agent.connect(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
