# SPDX-License-Identifier: Apache-2.0
"""A container's group: the same directory in every hierarchy, as one object."""

from __future__ import annotations

import errno
import os

from runtime.oci.cgroups import layout as layouts
from runtime.oci.cgroups import paths
from runtime.oci.cgroups.files import counter, read, tree, write
from runtime.oci.cgroups.syscalls import fork_into
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.cgroups.layout import Layout

_SIGKILL = 9
# What v2 groups are given, where there is such a controller.
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma")
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Group:
    """`v1` maps a controller to the group's directory, `v2` is its directory in the unified hierarchy or "".

    A group of the manager `disabled`, and one that an ordinary user may not make, has neither: every act on it does nothing.
    What a user should know but need not stop at is appended to `warnings`.
    """

    __slots__ = ("_joined_v2", "layout", "owner", "rootless", "v1", "v2", "warnings")

    def __init__(self, layout: Layout, v1: dict[str, str], v2: str, *, rootless: bool = False) -> None:
        self.layout = layout
        self.v1 = v1
        self.v2 = v2
        self.rootless = rootless
        self.owner: tuple[int, int] | None = None  # whom the v2 group is handed to
        self.warnings: list[str] = []
        self._joined_v2 = False

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Group:
        """Return the group that `to_state` described."""
        mounts = state["mounts"]
        return cls(
            layouts.Layout(mounts["v1"], mounts["v2"]), state["v1"], state["v2"], rootless=state["rootless"]
        )

    def to_state(self) -> dict[str, Any]:
        """Return what is needed to find the group again, for the container's state file."""
        mounts = {"v1": self.layout.v1, "v2": self.layout.v2}
        return {"v1": self.v1, "v2": self.v2, "rootless": self.rootless, "mounts": mounts}

    def create(self) -> None:
        """Make the directories. Failure if the group has processes or is frozen, or where the user may not make it."""
        raise NotImplementedError

    def fork(self, *, beside: int = 0) -> int:
        """Fork the calling process, which has one thread; the child must call `enter` first of all.

        The v2 group is joined by being born in it. A group whose controllers are handed down takes no process: the child is then
        put beside the process `beside` (the container's init), if one is given.
        """
        raise NotImplementedError

    def enter(self) -> None:
        """Move the calling process, which has one thread and came out of `fork`, into the group. OSError names the file."""
        raise NotImplementedError

    def join(self, pid: int) -> None:
        """Move another process into the group: slow, milliseconds, as the kernel stops all forks and exits for it."""
        raise NotImplementedError

    def below(self, path: str) -> Group:
        """Return the group that `exec --cgroup PATH` or `CONTROLLER[,CONTROLLER]:PATH` names, below this one."""
        raise NotImplementedError

    def apply(self, resources: dict[str, Any]) -> None:
        """Set what `linux.resources` asks for, devices included. Failure names the setting."""
        raise NotImplementedError

    def update(self, resources: dict[str, Any]) -> None:
        """Change what `resources` names and leave all else, devices too if it names none."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Stop all processes and wait until they stand."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let all processes go on."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Tell whether the group is frozen, or about to be."""
        raise NotImplementedError

    def processes(self) -> list[int]:
        """Return the pids in the group and the groups below it, sorted."""
        raise NotImplementedError

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send a signal to all processes, none of which can escape by forking. A frozen group thaws for SIGKILL."""
        raise NotImplementedError

    def destroy(self) -> None:
        """Kill what is left and remove the directories; OSError (EBUSY) if something does not end within seconds."""
        raise NotImplementedError

    def oom_kills(self) -> int:
        """Return how many processes the memory limit has killed."""
        raise NotImplementedError


def open_group(
    config: dict[str, Any], identity: str, *, manager: str = "cgroupfs", rootless: bool = False
) -> Group:
    """Return the group of a container yet to be made; nothing is touched.

    `manager` is "cgroupfs" or "disabled"; Failure for any other, and for a `linux.cgroupsPath` that cannot be.
    """
    if manager == "disabled":
        return Group(layouts.Layout({}, ""), {}, "", rootless=rootless)
    if manager != "cgroupfs":
        raise Failure(
            f"cgroup manager {manager!r} is not supported", "use --cgroup-manager cgroupfs or disabled"
        )
    linux = config.get("linux") or {}
    layout = layouts.detect()
    path = paths.relative(linux.get("cgroupsPath"), identity)
    v1, v2 = paths.directories(layout, path, paths.own_groups() if rootless else None)
    return Group(layout, v1, v2, rootless=rootless)
