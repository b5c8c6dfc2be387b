# SPDX-License-Identifier: Apache-2.0
"""Control groups: find this machine's layout, make one group a container, set its limits, kill and remove it.

Three layouts: v1 (one hierarchy a controller), v2 (one hierarchy), hybrid (v1 for limits, an otherwise idle v2 beside it,
used here for `cgroup.kill`). A group is one directory `unionbox-ID` at the top of each hierarchy; nothing else is written.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.engine.spec import Limits

PREFIX = "unionbox-"
CPU_PERIOD = 100_000
_V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
_V2 = ("cpu", "memory", "pids")

# What a container may open: type, major:minor, access. Everything may be made with mknod, as in Docker.
_DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:1 rwm",  # console
    "c 5:2 rwm",  # ptmx
    "c 136:* rwm",  # pts
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the hierarchies are mounted: `v1` maps a controller to its directory, `v2` is the unified one or empty."""

    v1: dict[str, str]
    v2: str = ""

    @property
    def limits_on_v1(self) -> bool:
        """Tell whether limits are written in v1's files (v1 and hybrid)."""
        return bool(self.v1)

    def directories(self) -> list[str]:
        """Return each hierarchy once, v1 first."""
        return list(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))

    def controllers(self) -> set[str]:
        """Return the controllers that limits can be set with."""
        if self.limits_on_v1:
            return set(self.v1)
        return set(_read(self.v2, "cgroup.controllers").split()) if self.v2 else set()


def detect(mountinfo: str | None = None) -> Layout:
    """Return the layout that /proc/self/mountinfo (or the given text of one) shows."""
    if mountinfo is None:
        mountinfo = _read("/proc/self", "mountinfo")
    v1: dict[str, str] = {}
    v2 = ""
    for line in filter(None, mountinfo.split("\n")):  # other line ends may be part of a name
        left, _, right = line.partition(" - ")
        kind, _source, options = right.split(" ", 2)
        path = left.split(" ")[4]
        if kind == "cgroup2":
            v2 = v2 or path
        elif kind == "cgroup":
            for word in options.split(","):
                if word in _V1:
                    v1.setdefault(word, path)
    return Layout(v1, v2)


