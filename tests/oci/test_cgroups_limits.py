# SPDX-License-Identifier: Apache-2.0
"""Limits of control groups do what they are asked to: the kernel's own behaviour, on whatever layout the machine has.

The same tests run in the machine for cgroup v2 (`make test-v2`).
"""

import os
import select
import time
from pathlib import Path

import pytest

from runtime.oci.cgroups.oom import Watch
from runtime.oci.cgroups.statistics import collect
from runtime.oci.failure import Failure
from tests.support.groups import MIB, Make, can_group, disk, run, running, spend, start, used
from tests.support.oci import wait_until

pytestmark = pytest.mark.skipif(not can_group(), reason="cgroups need root")


def test_cpu_quota_throttles_to_the_share(make_group: Make) -> None:
    """A quarter of a CPU is a quarter of a CPU, over three seconds of busy loop, whoever else would like to have it."""
    group = make_group({"cpu": {"quota": 25_000, "period": 100_000, "shares": 262_144}})
    with running(group, "while :; do :; done"):
        before = used(group)
        passed = spend(3)
        share = (used(group) - before) / passed
    assert share == pytest.approx(0.25, rel=0.1)
    throttling = collect(group)["cpu"]["throttling"]
    assert throttling["throttledPeriods"] > 20
    assert throttling["throttledTime"] > 0


def test_cpu_shares_and_burst_are_taken(make_group: Make) -> None:
    """Values that constrain one another are accepted in any order, at first and on update."""
    group = make_group({"cpu": {"shares": 512, "burst": 20_000, "quota": 50_000, "period": 200_000}})
    group.update({"cpu": {"quota": 300_000, "burst": 250_000}})
    group.update({"cpu": {"burst": 0, "quota": 10_000, "period": 1_000_000}})
    group.update({"cpu": {"idle": 1}})
    group.update({"cpu": {"shares": 1024, "idle": 0}})
    directory = Path(group.directory("cpu"))
    if "cpu" in group.v1:
        assert (directory / "cpu.shares").read_text() == "1024\n"
        assert (directory / "cpu.cfs_period_us").read_text() == "1000000\n"
    else:
        assert (directory / "cpu.weight").read_text() == "100\n"
        assert (directory / "cpu.max").read_text() == "10000 1000000\n"


def test_quota_lifted_keeps_the_period(make_group: Make) -> None:
    """A quota of -1 is no limit, and what is not named stays."""
    group = make_group({"cpu": {"quota": 50_000, "period": 200_000}})
    group.update({"cpu": {"quota": -1}})
    directory = Path(group.directory("cpu"))
    if "cpu" in group.v1:
        assert (directory / "cpu.cfs_quota_us").read_text() == "-1\n"
        assert (directory / "cpu.cfs_period_us").read_text() == "200000\n"
    else:
        assert (directory / "cpu.max").read_text() == "max 200000\n"


def test_cpuset_pins(make_group: Make) -> None:
    """All run on the CPUs asked for, and know."""
    group = make_group({"cpu": {"cpus": "0", "mems": "0"}})
    status, output = run(group, "grep Cpus_allowed_list /proc/self/status")
    assert (status, output.split()[-1]) == (0, "0")
    assert collect(group)["cpuset"]["cpus"] == [0]


