# SPDX-License-Identifier: Apache-2.0
"""Which processor a thread runs on, and whether there are enough of them: for a server that goes where its client is."""

from __future__ import annotations

import os

_MOST = 4096  # bytes that the files read here never exceed
# What this process may use, as it was when one of its threads was bound last.
_free = os.sched_getaffinity(0)


def usable() -> set[int]:
    """Return the processors that the calling thread may use when it is not bound by `bind`."""
    now = os.sched_getaffinity(0)
    return now if len(now) > 1 else _free


def bind(processor: int) -> bool:
    """Move the calling thread to a processor and keep it there until `unbind`; False if we may not use that one."""
    global _free
    free = usable()
    if processor not in free:
        return False
    try:
        os.sched_setaffinity(0, {processor})
    except OSError:  # what we may use was changed meanwhile
        return False
    _free = free
    return True


def unbind(processor: int) -> None:
    """Let the calling thread, bound to `processor`, run wherever it might before; or where somebody else put it since."""
    if os.sched_getaffinity(0) == {processor}:
        let_run_anywhere()


def let_run_anywhere() -> None:
    """Let the calling thread run wherever this process may."""
    try:
        os.sched_setaffinity(0, _free)
    except OSError:  # none of those is left
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def go_to(processor: int) -> bool:
    """Move the calling thread to a processor without keeping it there; False if we may not use that one."""
    if not bind(processor):
        return False
    let_run_anywhere()
    return True


def processor_of(thread: int) -> int | None:
    """Return the processor that a thread runs on, or did last; None if that is not told.

    Waits while the thread is within execve(2), behind the point of no return. So ask only about one that is certainly not:
    execve closes files there, and one of those may be ours.
    """
    try:
        return int(_read(f"/proc/{thread}/stat").rpartition(b")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return None


def is_quiet() -> bool:
    """Tell whether there is a processor for everybody who runs; a client that waits for us does not."""
    try:
        running = int(_read("/proc/loadavg").split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running <= len(usable())  # others may be bound to the same few as we are


def _read(path: str) -> bytes:
    """Return a short file of procfs; three system calls, where a file object takes nine."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MOST)
    finally:
        os.close(fd)
