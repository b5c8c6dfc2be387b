# SPDX-License-Identifier: Apache-2.0
"""Where a group is and who is in it: what the modules that make, limit, freeze and remove one work on."""

from __future__ import annotations

from runtime.oci.cgroups.files import counter, read, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups.layout import Layout


class Directories:
    """`v1` maps a controller to the group's directory, `v2` is its directory in the unified hierarchy or "".

    A group of the manager `disabled`, and one that an ordinary user may not make, has neither. What a user should know but
    need not stop at is appended to `warnings`.
    """

    __slots__ = ("layout", "made", "owner", "rootless", "v1", "v2", "warnings")

    def __init__(self, layout: Layout, v1: dict[str, str], v2: str, *, rootless: bool = False) -> None:
        self.layout = layout
        self.v1 = v1
        self.v2 = v2
        self.rootless = rootless
        self.owner: tuple[int, int] | None = None  # uid and gid that the v2 group is handed to
        self.made: list[str] = []  # directories that this process has made, those above the group too
        self.warnings: list[str] = []

    def directories(self) -> list[str]:
        """Return the group's directory in each hierarchy once, v1 first."""
        return list(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))

    def directory(self, controller: str) -> str:
        """Return the directory with the controller's files, "" if the group has no such controller."""
        return self.v1.get(controller, self.v2)

    def processes(self) -> list[int]:
        """Return the pids in the group and the groups below it, sorted."""
        pids = set()
        for top in self.directories():
            for directory in tree(top):
                pids.update((read(directory, "cgroup.procs") or "").split())
        return sorted(int(pid) for pid in pids if pid != "0")  # 0 is a process of another pid namespace

    def oom_kills(self) -> int:
        """Return how many processes the memory limit has killed."""
        if "memory" in self.v1:
            return counter(read(self.v1["memory"], "memory.oom_control"), "oom_kill")
        return counter(read(self.v2, "memory.events"), "oom_kill") if self.v2 else 0
