# SPDX-License-Identifier: Apache-2.0
"""From a process that already is the user to the user's program."""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci import sealed_exec
from runtime.oci.failure import Failure
from runtime.oci.process import environment, limits, signals, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import NoReturn

    from runtime.oci.process.prepared import Prepared
    from runtime.oci.seccomp import Filter

CANNOT_EXECUTE, NOT_FOUND = 126, 127
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def find(name: bytes, variables: dict[bytes, bytes]) -> bytes:
    """Return the path of the program `name`, by PATH of `variables` unless it has a slash. Raises Failure 126 or 127.

    Engines tell their own exit status by the words used here.
    """
    denied: Failure | None = None
    for path in environment.candidates(name, variables):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if error.errno not in _ABSENT:
                denied = denied or explain(name, error)
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            return path
        if denied is None:
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EACCES
            denied = explain(name, OSError(number, os.strerror(number)))
    raise denied or explain(name, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))


def explain(name: bytes, error: OSError) -> Failure:
    """Return what to say when the program `name` cannot be executed because of `error`."""
    text = name.decode("utf-8", "surrogateescape")
    if error.errno in _ABSENT:
        if "/" in text:
            return Failure(f"exec {text}: {_lower(error)}", program=NOT_FOUND)
        return Failure(f'exec "{text}": executable file not found in $PATH', program=NOT_FOUND)
    return Failure(f"exec {text}: {_lower(error)}", program=CANNOT_EXECUTE)


def _lower(error: OSError) -> str:
    return (error.strerror or "").lower()


def execute(
    prepared: Prepared,
    *,
    report: int,
    gate: int = -1,
    seccomp: Filter | None = None,
    keep: int = -1,
    init: bool = False,
) -> NoReturn:
    """Close every descriptor but 0-2, the preserved ones, `report`, `gate` and `keep`, reset signals, become the program.

    `report`, `gate`, `seccomp` and `init` are sealed_exec.execute's; `keep` is a socket for the caller's own report of a failure,
    which the exec closes. Raises Failure if not even the exec can start.
    """
    os.umask(prepared.user.umask)
    if prepared.listen_fds:
        prepared.environment[b"LISTEN_FDS"] = b"%d" % prepared.listen_fds
        prepared.environment[b"LISTEN_PID"] = b"%d" % os.getpid()
    close_all_but({0, 1, 2, report, gate, keep, *prepared.passed} - {-1})
    signals.reset()
    try:
        sealed_exec.execute(
            prepared.path,
            prepared.arguments,
            prepared.environment,
            report=report,
            gate=gate,
            seccomp=seccomp,
            limit=lambda: limits.set_late(prepared.rlimits),
            init=init,
        )
    except OSError as error:
        raise explain(prepared.arguments[0], error) from None


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor outside `keep`, for good: until the exec a path through /proc/self/fd could use them."""
    first = 0
    for fd in sorted(keep):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = max(first, fd + 1)
    syscalls.close_range(first)
