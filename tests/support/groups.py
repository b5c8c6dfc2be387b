# SPDX-License-Identifier: Apache-2.0
"""Control groups for tests: programs that run in one, disks to throttle."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.oci.cgroups import Group
from runtime.oci.cgroups.statistics import collect
from tests.support.oci import wait_until

MIB = 1 << 20
# What one run of the tests calls its groups: it removes them at its end, however it ends, and no other run's.
OURS = f"unionrt-test-{os.environ.get('UNIONFS_TEST_RUN', 'alone')}-{os.getpid()}"
Make = Callable[..., Group]  # the fixture make_group: a group with these limits


def can_group() -> bool:
    """Tell whether groups can be made here."""
    return os.geteuid() == 0 and any(os.access(path, os.W_OK) for path in Path("/sys/fs/cgroup").glob("*"))


def start(group: Group, script: str) -> subprocess.Popen[str]:
    """Start `sh -c SCRIPT` in the group; its input is a pipe, its output another."""
    join = "".join(f"echo 0 > {directory}/cgroup.procs && " for directory in group.directories())
    command = ["sh", "-c", f'{join}exec sh -c "$0"', script]
    return subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True)


def run(group: Group, script: str) -> tuple[int, str]:
    """Run `sh -c SCRIPT` in the group; return its status (negative: a signal) and what it wrote."""
    with start(group, script) as process:
        output, _ = process.communicate(timeout=60)
    return process.returncode, output


@contextmanager
def running(group: Group, script: str) -> Iterator[subprocess.Popen[str]]:
    """Keep `sh -c SCRIPT` running in the group, from the moment when it has joined."""
    with start(group, script) as process:
        wait_until(lambda: process.pid in group.processes(), "the program is in its group")
        try:
            yield process
        finally:
            group.kill()
            process.wait(60)


def spend(seconds: float) -> float:
    """Let time pass and return how much did."""
    begin = time.monotonic()
    while (left := seconds - (time.monotonic() - begin)) > 0:
        os.sched_yield()
        subprocess.run(["sleep", f"{left:.3f}"], check=True)
    return time.monotonic() - begin


def used(group: Group) -> float:
    """Return the seconds of CPU that its processes have used."""
    return int(collect(group)["cpu"]["usage"]["total"]) / 1e9


@contextmanager
def disk(directory: Path, size: int) -> Iterator[tuple[str, int, int]]:
    """Give a loop device of `size` bytes as (path, major, minor)."""
    image = directory / "disk"
    with image.open("wb") as stream:
        stream.truncate(size)
    done = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
    path = done.stdout.strip()
    number = os.stat(path).st_rdev
    try:
        yield path, os.major(number), os.minor(number)
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)
