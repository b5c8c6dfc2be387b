# SPDX-License-Identifier: Apache-2.0
"""Count FUSE requests by kind, for any server, where the kernel sends them: its tracepoint, read by performance events.

Counting is bound to descriptors, so that nothing stays when the process ends. The kernel's forgets pass no tracepoint.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from bench.machine import syscalls
from bench.machine.unprivileged import User
from unionfs.kernel import mount_table
from unionfs.kernel import syscalls as mounts
from unionfs.session import abi

_TRACING = Path("/sys/kernel/tracing")
_EVENT = _TRACING / "events/fuse/fuse_request_send/id"


class Counter:
    """Counts the requests of the FUSE mount at `mount`, of every client, from its making on; needs root.

    `supported` is false when the kernel has no such tracepoint (before 6.11, or without tracing).
    """

    def __init__(self, mount: Path, user: User | None) -> None:
        self._fds: dict[str, list[int]] = {}
        event = _event_id()
        if event is None:
            return
        connection = _device(mount, user)
        for opcode in abi.Opcode:
            condition = f"connection == {connection} && opcode == {opcode.value}"
            self._fds[opcode.name] = [
                syscalls.open_tracepoint(event, cpu, condition) for cpu in sorted(os.sched_getaffinity(0))
            ]

    @property
    def supported(self) -> bool:
        """Tell whether requests can be counted here."""
        return bool(self._fds)

    def read(self) -> dict[str, int]:
        """Return the requests sent so far, by kind."""
        found = {n: sum(struct.unpack("Q", os.read(fd, 8))[0] for fd in fds) for n, fds in self._fds.items()}
        return {name: count for name, count in found.items() if count}


def _event_id() -> int | None:
    """Return the number of the kernel's event of a request that is sent, or None."""
    try:
        if not _EVENT.exists():  # in our own mount namespace
            mounts.mount("tracefs", str(_TRACING), "tracefs")
        return int(_EVENT.read_text())
    except OSError:
        return None


def _device(mount: Path, user: User | None) -> int:
    """Return the number of the filesystem mounted at `mount`, as the kernel writes it inside."""
    mounted = reversed(mount_table.read(user.holder if user else "self"))
    major, minor = next(found.device.split(":") for found in mounted if found.target == str(mount))
    return int(major) << 20 | int(minor)
