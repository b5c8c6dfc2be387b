# SPDX-License-Identifier: Apache-2.0
"""A container's group: the same directory in every hierarchy, as one object."""

from __future__ import annotations

import errno
import os

from runtime.oci.cgroups import creation, freezer, layout, paths, removal
from runtime.oci.cgroups.directories import Directories
from runtime.oci.cgroups.files import write
from runtime.oci.cgroups.layout import Layout
from runtime.oci.cgroups.syscalls import fork_into
from runtime.oci.failure import Failure
from runtime.oci.syscalls import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_SIGKILL = 9


class Group(Directories):
    """The directories, and what is done to them. A group that has none does nothing."""

    __slots__ = ("_born_in_v2",)

    def __init__(self, layout: Layout, v1: dict[str, str], v2: str, *, rootless: bool = False) -> None:
        super().__init__(layout, v1, v2, rootless=rootless)
        self._born_in_v2 = False

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Group:
        """Return the group that `to_state` described."""
        mounts = Layout(state["mounts"]["v1"], state["mounts"]["v2"])
        return cls(mounts, state["v1"], state["v2"], rootless=state["rootless"])

    def to_state(self) -> dict[str, Any]:
        """Return what is needed to find the group again, for the container's state file."""
        mounts = {"v1": self.layout.v1, "v2": self.layout.v2}
        return {"v1": self.v1, "v2": self.v2, "rootless": self.rootless, "mounts": mounts}

    def present(self) -> list[str]:
        """Return those of the directories that are there, before `create` for example."""
        return [directory for directory in self.directories() if os.path.isdir(directory)]

    def create(self) -> None:
        """Make the directories, or none. Failure if the group has processes or is frozen, or may not be made."""
        try:
            self.begin()
            self.complete()
        except BaseException:
            self.unmake()
            raise

    def begin(self) -> None:
        """Make the directories that `fork` needs; under the same conditions."""
        creation.begin(self)

    def complete(self) -> None:
        """Make the others, which `enter` needs."""
        creation.complete(self)

    def fork(self, flags: int = 0, *, beside: int = 0) -> int:
        """Fork the calling process, which has one thread; the child must call `enter` first of all.

        The v2 group is joined by being born in it. A group whose controllers are handed down takes no process: the child is then
        put beside the process `beside` (the container's init), if one is given. `flags` are clone's, but not CLONE_NEWCGROUP: a
        cgroup namespace is made after `enter`, to have this group as its root.
        """
        if not self.v2:
            return fork(flags)
        try:
            return self._fork_into(self.v2, flags)
        except OSError as error:
            if error.errno == errno.EBUSY and beside:
                return self._fork_into(self.layout.v2 + paths.groups_of(beside).get("", ""), flags)
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
                raise OSError(error.errno, error.strerror, self.v2) from None
        return fork(flags)

    def _fork_into(self, directory: str, flags: int) -> int:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pid = fork_into(fd, flags)
        finally:
            os.close(fd)
        if pid == 0:
            self._born_in_v2 = True
        return pid

    def enter(self) -> None:
        """Move the calling process, which has one thread and came out of `fork`, into the group. OSError names the file.

        A thread that moves itself alone is spared the lock that stops all forks and exits, and the wait for it.
        """
        for directory in dict.fromkeys(self.v1.values()):
            write(directory, "tasks", "0")
        if self.v2 and not self._born_in_v2:
            write(self.v2, "cgroup.procs", "0")

    def join(self, pid: int) -> None:
        """Move another process into the group: slow, milliseconds, as the kernel stops all forks and exits for it."""
        for directory in self.directories():
            write(directory, "cgroup.procs", str(pid))

    def below(self, path: str) -> Group:
        """Return the group that `exec --cgroup PATH` or `CONTROLLER[,CONTROLLER]:PATH` names, below this one."""
        words, colon, part = path.rpartition(":")
        part = part.strip("/")
        if ".." in part.split("/"):
            raise Failure(f"cgroup {path!r} leaves the container's", 'remove ".." from it')
        chosen = set(words.split(",")) if colon else {*self.v1, ""}
        if unknown := chosen - {*self.v1, ""}:
            raise Failure(f"cgroup {path!r}: no v1 hierarchy for {min(unknown)!r}")
        v1 = {word: _below(at, part) if word in chosen else at for word, at in self.v1.items()}
        v2 = _below(self.v2, part) if self.v2 and "" in chosen else self.v2
        group = Group(self.layout, v1, v2, rootless=self.rootless)
        for directory in group.directories():
            if not os.path.isdir(directory):
                raise Failure(f"cgroup {path!r}: {directory}: no such file or directory")
        return group

    def apply(self, resources: dict[str, Any]) -> None:
        """Set what `linux.resources` asks for, and restrict devices. Failure names the setting."""
        from runtime.oci.cgroups import limits

        limits.apply(self, resources)
        limits.restrict_devices(self, resources.get("devices") or [])

    def limit(self, resources: dict[str, Any]) -> None:
        """Set what `resources` asks for, devices apart. Failure names the setting."""
        from runtime.oci.cgroups import limits

        limits.apply(self, resources)

    def update(self, resources: dict[str, Any]) -> None:
        """Change what `resources` names and leave all else, devices too if it names none."""
        from runtime.oci.cgroups import limits

        limits.check_before_update(self, resources)
        limits.apply(self, resources)
        if resources.get("devices"):
            limits.restrict_devices(self, resources["devices"])

    def freeze(self) -> None:
        """Stop all processes and wait until they stand; Failure if they do not."""
        freezer.freeze(self)

    def thaw(self) -> None:
        """Let all processes go on."""
        freezer.thaw(self)

    def frozen(self) -> bool:
        """Tell whether the group is frozen, or about to be."""
        return freezer.frozen(self)

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send a signal to all processes, none of which can escape by forking. A frozen group thaws for SIGKILL."""
        freezer.kill(self, signal)

    def destroy(self, kept: Collection[str] = ()) -> None:
        """Kill what is left and remove the directories but those `kept`; Failure if something does not end within seconds."""
        removal.destroy(self, kept)

    def unmake(self) -> None:
        """Remove what `begin` and `complete` have made, once nobody is in it any more: the rest is somebody else's."""
        removal.remove(self.made[::-1])

    def withdraw(self, found: Collection[str]) -> None:
        """Remove what a creation that was killed has made, and nothing that it `found` or that others made since."""
        removal.withdraw(self, found)


def open_group(
    config: dict[str, Any], identity: str, *, manager: str = "cgroupfs", rootless: bool = False
) -> Group:
    """Return the group of a container yet to be made; nothing is touched.

    `manager` is "cgroupfs" or "disabled"; Failure for any other, and for a `linux.cgroupsPath` that cannot be.
    """
    if manager == "disabled":
        return Group(Layout({}, ""), {}, "", rootless=rootless)
    if manager != "cgroupfs":
        raise Failure(
            f"cgroup manager {manager!r} is not supported", "use --cgroup-manager cgroupfs or disabled"
        )
    mounts = layout.detect()
    path = paths.relative((config.get("linux") or {}).get("cgroupsPath"), identity)
    v1, v2 = paths.directories(mounts, path, paths.groups_of() if rootless else None)
    group = Group(mounts, v1, v2, rootless=rootless)
    group.owner = paths.owner(config, mounts)
    return group


def _below(directory: str, part: str) -> str:
    return f"{directory}/{part}" if part else directory
