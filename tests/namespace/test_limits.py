# SPDX-License-Identifier: Apache-2.0
"""Limits of a container, each shown to bite inside and to be gone afterwards."""

from runtime.engine import bundle
from runtime.engine.wish import Wish
from runtime.oci.cgroups.resources import plan
from tests.support.box import Box

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
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; cat /proc/self/cgroup",
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
    assert box.run("--pids", "10", "--", PYTHON, "-c", script).stdout == "9 EAGAIN\n"
    assert box.run("--pids", "10", "--init", "--", PYTHON, "-c", script).stdout == "8 EAGAIN\n"


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
    wanted = bundle.resources(Wish(("true",), memory=64 << 20, cpus=0.5, pids=7))

    def settings(*v1: str) -> list[tuple[str, str, str]]:
        return [setting[:3] for setting in plan(wanted, v1, lambda _controller, _file: None).settings]

    assert sorted(settings("memory", "cpu", "pids")) == [
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "67108864"),
        ("pids", "pids.max", "7"),
    ]
    assert sorted(settings()) == [
        ("cpu", "cpu.max", "50000 100000"),
        ("memory", "memory.max", "67108864"),
        ("memory", "memory.swap.max", "0"),
        ("pids", "pids.max", "7"),
    ]
    assert set(bundle.resources(Wish(("true",)))) == {"devices"}


def test_memory_limit_too_low_for_any_command_is_told(box: Box) -> None:
    """v1 refuses a limit below what is in use, v2 kills for it: either way the limit is named as the reason."""
    done = box.run("--memory", "64k", "--", "true")
    known = {125: "the memory limit is too low", 137: "processes killed at the memory limit: 1"}
    assert known.get(done.returncode, "another status") in done.stderr


def test_memory_limit_is_the_commands_alone(box: Box) -> None:
    """What makes the container is not counted: a small program runs under a limit that our interpreter would not."""
    assert box.run("--memory", "2m", "--", "sh", "-c", "echo small").stdout == "small\n"