def settings(limits: Limits, *, v1: bool) -> list[tuple[str, str, str]]:
    """Return (controller, file, text) in the order of writing. Swap is never granted on top of a memory limit."""
    result = []
    if limits.memory is not None:
        text = str(limits.memory)
        result.append(("memory", "memory.limit_in_bytes" if v1 else "memory.max", text))
        # v1 counts memory+swap together, and it may not be below the memory limit; v2 counts swap alone.
        swap = ("memory.memsw.limit_in_bytes", text) if v1 else ("memory.swap.max", "0")
        result.append(("memory", *swap))
    if limits.cpus is not None:
        quota = str(max(1000, round(limits.cpus * CPU_PERIOD)))
        if v1:
            result.append(("cpu", "cpu.cfs_period_us", str(CPU_PERIOD)))
            result.append(("cpu", "cpu.cfs_quota_us", quota))
        else:
            result.append(("cpu", "cpu.max", f"{quota} {CPU_PERIOD}"))
    if limits.pids is not None:
        result.append(("pids", "pids.max", str(limits.pids)))
    return result


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The group `name` in every hierarchy of `layout`."""

    layout: Layout
    name: str

    def path(self, hierarchy: str) -> str:
        """Return this group's directory in a hierarchy."""
        return os.path.join(hierarchy, self.name)

    def controller(self, name: str) -> str:
        """Return this group's directory for a controller."""
        return self.path(self.layout.v1.get(name, self.layout.v2))

    def exists(self) -> bool:
        """Tell whether the group was made, in every hierarchy."""
        paths = [self.path(directory) for directory in self.layout.directories()]
        return bool(paths) and all(os.path.isdir(path) for path in paths)

    def create(self, limits: Limits) -> None:
        """Make the directories and set the limits; OSError names the file that refused, ENOENT a missing controller."""
        missing = {controller for controller, _, _ in self._settings(limits)} - self.layout.controllers()
        if missing:
            raise FileNotFoundError(errno.ENOENT, "no such cgroup controller here", sorted(missing)[0])
        if not self.layout.limits_on_v1:
            self._enable({controller for controller, _, _ in self._settings(limits)})
        for directory in self.layout.directories():
            os.mkdir(self.path(directory), 0o755)
        if "cpuset" in self.layout.v1:
            self._fill_cpuset(self.layout.v1["cpuset"])
        for controller, file, text in self._settings(limits):
            self._set(self.controller(controller), file, text)

    def restrict_devices(self) -> bool:
        """Let only the default devices be opened; False where no devices controller exists (v2 wants a BPF program)."""
        if "devices" not in self.layout.v1:
            return False
        directory = self.controller("devices")
        _write(directory, "devices.deny", "a")
        for rule in _DEVICES:
            _write(directory, "devices.allow", rule)
        return True

    def join(self, pid: int) -> None:
        """Move a process into the group, in every hierarchy."""
        for directory in self.layout.directories():
            _write(self.path(directory), "cgroup.procs", str(pid))

    def processes(self) -> set[int]:
        """Return the pids in the group and the groups below it."""
        return {
            int(pid)
            for hierarchy in self.layout.directories()
            for directory in _tree(self.path(hierarchy))
            for pid in _read(directory, "cgroup.procs").split()
        }

    def oom_kills(self) -> int:
        """Return how many processes the memory limit has killed."""
        if "memory" in self.layout.v1:
            text = _read(self.controller("memory"), "memory.oom_control")
        else:
            text = _read(self.path(self.layout.v2), "memory.events") if self.layout.v2 else ""
        return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)

    def kill(self, deadline: float) -> None:
        """Kill all processes and wait for their end until `deadline` (time.monotonic); TimeoutError lists who is left."""
        while pids := self.processes():
            self._thaw()
            if not self._kill_at_once():
                for pid in pids:
                    _signal(pid)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {sorted(pids)} of cgroup {self.name} do not die")
            _wait_for_end(pids, 0.05)

    def remove(self, deadline: float) -> None:
        """Remove the directories, deepest first. A group may stay busy for an instant after its last process has gone."""
        for hierarchy in self.layout.directories():
            for directory in reversed(list(_tree(self.path(hierarchy)))):
                _rmdir(directory, deadline)

    def _settings(self, limits: Limits) -> list[tuple[str, str, str]]:
        return settings(limits, v1=self.layout.limits_on_v1)

    def _set(self, directory: str, file: str, text: str) -> None:
        try:
            _write(directory, file, text)
        except FileNotFoundError:
            if "swap" not in file and "memsw" not in file:  # those are absent where swap is not accounted
                raise

    def _enable(self, controllers: set[str]) -> None:
        enabled = set(_read(self.layout.v2, "cgroup.subtree_control").split())
        wanted = (controllers | set(_V2)) & self.layout.controllers()
        for controller in sorted(wanted - enabled):
            try:
                _write(self.layout.v2, "cgroup.subtree_control", f"+{controller}")
            except OSError:
                if controller in controllers:
                    raise

    def _fill_cpuset(self, hierarchy: str) -> None:
        """Copy the parent's CPUs and memory nodes: a new v1 cpuset has none and takes no process."""
        for file in ("cpuset.cpus", "cpuset.mems"):
            _write(self.path(hierarchy), file, _read(hierarchy, file).strip())

    def _thaw(self) -> None:
        if "freezer" in self.layout.v1:  # a process frozen by v1 does not even die
            try:
                _write(self.controller("freezer"), "freezer.state", "THAWED")
            except FileNotFoundError:
                pass

    def _kill_at_once(self) -> bool:
        if not self.layout.v2:
            return False
        try:
            _write(self.path(self.layout.v2), "cgroup.kill", "1")
        except OSError:  # no such file before Linux 5.14
            return False
        return True


def _tree(directory: str) -> Iterator[str]:
    """Yield the directory and those below it, parents first; nothing if it does not exist."""
    if os.path.isdir(directory):
        for parent, _directories, _files in os.walk(directory):
            yield parent


def _rmdir(directory: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _wait_for_end(pids: set[int], seconds: float) -> None:
    """Wait until one of the processes has ended, at most `seconds`; works for other people's children too."""
    poll = select.poll()
    descriptors = []
    try:
        for pid in pids:
            try:
                descriptors.append(os.pidfd_open(pid))
            except OSError:
                return
            poll.register(descriptors[-1], select.POLLIN)
        if not poll.poll(seconds * 1000):
            return
        # The process is a zombie now and leaves its group when it is reaped, by somebody else.
        time.sleep(0.002)
    finally:
        for fd in descriptors:
            os.close(fd)


def _read(directory: str, file: str) -> str:
    try:
        with open(
            os.path.join(directory, file), encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as stream:
            return stream.read()
    except OSError:
        return ""


def _write(directory: str, file: str, text: str) -> None:
    path = os.path.join(directory, file)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
