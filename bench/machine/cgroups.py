# SPDX-License-Identifier: Apache-2.0
"""A cgroup namespace of the run's own, and what is charged to groups in it.

Container runtimes make groups at the top of every hierarchy, and some leave them. Here the top is a group named after the
run: whatever they make is below it, and is removed with it. Their plain directories between the mounts go to a private
tmpfs. An almost empty v2 hierarchy beside v1 is not mounted: nothing is charged there, and crun refuses such hybrids.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.machine import syscalls
from unionfs.kernel import syscalls as mounts

_TOP = Path("/sys/fs/cgroup")
_LEAF = "unionbench"  # on v2 a group with processes may have no groups below it with controllers
_PATIENCE = 5.0
_MNT_DETACH = 2


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy; `options` are those of mount(8), empty for v2."""

    directory: Path
    options: str

    @property
    def controllers(self) -> set[str]:
        """Return the controllers of this hierarchy."""
        if self.options:
            return set(self.options.split(","))
        return set((self.directory / "cgroup.controllers").read_text().split())


def hierarchies() -> list[Hierarchy]:
    """Return what is mounted here: all of v1, or v2 where that has the memory controller."""
    table = os.fsdecode(Path("/proc/self/mounts").read_bytes())
    lines = [line.split(" ") for line in table.split("\n") if line]
    flags = {"rw", "ro", "relatime", "nosuid", "nodev", "noexec"}
    v1 = [
        Hierarchy(Path(directory), ",".join(word for word in options.split(",") if word not in flags))
        for _, directory, kind, options, *_ in lines
        if kind == "cgroup"
    ]
    v2 = [Hierarchy(Path(line[1]), "") for line in lines if line[2] == "cgroup2"][:1]
    return v1 if not v2 or any("memory" in hierarchy.controllers for hierarchy in v1) else v2


def isolate(name: str) -> None:
    """Move this process into a new group `name` in every hierarchy and make that the top of what is seen from here on.

    Only in a private mount namespace. OSError where cgroups cannot be written.
    """
    found = hierarchies()
    for hierarchy in found:
        group = hierarchy.directory / name
        group.mkdir()
        if "cpuset" in hierarchy.controllers and hierarchy.options:
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((hierarchy.directory / file).read_text())
        (group / "cgroup.procs").write_text("0")
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    mounts.umount2(str(_TOP), _MNT_DETACH)
    if found and not found[0].options:
        _mount_v2()
    else:
        _mount_v1(found)


def _mount_v1(found: list[Hierarchy]) -> None:
    mounts.mount("cgroup", str(_TOP), "tmpfs", 0, "mode=755,size=1m")
    for hierarchy in found:
        directory = _TOP / hierarchy.directory.name
        directory.mkdir()
        options = hierarchy.options
        mounts.mount(
            "cgroup", str(directory), "cgroup", 0, f"none,{options}" if "name=" in options else options
        )


def _mount_v2() -> None:
    mounts.mount("cgroup2", str(_TOP), "cgroup2", 0, "")
    leaf = _TOP / _LEAF
    leaf.mkdir()
    (leaf / "cgroup.procs").write_text("0")
    for controller in (_TOP / "cgroup.controllers").read_text().split():
        try:
            (_TOP / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            pass  # it is not for groups such as ours; those that matter are asked for by name


def remove(name: str) -> None:
    """Remove the group `name` and those below it from every hierarchy, once its last process has gone."""
    deadline = time.monotonic() + _PATIENCE
    for hierarchy in hierarchies():
        group = hierarchy.directory / name
        while group.is_dir() and not _removed(group) and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel is still burying processes


def _removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            return False
    return True


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Charge:
    """Bytes that groups are charged with: all of it, and the part of it that is file data (page cache)."""

    total: int
    cache: int


def _memory() -> Hierarchy | None:
    return next((h for h in hierarchies() if "memory" in h.controllers), None)


def enter(name: str) -> None:
    """Move this process into the group `name`, which is made, where memory is charged."""
    hierarchy = _memory()
    if hierarchy is not None:
        group = hierarchy.directory / name
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text("0")


def charge(pids: Iterable[int]) -> Charge | None:
    """Return what the groups of these processes are charged with, those below included; None without such a controller.

    What is in no group of its own does not count.
    """
    hierarchy = _memory()
    if hierarchy is None:
        return None
    groups = {path for pid in pids if (path := _group_of(pid, hierarchy))}
    tops = [g for g in groups if not any(g != other and g.is_relative_to(other) for other in groups)]
    usage, field = (
        ("memory.usage_in_bytes", "total_cache") if hierarchy.options else ("memory.current", "file")
    )
    total = sum(int((group / usage).read_text()) for group in tops)
    return Charge(total, sum(_stat(group, field) for group in tops))


def _group_of(pid: int, hierarchy: Hierarchy) -> Path | None:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None  # it has ended
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or not (controllers or hierarchy.options):
            return hierarchy.directory / path.lstrip("/") if path != "/" else None
    return None


def _stat(group: Path, field: str) -> int:
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return next((int(value) for name, value in lines if name == field), 0)
