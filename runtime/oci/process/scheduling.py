# SPDX-License-Identifier: Apache-2.0
"""How a process is scheduled: policy, I/O priority, processors, NUMA policy, execution domain."""

from __future__ import annotations

import errno
import os

from runtime.oci.failure import Failure
from runtime.oci.process import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13
_SHORTEST, _LONGEST = 1 << 10, 1 << 63  # nanoseconds of runtime, see sched(7)
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
_MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_MEMORY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
_HIGHEST_UNIT = 8191  # more processors or nodes than any kernel is built for

Scheduler = tuple[int, int, int, int, tuple[int, int, int]]


def _lookup(table: dict[str, int], name: object, key: str) -> int:
    found = table.get(name) if isinstance(name, str) else None
    if found is None:
        raise Failure(f"{key}: {name!r} is none of {', '.join(table)}")
    return found


def _sum(table: dict[str, int], names: list[str] | None, key: str) -> int:
    result = 0
    for name in names or ():
        result |= _lookup(table, name, key)
    return result


def lower_scheduler(wanted: dict[str, Any] | None) -> Scheduler | None:
    """Return `process.scheduler` as the arguments of sched_setattr(2) after the pid."""
    if wanted is None:
        return None
    times = (wanted.get("runtime", 0), wanted.get("deadline", 0), wanted.get("period", 0))
    if wanted.get("policy") == "SCHED_DEADLINE":
        _check_deadline(wanted, *times)
    return (
        _lookup(_POLICIES, wanted.get("policy"), "process.scheduler.policy"),
        _sum(_FLAGS, wanted.get("flags"), "process.scheduler.flags"),
        wanted.get("nice", 0),
        wanted.get("priority", 0),
        times,
    )


def _check_deadline(wanted: dict[str, Any], runtime: int, deadline: int, period: int) -> None:
    """Say which of the kernel's rules is broken; it only says EINVAL. Times are in nanoseconds."""
    problem = ""
    for key in ("runtime", "deadline"):
        if key not in wanted:
            problem = f"requires `{key}`"
            break
    else:
        if runtime <= 0:
            problem = "runtime must be greater than 0"
        elif not _SHORTEST <= runtime < _LONGEST:
            problem = f"runtime {runtime} must be between {_SHORTEST} and {_LONGEST}"
        elif runtime > deadline:
            problem = f"runtime {runtime} must be <= deadline {deadline}"
        elif period and deadline > period:
            problem = f"deadline {deadline} must be <= period {period}"
    if problem:
        raise Failure(f"process.scheduler: sched_setattr: `SCHED_DEADLINE` {problem}")


def lower_io_priority(wanted: dict[str, Any] | None) -> int | None:
    """Return `process.ioPriority` as the kernel's number."""
    if wanted is None:
        return None
    priority = wanted.get("priority", 0)
    if type(priority) is not int or not 0 <= priority <= 7:
        raise Failure(f"process.ioPriority.priority: {priority!r} is not from 0 to 7")
    return _lookup(_IO_CLASSES, wanted.get("class"), "process.ioPriority.class") << _IO_CLASS_SHIFT | priority


def lower_personality(wanted: dict[str, Any] | None) -> int | None:
    """Return `linux.personality` as the kernel's number."""
    if wanted is None:
        return None
    if wanted.get("flags"):
        raise Failure("linux.personality.flags: the specification defines none", "remove them")
    return _lookup(_DOMAINS, wanted.get("domain"), "linux.personality.domain")


def lower_memory_policy(wanted: dict[str, Any] | None) -> tuple[int, int] | None:
    """Return `linux.memoryPolicy` as (mode with flags, mask of nodes)."""
    if wanted is None:
        return None
    mode = _lookup(_MEMORY_MODES, wanted.get("mode"), "linux.memoryPolicy.mode")
    flags = _sum(_MEMORY_FLAGS, wanted.get("flags"), "linux.memoryPolicy.flags")
    nodes = sum(1 << node for node in units(wanted.get("nodes", ""), "linux.memoryPolicy.nodes"))
    return mode | flags, nodes


def lower_affinity(wanted: dict[str, Any] | None, key: str) -> set[int] | None:
    """Return the processors of `process.execCPUAffinity.KEY`, None if it is not given."""
    text = (wanted or {}).get(key)
    return units(text, f"process.execCPUAffinity.{key}") if text else None


def units(text: str, key: str) -> set[int]:
    """Return the numbers in a list such as "0-2,7"; blanks around them are allowed."""
    result: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not all(word.isascii() and word.isdigit() and len(word) < 6 for word in (first, last)):
            raise Failure(f"{key}: {text!r} is not a list such as 0-2,7")
        if not int(first) <= int(last) <= _HIGHEST_UNIT:
            raise Failure(f"{key}: {part!r} is not a range")
        result.update(range(int(first), int(last) + 1))
    return result


def schedule(pid: int, scheduler: Scheduler) -> None:
    """Give `pid` a scheduling policy."""
    try:
        syscalls.sched_setattr(pid, *scheduler)
    except OSError as error:
        hint = ""
        if error.errno == errno.EPERM:
            hint = (
                "that takes CAP_SYS_NICE and, on cgroup v1, real-time budget for the cgroup (resources.cpu)"
            )
        raise Failure(f"cannot set process.scheduler: {(error.strerror or '').lower()}", hint) from None


def pin(pid: int, processors: set[int], key: str) -> None:
    """Restrict `pid` to `processors`."""
    try:
        os.sched_setaffinity(pid, processors)
    except OSError as error:
        raise Failure(
            f"cannot set process.execCPUAffinity.{key}: {(error.strerror or '').lower()}",
            "name processors that exist and that the cgroup's cpuset allows",
        ) from None
