# SPDX-License-Identifier: Apache-2.0
"""News of processes killed for want of memory: a descriptor to poll, and how many there were."""

from __future__ import annotations

import os
import select
import time

from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups.directories import Directories

_SECONDS = 0.5
_PAUSE = 0.002


class Watch:
    """Watches a group. `fd` and `events` are for poll(2); after each wake-up call `news`. Close it at the end."""

    __slots__ = ("_control", "_group", "_known", "events", "fd")

    def __init__(self, group: Directories) -> None:
        self._group = group
        self._control = -1
        if "memory" in group.v1:
            self.fd, self._control = _watch_v1(group.v1["memory"])
            self.events = select.POLLIN
        elif group.v2:
            self.fd = _open(f"{group.v2}/memory.events")
            self.events = select.POLLPRI  # the kernel's word for: the file has changed
        else:
            raise Failure("the container has no cgroup whose memory could be watched")
        self._known = group.oom_kills()

    def news(self) -> int:
        """Return how many processes were killed since the last call: maybe none, as the end of the group wakes too.

        v1 gives notice of the want and counts the kill an instant later, so that is waited for.
        """
        noticed = self._take_notice()
        count = self._group.oom_kills()
        deadline = time.monotonic() + _SECONDS
        while noticed and count == self._known and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            count = self._group.oom_kills()
        new, self._known = max(count - self._known, 0), max(count, self._known)
        return new

    def _take_notice(self) -> bool:
        """Make ready to be woken again; tell whether a count may be late."""
        if self._control < 0:
            try:
                os.pread(self.fd, 4096, 0)
            except OSError:  # ENODEV: the group has gone
                pass
            return False
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        return os.path.exists(self._group.v1["memory"])

    def close(self) -> None:
        """Stop watching."""
        for fd in (self.fd, self._control):
            if fd >= 0:
                os.close(fd)


def _watch_v1(directory: str) -> tuple[int, int]:
    """Bind an eventfd to the group's memory.oom_control; the notice lives as long as the eventfd."""
    control = _open(f"{directory}/memory.oom_control")
    notice = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    registrar = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(registrar, f"{notice} {control}".encode())
    finally:
        os.close(registrar)
    return notice, control


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Failure("the container has no memory controller to be watched") from None
