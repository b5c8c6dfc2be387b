# SPDX-License-Identifier: Apache-2.0
"""The checked and lowered form of `process`; how a child becomes it is in `become.py`."""

from __future__ import annotations

import fcntl
import os

from runtime.oci.failure import Failure, Step
from runtime.oci.process import capabilities, environment, labels, limits, scheduling, syscalls, user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FIRST_PASSED = 3  # descriptors after the standard ones
_MOST_WARNINGS = 16


class Prepared:
    """A process as the child needs it: numbers, masks and bytes only."""

    __slots__ = (
        "affinity",
        "arguments",
        "capabilities",
        "directory",
        "environment",
        "initial_affinity",
        "io_priority",
        "labels",
        "listen_fds",
        "memory_policy",
        "no_new_privileges",
        "oom_score",
        "passed",
        "path",
        "personality",
        "rlimits",
        "scheduler",
        "terminal",
        "user",
        "warnings",
        "window",
    )

    def __init__(
        self, process: dict[str, Any], linux: dict[str, Any], listen_fds: int, preserved: int
    ) -> None:
        self.warnings: list[str] = []  # for the log; for example capabilities nobody knows
        self.arguments = [environment.encode(text, "process.args") for text in process.get("args") or ()]
        self.environment = environment.lower(process.get("env"))
        self.directory: str = process.get("cwd", "/")
        self.user = user.lower(process.get("user") or {})
        self.capabilities = capabilities.lower(process.get("capabilities"), self.warnings)
        self.no_new_privileges: bool = process.get("noNewPrivileges", False)
        self.terminal: bool = process.get("terminal", False)
        size = process.get("consoleSize")
        # Rows and columns; zeros mean that nobody knows.
        self.window: tuple[int, int] | None = (size["height"], size["width"]) if size else None
        self.rlimits = limits.lower(process.get("rlimits"))
        self.oom_score: int | None = process.get("oomScoreAdj")
        self.scheduler = scheduling.lower_scheduler(process.get("scheduler"))
        self.io_priority = scheduling.lower_io_priority(process.get("ioPriority"))
        self.initial_affinity = scheduling.lower_affinity(process.get("execCPUAffinity"), "initial")
        self.affinity = scheduling.lower_affinity(process.get("execCPUAffinity"), "final")
        self.personality = scheduling.lower_personality(linux.get("personality"))
        self.memory_policy = scheduling.lower_memory_policy(linux.get("memoryPolicy"))
        self.labels = labels.lower(process.get("apparmorProfile") or "", process.get("selinuxLabel") or "")
        self.listen_fds = listen_fds
        asked = range(_FIRST_PASSED, _FIRST_PASSED + listen_fds + preserved)
        # Descriptors after 0-2 that the program keeps. There may be billions asked for, by mistake.
        self.passed = (
            {fd for fd in _open_descriptors() if fd in asked and _is_callers(fd)} if asked else set()
        )
        for fd in asked[:_MOST_WARNINGS]:
            if fd not in self.passed:
                self.warnings.append(f"descriptor {fd} is not passed on: it is not open")
        self.path = b""  # of the program, once `become` has found it

    @property
    def kept(self) -> set[int]:
        """The descriptors beyond 0-2 that the child must not close before `become`."""
        return self.passed | {self.labels.procfs} if self.labels is not None else self.passed


def prepare(
    process: dict[str, Any],
    linux: dict[str, Any],
    *,
    preserve_fds: int = 0,
    listen_fds: int = 0,
    user_namespace: bool = False,
) -> Prepared:
    """Check `process` (and what of `linux` concerns it: personality, memoryPolicy) and lower it. Called before the fork.

    `listen_fds` counts the descriptors from 3 on handed over by LISTEN_FDS, `preserve_fds` those behind them.
    `user_namespace`: the process will live in one, where it can have capabilities that we lack.
    Raises Failure with the name of the key that is wrong.
    """
    prepared = Prepared(process, linux, listen_fds, preserve_fds)
    if not prepared.arguments:
        raise Failure("process.args: there is no program to run", "name one")
    if not prepared.directory.startswith("/"):
        raise Failure(f"process.cwd: {prepared.directory!r} is not an absolute path")
    if not user_namespace and (missing := capabilities.ungrantable(prepared.capabilities)):
        prepared.warnings.append(f"capabilities that this process lacks itself are ignored: {missing}")
    return prepared


def announced_descriptors() -> int:
    """Return how many descriptors from 3 on LISTEN_FDS gives us; none if LISTEN_PID says that they are another process'."""
    if os.environ.get("LISTEN_PID", "") not in ("", str(os.getpid())):
        return 0
    number = os.environ.get("LISTEN_FDS", "")
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else 0


def _open_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _is_callers(fd: int) -> bool:
    """Tell whether a descriptor came from our caller; what we opened ourselves closes at an exec, and must not be passed."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def limit(pid: int, prepared: Prepared) -> None:
    """Set rlimits, scheduler and I/O priority of the child `pid`. Called by the parent."""
    limits.set_early(pid, prepared.rlimits)
    if prepared.scheduler is not None:
        scheduling.schedule(pid, prepared.scheduler)
    if prepared.io_priority is not None:
        with Step("cannot set process.ioPriority"):
            syscalls.ioprio_set(pid, prepared.io_priority)


def set_oom_score(prepared: Prepared) -> None:
    """Set the caller's oomScoreAdj. Called by the first child, before it becomes non-dumpable and joins anything."""
    if prepared.oom_score is not None:
        limits.set_oom_score(prepared.oom_score)
