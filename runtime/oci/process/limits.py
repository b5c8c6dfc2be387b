# SPDX-License-Identifier: Apache-2.0
"""Resource limits (rlimits) and the OOM score of a process."""

from __future__ import annotations

import errno
import os

from runtime.oci.failure import Failure, describe
from runtime.oci.process import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# In the order of their numbers, equal on x86_64, aarch64 and riscv64.
_NAMES = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
).split()
_NUMBERS = {f"RLIMIT_{name}": number for number, name in enumerate(_NAMES)}
_INFINITE = (1 << 64) - 1
# What would hit the interpreter itself if it was lowered before the program is there.
_LATE = frozenset(_NUMBERS[f"RLIMIT_{name}"] for name in ("AS", "DATA", "FSIZE", "NOFILE"))


def lower(wanted: list[dict[str, Any]] | None) -> list[tuple[int, int, int]]:
    """Return `process.rlimits` as (resource, soft, hard)."""
    result: list[tuple[int, int, int]] = []
    seen: set[int] = set()
    for entry in wanted or ():
        name = entry.get("type", "")
        resource = _NUMBERS.get(name)
        if resource is None:
            raise Failure(f"process.rlimits: there is no {name!r}", f"known are RLIMIT_{', '.join(_NAMES)}")
        if resource in seen:
            raise Failure(f"process.rlimits: {name} is given twice")
        seen.add(resource)
        soft, hard = (_amount(entry.get(key, 0), name) for key in ("soft", "hard"))
        if soft > hard:
            raise Failure(f"process.rlimits: the soft limit of {name} is above the hard one")
        result.append((resource, soft, hard))
    return result


def _amount(value: object, name: str) -> int:
    if type(value) is not int or not -1 <= value <= _INFINITE:
        raise Failure(f"process.rlimits: {value!r} is no limit for {name}")
    return value & _INFINITE  # -1 is infinity, as in ulimit


def set_early(pid: int, limits: list[tuple[int, int, int]]) -> None:
    """Set the limits of `pid`. Of those that would starve an interpreter only what is raised: the rest follows late."""
    for resource, soft, hard in limits:
        if resource in _LATE:
            old = syscalls.prlimit(pid, resource)
            soft, hard = max(soft, old[0]), max(hard, old[1])
            if (soft, hard) == old:
                continue
        _set(pid, resource, soft, hard)


def set_late(limits: list[tuple[int, int, int]]) -> None:
    """Lower our own limits to what `set_early` left; no privilege is needed for that."""
    for resource, soft, hard in limits:
        if resource in _LATE and syscalls.prlimit(0, resource) != (soft, hard):
            _set(0, resource, soft, hard)


def _set(pid: int, resource: int, soft: int, hard: int) -> None:
    try:
        syscalls.prlimit(pid, resource, (soft, hard))
    except OSError as error:
        hint = "above our own hard limit; that takes CAP_SYS_RESOURCE" if error.errno == errno.EPERM else ""
        reason = (error.strerror or "").lower()
        raise Failure(f"cannot set RLIMIT_{_NAMES[resource]} to {soft}:{hard}: {reason}", hint) from None


def set_oom_score(score: int) -> None:
    """Set our oom_score_adj; the process must be dumpable for that, and to lower it takes CAP_SYS_RESOURCE."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        if int(os.read(fd, 16)) == score:
            return
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"%d" % score)
    except PermissionError:
        raise Failure(
            f"cannot set process.oomScoreAdj to {score}: permission denied",
            "a value below the caller's takes CAP_SYS_RESOURCE",
        ) from None
    except OSError as error:
        raise Failure(f"cannot set process.oomScoreAdj to {score}: {describe(error)}") from None
    finally:
        os.close(fd)
