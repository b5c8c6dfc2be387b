# SPDX-License-Identifier: Apache-2.0
"""The checked and lowered form of `process`, and the order in which a child becomes it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Prepared:
    """A process as the child needs it: numbers, masks and bytes only."""

    __slots__ = ("no_new_privileges", "preserved", "process", "terminal", "warnings", "window")

    def __init__(self, process: "dict[str, Any]", preserved: int) -> None:
        self.process = process
        self.preserved = preserved  # descriptors after 0-2 that the program keeps
        self.terminal: bool = process.get("terminal", False)
        size = process.get("consoleSize")
        self.window: tuple[int, int] | None = (
            (size["height"], size["width"]) if size else None
        )  # rows, columns
        self.no_new_privileges: bool = process.get("noNewPrivileges", False)
        self.warnings: list[str] = []  # for the log; for example capabilities nobody knows


def prepare(
    process: "dict[str, Any]", linux: "dict[str, Any]", *, preserve_fds: int = 0, listen_fds: int = 0
) -> Prepared:
    """Check `process` (and what of `linux` concerns it: personality, memoryPolicy) and lower it. Called before the fork.

    `listen_fds` counts the descriptors from 3 on handed over by LISTEN_FDS, `preserve_fds` those behind them.
    Raises Failure with the name of the key that is wrong.
    """
    raise NotImplementedError


def limit(pid: int, prepared: Prepared) -> None:
    """Set rlimits, scheduler, I/O priority and final affinity of the child `pid`. Called by the parent."""
    raise NotImplementedError


def set_oom_score(prepared: Prepared) -> None:
    """Set the caller's oomScoreAdj. Called by the first child, before it becomes non-dumpable and joins anything."""
    raise NotImplementedError


def become(prepared: Prepared, load_filter: "Callable[[], None] | None" = None) -> None:
    """Turn the child into the user: labels, no_new_privs, directory, capabilities, ids; find the program.

    Called once the root is final and descriptors no longer needed are closed. `load_filter` installs the seccomp filter:
    early if no_new_privs is off (it needs CAP_SYS_ADMIN), else as the last action, so that it need not allow the rest.
    """
    raise NotImplementedError