def test_memory_limit_kills_inside_only(make_group: Make) -> None:
    """A program that takes more than the limit is killed; its shell, small, goes on, and all outside."""
    group = make_group({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    status, output = run(group, "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo $?")
    assert (status, output.splitlines()[-1]) == (0, "137")
    assert group.oom_kills() == 1
    memory = collect(group)["memory"]
    assert memory["usage"]["limit"] == 64 * MIB
    assert 60 * MIB < memory["usage"]["max"] <= 64 * MIB


def test_memory_within_the_limit_is_let(make_group: Make) -> None:
    """Half of the limit is no problem."""
    group = make_group({"memory": {"limit": 64 * MIB}})
    assert run(group, "dd if=/dev/zero of=/dev/null bs=32M count=1 2>/dev/null") == (0, "")
    assert group.oom_kills() == 0


def test_memory_limits_move_up_and_down(make_group: Make) -> None:
    """Memory, and memory with swap, can be raised and lowered together."""
    group = make_group({"memory": {"limit": 32 * MIB, "swap": 64 * MIB, "reservation": 16 * MIB}})
    for limit, swap in ((128, 256), (16, 16), (64, 128)):
        group.update({"memory": {"limit": limit * MIB, "swap": swap * MIB}})
        memory = collect(group)["memory"]
        assert memory["usage"]["limit"] == limit * MIB
        assert memory["swap"]["limit"] in (swap * MIB, 0)  # 0: this kernel counts no swap
    group.update({"memory": {"limit": -1}})
    assert collect(group)["memory"]["usage"]["limit"] == 2**64 - 1


def test_memory_limit_below_use_is_refused_when_asked(make_group: Make) -> None:
    """checkBeforeUpdate: nobody is killed for a smaller limit."""
    group = make_group({"memory": {"limit": 128 * MIB}})
    with running(group, "dd if=/dev/zero bs=64M count=1 2>/dev/null | (sleep 30; cat)"):
        wait_until(lambda: collect(group)["memory"]["usage"]["usage"] > 60 * MIB, "memory is used")
        with pytest.raises(Failure, match=r"memory\.limit"):
            group.update({"memory": {"limit": 1 * MIB, "checkBeforeUpdate": True}})
        assert group.oom_kills() == 0


def test_oom_kill_wakes_the_watcher(make_group: Make) -> None:
    """A kill for want of memory is news at once; nothing is no news."""
    group = make_group({"memory": {"limit": 32 * MIB, "swap": 32 * MIB}})
    watch = Watch(group)
    try:
        poll = select.poll()
        poll.register(watch.fd, watch.events)
        assert watch.news() == 0
        with start(group, "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; true") as process:
            killed, deadline = 0, time.monotonic() + 20
            while not killed and time.monotonic() < deadline:
                poll.poll(1000)
                killed = watch.news()
            assert killed == 1
            process.wait(20)
    finally:
        watch.close()


def test_pids_limit_gives_eagain(make_group: Make) -> None:
    """The process over the limit cannot be forked."""
    group = make_group({"pids": {"limit": 8}})
    status, output = run(group, "for i in 1 2 3 4 5 6 7 8 9; do sleep 30 </dev/null >/dev/null 2>&1 & done")
    assert status != 0
    assert "Cannot fork" in output or "can't fork" in output
    pids = collect(group)["pids"]
    assert (pids["current"], pids["limit"]) == (7, 8)


def test_pids_unlimited(make_group: Make) -> None:
    """-1 is no limit."""
    group = make_group({"pids": {"limit": 5}})
    group.update({"pids": {"limit": -1}})
    assert run(group, "for i in 1 2 3 4 5 6 7 8 9; do sleep 0 & done; wait")[0] == 0


def test_block_io_throttle_holds(make_group: Make, tmp_path: Path) -> None:
    """Eight MiB at four MiB/s take two seconds, direct to a disk."""
    with disk(tmp_path, 16 * MIB) as (path, major, minor):
        rate = {"major": major, "minor": minor, "rate": 4 * MIB}
        group = make_group(
            {
                "blockIO": {"throttleWriteBpsDevice": [rate]},
                "devices": [{"allow": True, "type": "b", "major": major, "minor": minor, "access": "rw"}],
            }
        )
        copy = f"dd if=/dev/zero of={path} bs=1M count=8 oflag=direct 2>/dev/null"
        begin = time.monotonic()
        assert run(group, copy) == (0, "")
        throttled = time.monotonic() - begin
        assert throttled > 1.5
        group.update({"blockIO": {"throttleWriteBpsDevice": [{**rate, "rate": 1 << 40}]}})
        begin = time.monotonic()
        assert run(group, copy) == (0, "")
        assert time.monotonic() - begin < throttled
        entries = collect(group)["blkio"]["ioServiceBytesRecursive"]
        written = sum(
            entry["value"] for entry in entries if entry["op"] == "Write" and entry["minor"] == minor
        )
        assert written == 16 * MIB


def test_nested_path_takes_limits(make_group: Make) -> None:
    """Groups above are made, and given the controllers; a limit far down works."""
    outer = make_group()
    path = f"/{os.path.basename(outer.directories()[0])}/a/b"
    inner = make_group({"pids": {"limit": 3}, "cpu": {"cpus": "0"}}, cgroupsPath=path)
    assert run(inner, "for i in 1 2 3 4; do sleep 30 >/dev/null 2>&1 & done")[0] != 0
    inner.destroy()


def test_unified_is_written_on_v2_and_refused_on_v1(make_group: Make) -> None:
    """Files of v2 are written as they are; where the controller is in v1 that is said."""
    if make_group().layout.unified:
        group = make_group({"unified": {"memory.high": "1073741824", "cgroup.max.depth": "5"}})
        assert (Path(group.v2) / "memory.high").read_text() == "1073741824\n"
        assert (Path(group.v2) / "cgroup.max.depth").read_text() == "5\n"
        with pytest.raises(Failure, match=r"unified memory\.nonsense"):
            group.update({"unified": {"memory.nonsense": "1"}})
    else:
        with pytest.raises(Failure, match=r"memory is in v1 here"):
            make_group({"unified": {"memory.high": "1"}})


def test_hugepages_are_limited_where_the_controller_is_free(make_group: Make) -> None:
    """On v2, and in a hybrid layout that leaves hugetlb to v2."""
    group = make_group()
    sizes = [path.name.removeprefix("hugepages-") for path in Path("/sys/kernel/mm/hugepages").glob("*")]
    if "2048kB" not in sizes or not Path("/proc/self/mountinfo").read_text().count("cgroup2"):
        pytest.skip("no huge pages of 2 MB here")
    if group.layout.hybrid and not os.environ.get("UNIONRT_OWN_MACHINE"):
        pytest.skip("would hand a controller down from the root of a hierarchy that is not ours")
    group.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 8 * MIB}]})
    assert (Path(group.directory("hugetlb")) / "hugetlb.2MB.max").read_text() == f"{8 * MIB}\n"
    assert "2MB" in collect(group)["hugetlb"]


def test_missing_controller_is_named(make_group: Make) -> None:
    """A limit without its controller says which."""
    group = make_group()
    with pytest.raises(Failure, match=r"network|net_cls"):
        group.apply({"network": {"classID": 1048577}})
    with pytest.raises(Failure, match=r"pids\.limit"):
        group.apply({"pids": {"limit": 1 << 60}})
