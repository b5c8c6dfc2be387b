# SPDX-License-Identifier: Apache-2.0
"""Control groups do what they are asked to: the kernel's own behaviour, on whatever layout the machine has.

The same tests run in the machine for cgroup v2 (`make test-v2`).
"""

import itertools
import os
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.oci.cgroups import Group, open_group
from runtime.oci.cgroups.oom import Watch
from runtime.oci.cgroups.statistics import collect
from runtime.oci.failure import Failure
from tests.support.groups import MIB, can_group, disk, run, running, spend, start
from tests.support.oci import wait_until

pytestmark = pytest.mark.skipif(not can_group(), reason="cgroups need root")

ROOT = Path(__file__).parents[2]
Make = Callable[..., Group]
_counter = itertools.count()


@pytest.fixture
def make_group() -> Iterator[Make]:
    """Give a function that makes a group with resources; all are destroyed and must be gone."""
    groups: list[Group] = []

    def make(resources: dict[str, Any] | None = None, **linux: Any) -> Group:
        path = f"/unionrt-test-{os.getpid()}-{next(_counter)}"
        group = open_group({"linux": {"cgroupsPath": path, **linux}}, "unused")
        groups.append(group)
        group.create()
        group.apply(resources or {})
        return group

    yield make
    for group in groups:
        group.destroy()
        assert [path for path in group.directories() if os.path.exists(path)] == []


def _used(group: Group) -> float:
    """Seconds of CPU."""
    return int(collect(group)["cpu"]["usage"]["total"]) / 1e9


def test_cpu_quota_throttles_to_the_share(make_group: Make) -> None:
    """A quarter of a CPU is a quarter of a CPU, over three seconds of busy loop."""
    group = make_group({"cpu": {"quota": 25_000, "period": 100_000}})
    with running(group, "while :; do :; done"):
        before = _used(group)
        passed = spend(3)
        share = (_used(group) - before) / passed
    assert share == pytest.approx(0.25, rel=0.1)
    throttling = collect(group)["cpu"]["throttling"]
    assert throttling["throttledPeriods"] > 20
    assert throttling["throttledTime"] > 0


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


def test_cpuset_pins(make_group: Make) -> None:
    """All run on the CPUs asked for, and know."""
    group = make_group({"cpu": {"cpus": "0", "mems": "0"}})
    status, output = run(group, "grep Cpus_allowed_list /proc/self/status")
    assert (status, output.split()[-1]) == (0, "0")
    assert collect(group)["cpuset"]["cpus"] == [0]


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
        assert 1.5 < time.monotonic() - begin < 6
        group.update({"blockIO": {"throttleWriteBpsDevice": [{**rate, "rate": 1 << 40}]}})
        begin = time.monotonic()
        assert run(group, copy) == (0, "")
        assert time.monotonic() - begin < 1.5
        entries = collect(group)["blkio"]["ioServiceBytesRecursive"]
        written = sum(
            entry["value"] for entry in entries if entry["op"] == "Write" and entry["minor"] == minor
        )
        assert written == 16 * MIB


def test_freezer_stops(make_group: Make) -> None:
    """A frozen loop takes no CPU; thawed it goes on."""
    group = make_group()
    with running(group, "while :; do :; done"):
        assert not group.frozen()
        group.freeze()
        assert group.frozen()
        before = _used(group)
        spend(0.5)
        assert _used(group) - before < 0.005
        group.thaw()
        assert not group.frozen()
        wait_until(lambda: _used(group) > before + 0.05, "the loop goes on")


def test_freezer_holds_what_forks_all_the_time(make_group: Make) -> None:
    """Forking processes are stopped too, again and again."""
    group = make_group({"pids": {"limit": 40}})
    with running(group, "while :; do (:) & (:) & wait; done"):
        for _ in range(10):
            group.freeze()
            assert group.frozen()
            group.thaw()


SPREADING = """
i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done
while :; do sleep 100 & kill $!; done
"""


def test_kill_leaves_nobody(make_group: Make) -> None:
    """Of many processes, one of which always forks, none escapes."""
    group = make_group({"pids": {"limit": 2000}})
    with start(group, SPREADING) as process:
        wait_until(lambda: len(group.processes()) > 50, "there are many")
        group.kill()
        assert process.wait(20) == -9
        wait_until(lambda: group.processes() == [], "all have gone")


def test_kill_ends_a_frozen_group(make_group: Make) -> None:
    """Frozen processes die too."""
    group = make_group()
    with start(group, "sleep 100") as process:
        wait_until(lambda: process.pid in group.processes(), "it has joined")
        group.freeze()
        group.kill()
        assert process.wait(20) == -9


