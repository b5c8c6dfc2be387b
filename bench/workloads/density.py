# SPDX-License-Identifier: Apache-2.0
"""What 1, 10 and 100 containers of one image cost: memory, page cache and disk.

Each has a writable layer of its own, reads the image's data once, then sleeps. Everything is a growth since before the
first of them, a daemon's own growth included.

* processes: the proportional set size of every process that is there since: what pages are shared is divided.
* charged: what the kernel has charged to the control groups of these processes: their memory, the kernel's for them, and
  the page cache they were the first to use.
* page cache: the part of it that is file data. Where containers share it, it does not grow with their number.
* disk: blocks allocated in the directory where the runtime keeps everything.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.machine import cgroups
from bench.machine.client import Figures, MeasurementError, Place, Sample, expect
from bench.machine.launcher import FEATURES, RUNTIME, UNION, Container, Launcher
from bench.runtimes.rootfs import DATA, DATA_SIZE, build_rootfs
from bench.workloads.containers import attempt, bury, enter_client, error_log, last_line, launcher_of
from bench.workloads.model import Figure, MiB, Workload

_COUNTS = (1, 10, 100)
_PROGRAM = ["sh", "-c", f"cat /{DATA} >/dev/null; exec sleep 9999"]
_SLEEPER = "sleep\n"  # what /proc/PID/comm says once the data is read
_ROUNDS = 1  # of minutes with all runtimes; sizes hardly vary from one round to the next
_START_SECONDS = 30.0
_END_SECONDS = 60.0
_MEMORY_PART = 0.6  # of the free memory that containers may be expected to take


@dataclass(frozen=True, slots=True)
class _Usage:
    """Bytes at one moment."""

    processes: int
    charged: int
    cache: int
    disk: int


@dataclass(slots=True)
class _Crowd:
    """The containers of one measurement."""

    place: Place
    launcher: Launcher
    errors: IO[bytes]
    before: dict[int, int] = field(default_factory=dict)  # what each process used
    disk: int = 0
    charge: cgroups.Charge | None = None
    staying: list[subprocess.Popen[bytes]] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    ready: set[int] = field(default_factory=set)

    def look(self) -> None:
        """Remember what is used before the first container."""
        self.before = {pid: _proportional(pid) for pid in _pids()}
        self.disk = disk_bytes(self.place.upper)
        self.charge = cgroups.charge(self._own_pids())

    def _own_pids(self) -> list[int]:
        """Return the processes that may have been charged before: this one and the runtime's daemon."""
        return [os.getpid(), *([self.place.server] if self.place.server else [])]

    def grow(self, count: int) -> float:
        """Start containers until there are `count`, one after the other; return the seconds that one took."""
        first = len(self.containers)
        start = time.perf_counter()
        for number in range(first, count):
            self._start(f"many{number}")
        self._wait_ready(count)
        return (time.perf_counter() - start) / (count - first)

    def _start(self, name: str) -> None:
        container = self.launcher.container(name, UNION, _PROGRAM, detached=True)
        self.containers.append(container)
        if self.launcher.stays:
            self.staying.append(container.start(subprocess.DEVNULL, self.errors))
            self._wait_ready(len(self.containers))
        else:
            process = container.start(subprocess.DEVNULL, self.errors)
            if process.wait():
                raise MeasurementError("failed", f"container {name} did not start{last_line(self.errors)}")

    def _wait_ready(self, count: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while len(self.ready) < count:
            self.ready |= {pid for pid in self.new_pids() if pid not in self.ready and _comm(pid) == _SLEEPER}
            ended = [process for process in self.staying if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                reason = "it ended" if ended else f"after {_START_SECONDS:.0f} s"
                raise MeasurementError(
                    "failed", f"{len(self.ready)} of {count} run, {reason}{last_line(self.errors)}"
                )
            time.sleep(0.001)

    def new_pids(self) -> list[int]:
        """Return the processes that were not there before."""
        return [pid for pid in _pids() if pid not in self.before]

    def usage(self) -> _Usage:
        """Return what is used more than before."""
        processes = sum(_proportional(pid) - self.before.get(pid, 0) for pid in _pids() if pid != os.getpid())
        charged = cgroups.charge([*self._own_pids(), *self.new_pids()])
        base = self.charge or cgroups.Charge(0, 0)
        now = charged or base
        disk = disk_bytes(self.place.upper) - self.disk
        return _Usage(processes, now.total - base.total, now.cache - base.cache, disk)

    def end(self) -> None:
        """End and remove all containers, and wait until the last of their processes has gone."""
        names = [f"many{number}" for number in range(len(self.containers))]
        for process in self.staying:
            process.send_signal(self.launcher.ending)
        for removal in self.launcher.removal(names):
            removal.start(subprocess.DEVNULL, self.errors).wait()
        for number, process in enumerate(self.staying):
            _bury(process)
            self.containers[number].end()
        if not self.staying:
            for container in self.containers:
                container.end()
        deadline = time.monotonic() + _END_SECONDS
        while any(_runs(pid) for pid in self.ready) and time.monotonic() < deadline:
            bury(self.new_pids())
            time.sleep(0.01)


def _bury(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""  # it has ended


def _runs(pid: int) -> bool:
    """Tell whether a sleeper is still there, and no zombie that its parent forgot."""
    try:
        return "(sleep) Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _proportional(pid: int) -> int:
    """Return the proportional set size of a process; 0 when it has ended or is a zombie."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def disk_bytes(directory: Path) -> int:
    """Return the blocks allocated below a directory, without what is mounted there; a file with two names counts once."""
    device = directory.stat().st_dev
    seen: dict[int, int] = {}
    for path, directories, files in os.walk(directory, onerror=None):
        for name in (*directories, *files):
            found = _lstat(os.path.join(path, name))
            if found and found.st_dev == device:
                seen[found.st_ino] = found.st_blocks * 512
        directories[:] = [
            d for d in directories if (s := _lstat(os.path.join(path, d))) and s.st_dev == device
        ]
    return sum(seen.values())


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None  # removed meanwhile


@contextmanager
def _crowd(place: Place) -> Iterator[_Crowd]:
    with error_log(place) as errors:
        crowd = _Crowd(place, launcher_of(place), errors)
        try:
            yield crowd
        finally:
            crowd.end()


def _density(place: Place) -> Figures:
    enter_client()
    found: Figures = {}
    with _crowd(place) as crowd:
        attempt(crowd.launcher.container("warm", UNION, ["true"]), crowd.errors)
        _forget_data(place)
        crowd.look()
        for count in _COUNTS:
            _check_room(found, count)
            seconds = crowd.grow(count)
            usage = crowd.usage()
            expect(usage.processes > 0, "no process of the containers was found")
            found |= _figures(count, seconds, usage)
    return found


def _figures(count: int, seconds: float, usage: _Usage) -> Figures:
    return {
        f"launch-{count}": Sample(seconds),
        f"processes-{count}": Sample(usage.processes, details={"each": usage.processes / count}),
        f"charged-{count}": Sample(usage.charged),
        f"cache-{count}": Sample(usage.cache, details={"copies": usage.cache / DATA_SIZE}),
        f"disk-{count}": Sample(usage.disk),
    }


def _forget_data(place: Place) -> None:
    """Drop the image's data, wherever the runtime keeps it, from the page cache: it is charged to who reads it next."""
    for path in (place.mount / DATA, *place.upper.rglob(DATA)):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _check_room(found: Figures, count: int) -> None:
    """MeasurementError when so many containers would fill the memory."""
    before = [number for number in _COUNTS if number < count]
    if not before:
        return
    expected = found[f"charged-{before[-1]}"].value / before[-1] * count
    if expected > _available() * _MEMORY_PART:
        raise MeasurementError("failed", f"{count} containers would take {expected / 1e9:.1f} GB of memory")


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


_TITLES = {
    "launch": ("start of each of {}", "s", "one after the other"),
    "processes": ("processes of {}", "B", "proportional set size"),
    "charged": ("memory charged to {}", "B", "with the kernel's for them, and page cache"),
    "cache": ("page cache of {}", "B", "each reads the same 8 MiB of the image"),
    "disk": ("disk of {}", "B", "blocks allocated"),
}
_CURVES = {
    "launch": "start over containers", "processes": "memory of processes over containers",
    "charged": "memory charged over containers", "cache": "page cache over containers", "disk": "disk over containers",
}  # fmt: skip


def _figure(what: str, count: int) -> Figure:
    title, unit, state = _TITLES[what]
    containers = "1 container" if count == 1 else f"{count} containers"
    return Figure(
        f"{what}-{count}", title.format(containers), unit, state=state, curve=_CURVES[what], x=count
    )


WORKLOADS = (
    Workload(
        "density", "containers", tuple(_figure(what, count) for what in _TITLES for count in _COUNTS), _density,
        build_rootfs, layers=1, group="rootfs", temporary=512 * MiB, needs=frozenset({FEATURES[UNION]}), limit=600,
        kind=RUNTIME, seconds=40, rounds=_ROUNDS,
    ),
)  # fmt: skip
