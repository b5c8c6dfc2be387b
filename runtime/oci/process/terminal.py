# SPDX-License-Identifier: Apache-2.0
"""The terminal of a container and the socket over which its other end is handed to the caller."""


def connect(path: str) -> int:
    """Return a descriptor connected to the console socket at `path`; called by the parent, before the fork."""
    raise NotImplementedError


def attach(socket_fd: int, window: "tuple[int, int] | None", owner: int, *, console: bool) -> None:
    """Make a terminal of the container's devpts this session leader's, and send its master over `socket_fd`.

    Called by the child with its root final. `console` binds it over /dev/console too: a container's first process.
    """
    raise NotImplementedError
