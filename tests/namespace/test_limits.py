# SPDX-License-Identifier: Apache-2.0
"""Limits of a container, each shown to bite inside and to be gone afterwards."""

import os
import signal

import pytest

from runtime.engine import cgroup
from runtime.engine.spec import Limits
from tests.support.box import Box, wait_for_end

PYTHON = "/usr/bin/python3"


def test_memory_limit_kills_inside_only(box: Box) -> None:
    """A process that takes more than --memory is killed; the shell beside it lives on and the client says so."""
    eat = f"{PYTHON} -c 'b = bytearray(300 << 20)'; echo status $?"
    done = box.run("--memory", "64m", "--", "sh", "-c", eat)
    assert (done.returncode, done.stdout) == (0, "status 137\n")
    assert done.stderr == "Killed\nunionbox: processes killed at the memory limit: 1\n"


def test_memory_limit_is_shown_inside(box: Box) -> None:
    """The container reads its own limit in its own cgroup, read-only."""
    done = box.run(
        "--memory",
        "64m",
        "--",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /proc/self/cgroup",
    )
    lines = done.stdout.splitlines()
    assert lines[0] == str(64 << 20)
    assert all(line.endswith(":/") for line in lines[1:])


def test_pids_limit_makes_fork_fail(box: Box) -> None:
    """Past --pids a fork fails with EAGAIN."""
    script = (
        "import os, errno, signal\n"
        "count = 0\n"
        "try:\n"
        "    while count < 100:\n"
        "        if os.fork() == 0: signal.pause()\n"
        "        count += 1\n"
        "except OSError as error: print(count, errno.errorcode[error.errno], flush=True)\n"
        "os._exit(0)\n"
    )
    done = box.run("--pids", "10", "--", PYTHON, "-c", script)
    assert done.stdout == "8 EAGAIN\n"  # init and the program itself are the other two


def test_cpu_limit_throttles(box: Box) -> None:
    """A busy loop under --cpus 0.02 gets a fiftieth of a CPU, however busy the machine, and the kernel counts the throttling."""
    script = (
        "import time\n"
        "throttled = lambda: int(open('/sys/fs/cgroup/cpu/cpu.stat').read().split()[3])\n"
        "first, start, before = throttled(), time.monotonic(), time.process_time()\n"
        "while throttled() < first + 10 and time.monotonic() - start < 60: pass\n"
        "print(throttled() - first, (time.process_time() - before) / (time.monotonic() - start))\n"
    )
    throttled, share = box.run("--cpus", "0.02", "--", PYTHON, "-c", script).stdout.split()
    assert int(throttled) >= 10
    assert float(share) < 0.06


def test_settings_follow_the_layout() -> None:
    """v1 counts memory and swap together and splits period and quota; v2 counts swap alone and joins them."""
    limits = Limits(memory=64 << 20, cpus=0.5, pids=7)
    assert cgroup.settings(limits, v1=True) == [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "67108864"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("pids", "pids.max", "7"),
    ]
    assert cgroup.settings(limits, v1=False) == [
        ("memory", "memory.max", "67108864"),
        ("memory", "memory.swap.max", "0"),
        ("cpu", "cpu.max", "50000 100000"),
        ("pids", "pids.max", "7"),
    ]
    assert cgroup.settings(Limits(), v1=True) == []


HYBRID = """\
27 1 254:0 / / rw,relatime - ext4 /dev/sda rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_detect_reads_v1_v2_and_hybrid() -> None:
    """Controllers are found where mountinfo says; named hierarchies are nobody's business."""
    layout = cgroup.detect(HYBRID)
    together = "/sys/fs/cgroup/cpu,cpuacct"
    assert layout.v1 == {"cpu": together, "cpuacct": together, "memory": "/sys/fs/cgroup/memory"}
    assert layout.v2 == "/sys/fs/cgroup/unified"
    assert layout.directories() == [together, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]
    unified = cgroup.detect("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
    assert (unified.v1, unified.v2, unified.limits_on_v1) == ({}, "/sys/fs/cgroup", False)


def test_group_on_v2_takes_kills_and_goes() -> None:
    """On the unified hierarchy alone a group takes a process, kills it at once and is removed."""
    v2 = cgroup.detect().v2
    if not v2 or os.geteuid() != 0:
        pytest.skip("no unified hierarchy to write to")
    group = cgroup.Cgroup(cgroup.Layout({}, v2), f"{cgroup.PREFIX}test-{os.getpid()}")
    group.create(Limits())
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        group.join(pid)
        assert group.processes() == {pid}
        group.kill(deadline=1e12)
        wait_for_end([pid])
    finally:
        os.waitpid(pid, 0)
        group.remove(deadline=1e12)
    assert not group.exists()