def test_signal_reaches_all_and_leaves_the_group_thawed(make_group: Make) -> None:
    """Any signal can be sent to all."""
    group = make_group()
    with running(group, "trap 'echo got; exit 3' USR1; echo ready; while :; do read line; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        group.kill(10)
        assert process.stdout.readline() == "got\n"
        assert process.wait(20) == 3
        assert not group.frozen()


def test_destroy_takes_groups_made_inside(make_group: Make) -> None:
    """What the container made below its group goes with it, and who is in there."""
    group = make_group()
    for directory in group.directories():
        os.makedirs(f"{directory}/a/b")
    with start(group, "sleep 100") as process:
        wait_until(lambda: process.pid in group.processes(), "it has joined")
        group.destroy()
        assert process.wait(20) == -9
    assert [path for path in group.directories() if os.path.exists(path)] == []


def _node(directory: Path, major: int, minor: int) -> Path:
    path = directory / f"{major}-{minor}"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    return path


def _can_open(group: Group, path: Path | str, how: str) -> bool:
    return run(group, f": {how} {path}")[0] == 0


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Device nodes 1:3 (null), 1:5 (zero), 1:11 (kmsg)."""
    made = _node(tmp_path, 1, 3), _node(tmp_path, 1, 5), _node(tmp_path, 1, 11)
    try:
        made[0].read_bytes()
    except PermissionError:
        pytest.skip("device nodes do not work in the temporary directory")
    return made


def test_devices_default_to_the_harmless(make_group: Make, nodes: tuple[Path, Path, Path]) -> None:
    """Without rules: null and zero open, the kernel's log does not; nodes can be made."""
    group = make_group()
    null, zero, kmsg = nodes
    assert _can_open(group, null, ">") and _can_open(group, zero, "<")
    assert not _can_open(group, kmsg, "<")
    assert run(group, f"mknod {null.parent}/new c 1 11")[0] == 0
    assert not _can_open(group, null.parent / "new", "<")


def test_devices_follow_rules_by_access(make_group: Make, nodes: tuple[Path, Path, Path]) -> None:
    """A device allowed for reading is not for writing, and rules can be changed while it runs."""
    _null, zero, kmsg = nodes
    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    group = make_group({"devices": [{"allow": False, "access": "rwm"}, rule]})
    assert _can_open(group, kmsg, "<") and not _can_open(group, kmsg, ">")
    group.update({"devices": [{**rule, "access": "rw"}]})
    assert _can_open(group, kmsg, "<") and _can_open(group, kmsg, ">")
    group.update({"memory": {"limit": 100 * MIB}})
    assert _can_open(group, kmsg, "<")
    group.update({"devices": [{"allow": False, "access": "rwm"}]})
    assert not _can_open(group, kmsg, "<") and _can_open(group, zero, "<")


def test_devices_all_allowed_but_one(make_group: Make, nodes: tuple[Path, Path, Path]) -> None:
    """Everything is allowed, then one device is not: the last rule that fits decides."""
    _null, zero, kmsg = nodes
    deny = {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"}
    group = make_group({"devices": [{"allow": True, "access": "rwm"}, deny]})
    assert _can_open(group, kmsg, "<") and not _can_open(group, kmsg, ">") and _can_open(group, zero, "<>")


def test_devices_are_never_refused_meanwhile(make_group: Make, nodes: tuple[Path, Path, Path]) -> None:
    """While rules are changed back and forth, a device that all of them allow can always be opened."""
    null, _zero, _kmsg = nodes
    group = make_group()
    one = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    with running(group, f"while : <{null}; do :; done; echo refused") as process:
        for turn in range(40):
            group.update({"devices": [{**one, "access": "rw" if turn % 2 else "r"}]})
        assert process.poll() is None


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


def test_create_refuses_a_group_in_use(make_group: Make) -> None:
    """Two containers do not share a group."""
    group = make_group()
    same = Group.from_state(group.to_state())
    with running(group, "sleep 100"), pytest.raises(Failure, match="not empty, processes in it"):
        same.create()


def test_create_refuses_a_frozen_group(make_group: Make) -> None:
    """In a frozen group the container would hang; what was made for it is removed again."""
    group = make_group()
    group.freeze()
    config = {"linux": {"cgroupsPath": f"/{os.path.basename(group.directories()[0])}/inner"}}
    inner = open_group(config, "unused")
    with pytest.raises(Failure, match="is frozen"):
        inner.create()
    assert [path for path in inner.directories() if os.path.exists(path)] == []
    group.thaw()


def test_nested_path_takes_limits(make_group: Make) -> None:
    """Groups above are made, and given the controllers; a limit far down works."""
    outer = make_group()
    path = f"/{os.path.basename(outer.directories()[0])}/a/b"
    inner = make_group({"pids": {"limit": 3}, "cpu": {"cpus": "0"}}, cgroupsPath=path)
    assert run(inner, "for i in 1 2 3 4; do sleep 30 >/dev/null 2>&1 & done")[0] != 0
    inner.destroy()


def test_join_and_below_for_exec(make_group: Make) -> None:
    """A process can be put into the group, and into one below it, but not above."""
    group = make_group()
    for directory in group.directories():
        os.mkdir(f"{directory}/sub")
    below = group.below("/sub")
    if "cpuset" in below.v1:  # empty it takes nobody
        for file in ("cpuset.cpus", "cpuset.mems"):
            (Path(below.v1["cpuset"]) / file).write_text("0")
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            below.join(process.pid)
            assert below.processes() == group.processes() == [process.pid]
        finally:
            process.kill()
    with pytest.raises(Failure, match="leaves"):
        group.below("../other")
    with pytest.raises(Failure, match="no such file"):
        group.below("absent")


ENTER = """
import os, sys
from runtime.oci import jsontext
from runtime.oci.cgroups import Group
group = Group.from_state(jsontext.loads(sys.argv[1]))
pid = group.fork()
if pid == 0:
    group.enter()
    sys.stdout.write(open("/proc/self/cgroup").read())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_fork_and_enter_join_every_hierarchy(make_group: Make) -> None:
    """A child that came out of fork is in the group everywhere after enter."""
    from runtime.oci import jsontext

    group = make_group()
    state = jsontext.dumps(group.to_state())
    output = subprocess.run(
        [sys.executable, "-c", ENTER, state], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    name = os.path.basename(group.directories()[0])
    assert len(re.findall(rf":/{re.escape(name)}$", output, re.MULTILINE)) == len(group.directories())


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


def test_owner_gets_what_may_be_handed_over(make_group: Make) -> None:
    """In its own user and cgroup namespaces, with a writable mount, the container's root owns the group but no limit."""
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    path = f"/unionrt-test-{os.getpid()}-owner"
    config = {
        "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["rw"]}],
        "linux": {
            "cgroupsPath": path,
            "namespaces": [{"type": "user"}, {"type": "cgroup"}],
            "uidMappings": mappings,
            "gidMappings": mappings,
        },
    }
    group = open_group(config, "unused")
    if not group.layout.unified:
        assert group.owner is None
        return
    try:
        group.create()
        owners = {name: os.stat(f"{group.v2}/{name}").st_uid for name in (".", "cgroup.procs", "memory.max")}
        assert owners == {".": 100000, "cgroup.procs": 100000, "memory.max": 0}
    finally:
        group.destroy()


ROOTLESS = """
import sys
from runtime.oci.cgroups import open_group
from runtime.oci.failure import Failure
group = open_group({}, "unionrt-test-rootless", rootless=True)
group.create()
assert group.directories() == [], group.directories()
group.apply({"devices": [{"allow": False}]})
try:
    group.apply({"memory": {"limit": 1 << 20}})
except Failure as failure:
    sys.stdout.write(failure.line())
"""


def test_rootless_runs_without_limits_and_says_so() -> None:
    """An ordinary user gets no group where none was delegated; a limit that was asked for is refused by name."""
    done = subprocess.run(
        [sys.executable, "-c", ROOTLESS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("this checkout is not readable for others")
    assert done.stdout.startswith("linux.resources.memory needs a cgroup"), done.stdout + done.stderr


DELEGATED = """
import os, sys
from runtime.oci.cgroups import open_group
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
group = open_group({}, "box", rootless=True)
group.create()
group.apply({"pids": {"limit": 3}, "devices": [{"allow": False}]})
pid = group.fork()
if pid == 0:
    group.enter()
    os.execv("/bin/sh", ["sh", "-c", "cat /proc/self/cgroup; sleep 0 & sleep 0 & sleep 0 & sleep 0 & sleep 0 & sleep 0"])
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
group.destroy()
sys.stdout.write(f"status {status} {group.v2}")
"""


def test_rootless_uses_what_was_delegated_on_v2(make_group: Make, tmp_path: Path) -> None:
    """A user whose session lies in a group of its own can make groups beside the session, limit them and remove them."""
    top = make_group()
    if not top.layout.unified:
        pytest.skip("only v2 can be delegated")
    session = f"{top.v2}/session"
    os.mkdir(session)
    (Path(top.v2) / "cgroup.subtree_control").write_text("+pids")
    for path in (top.v2, session):
        for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(f"{path}/{name}", 1000, 1000)
    done = subprocess.run(
        [sys.executable, "-c", DELEGATED, session], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if "PermissionError" in done.stderr and "site-packages" in done.stderr:
        pytest.skip("this checkout is not readable for others")
    group = f"/{os.path.basename(top.v2)}/box"
    assert f"0::{group}\n" in done.stdout, done.stderr
    assert f"status 2 {top.v2}/box" in done.stdout  # the shell could not fork
    assert not os.path.exists(f"{top.v2}/box")


def test_missing_controller_is_named(make_group: Make) -> None:
    """A limit without its controller says which."""
    group = make_group()
    with pytest.raises(Failure, match=r"network|net_cls"):
        group.apply({"network": {"classID": 1048577}})
    with pytest.raises(Failure, match=r"pids\.limit"):
        group.apply({"pids": {"limit": 1 << 60}})


def test_disabled_manager_makes_nothing() -> None:
    """Without cgroups nothing is touched, and what cannot be done is said."""
    group = open_group({}, "unused", manager="disabled")
    group.create()
    group.apply({"memory": {"limit": 1}})
    assert group.directories() == []
    assert group.processes() == []
    assert group.warnings == ["linux.resources.memory is ignored: the cgroup manager is disabled"]
    with pytest.raises(Failure, match="no cgroup"):
        group.freeze()
    with pytest.raises(Failure, match="systemd"):
        open_group({}, "unused", manager="systemd")
