# SPDX-License-Identifier: Apache-2.0
"""Stopping a group, letting it go on, and signalling all of it."""

from __future__ import annotations

import os
import select
import time

from runtime.oci.cgroups.files import counter, read, write
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups.directories import Directories

_SIGKILL = 9
_SECONDS = 10.0
_LOOKS = 25  # how often v1's state is read before it counts as stuck
_PAUSE = 0.001


def freeze(group: Directories) -> None:
    """Stop all processes; Failure if they do not all stand after some seconds. They are let go then."""
    if "freezer" in group.v1:
        done = _freeze_v1(group.v1["freezer"], time.monotonic() + _SECONDS)
    elif group.v2:
        done = _freeze_v2(group.v2, time.monotonic() + _SECONDS)
    else:
        raise Failure("the container has no cgroup that could be frozen")
    if not done:
        thaw(group)
        raise Failure(
            f"the container does not freeze within {_SECONDS:.0f} s",
            "is a process of it stuck in the kernel?",
        )


def thaw(group: Directories) -> None:
    """Let all processes go on; nothing happens to a group that is not frozen."""
    if "freezer" in group.v1:
        write(group.v1["freezer"], "freezer.state", "THAWED")
    elif group.v2:
        write(group.v2, "cgroup.freeze", "0")


def frozen(group: Directories) -> bool:
    """Tell whether the group, or one above it, is frozen or freezing; False if it does not exist."""
    if "freezer" in group.v1:
        return read(group.v1["freezer"], "freezer.state") in ("FROZEN", "FREEZING")
    return bool(group.v2) and counter(read(group.v2, "cgroup.events"), "frozen") == 1


def kill(group: Directories, signal: int) -> None:
    """Send the signal to all processes.

    They are frozen meanwhile, so that none forks away, and for SIGKILL let go, as a process frozen by v1 does not even die.
    """
    if signal == _SIGKILL and _kill_v2(group.v2):
        # All of the group; but a privileged container may have moved a process out of this one hierarchy.
        _signal_each(group, signal)
        _thaw_if_there(group)
        return
    was_frozen = frozen(group)
    if not was_frozen:
        try:
            freeze(group)
        except (Failure, OSError):  # signalled it must be, frozen or not
            pass
    _signal_each(group, signal)
    if signal == _SIGKILL or not was_frozen:
        _thaw_if_there(group)


def _kill_v2(directory: str) -> bool:
    if not directory:
        return False
    try:
        write(directory, "cgroup.kill", "1")
    except OSError:  # no such file before Linux 5.14
        return False
    return True


def _signal_each(group: Directories, signal: int) -> None:
    for pid in group.processes():
        try:
            os.kill(pid, signal)
        except ProcessLookupError:
            pass


def _thaw_if_there(group: Directories) -> None:
    try:
        thaw(group)
    except FileNotFoundError:
        pass


def _freeze_v1(directory: str, deadline: float) -> bool:
    """Ask again and again: v1 gets stuck at FREEZING when a process forks or sits in the wrong sleep meanwhile.

    What helps then is to let the group go on for a moment.
    """
    while time.monotonic() < deadline:
        for _ in range(_LOOKS):
            write(directory, "freezer.state", "FROZEN")
            if read(directory, "freezer.state") == "FROZEN":
                return True
            time.sleep(_PAUSE)
        write(directory, "freezer.state", "THAWED")
        time.sleep(_PAUSE)
    return False


def _freeze_v2(directory: str, deadline: float) -> bool:
    write(directory, "cgroup.freeze", "1")
    events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while True:
            if counter(os.pread(events, 4096, 0).decode(), "frozen") == 1:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    finally:
        os.close(events)
