# SPDX-License-Identifier: Apache-2.0
"""What is decided about cgroups without touching any: layouts, paths, conversions, limits, device rules."""

from typing import Any

import pytest

from runtime.oci.cgroups import convert, paths
from runtime.oci.cgroups.devices import DEFAULT, rules
from runtime.oci.cgroups.devices_v1 import changes, lower
from runtime.oci.cgroups.layout import Layout, detect
from runtime.oci.cgroups.resources import plan
from runtime.oci.cgroups.statistics import numbers
from runtime.oci.failure import Failure

V1 = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"}
GIB = 1 << 30

MOUNTS_V1 = """
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
28 25 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,clone_children
"""
MOUNT_UNIFIED = "29 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V2 = "30 24 0:27 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


@pytest.mark.parametrize(
    ("mounts", "v1", "v2", "kind"),
    [
        (MOUNT_V2, [], "/sys/fs/cgroup", "unified"),
        (MOUNTS_V1, ["cpu", "cpuacct", "memory", "name=systemd"], "", "v1"),
        (
            MOUNTS_V1 + MOUNT_UNIFIED,
            ["cpu", "cpuacct", "memory", "name=systemd"],
            "/sys/fs/cgroup/unified",
            "hybrid",
        ),
        (MOUNTS_V1 + MOUNT_V2, [], "/sys/fs/cgroup", "unified"),
        ("30 24 0:27 / /other\\040place rw - cgroup2 c rw\n", [], "/other place", "unified"),
        (MOUNT_V2 + "31 24 0:27 / /chroot/cgroup rw - cgroup2 c rw\n", [], "/sys/fs/cgroup", "unified"),
        ("", [], "", "none"),
    ],
)
def test_layout(mounts: str, v1: list[str], v2: str, kind: str) -> None:
    """The mounts tell which hierarchies there are; what lies hidden under another mount does not count."""
    layout = detect(mounts)
    assert (sorted(layout.v1), layout.v2) == (v1, v2)
    found = "unified" if layout.unified else "hybrid" if layout.hybrid else "v1" if layout.v1 else "none"
    assert found == kind


@pytest.mark.parametrize(
    ("given", "path"),
    [("/a/b", "a/b"), ("a/b", "a/b"), (None, "id"), ("", "id"), ("//a/./b/", "a/b"), ("/a:b", "a:b")],
)
def test_path(given: str | None, path: str) -> None:
    """Absolute or relative, the same path means the same group; without one it is the id."""
    assert paths.relative(given, "id") == path


@pytest.mark.parametrize("given", ["/a/../b", "..", "/", "system.slice:crio:x"])
def test_path_refused(given: str) -> None:
    """Out of the hierarchy, its root, and systemd's form."""
    with pytest.raises(Failure):
        paths.relative(given, "id")


def test_directories_of_root_and_of_an_ordinary_user() -> None:
    """Root's are at the top; a user's are below its own group, on v2 beside it."""
    layout = Layout({"cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct"}, "/c/unified")
    at = "/c/cpu,cpuacct/x"
    assert paths.directories(layout, "x", None) == ({"cpu": at, "cpuacct": at}, "/c/unified/x")
    own = paths.parse_groups("1:cpu,cpuacct:/user\n0::/user.slice/session\n")
    at = "/c/cpu,cpuacct/user/x"
    assert paths.directories(layout, "x", own) == ({"cpu": at, "cpuacct": at}, "/c/unified/user.slice/x")


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(2, 1), (1, 1), (100, 17), (512, 59), (1024, 100), (2048, 174), (262144, 10000), (1 << 20, 10000)],
)
def test_cpu_weight(shares: int, weight: int) -> None:
    """The ends and the default keep their meaning."""
    assert convert.cpu_weight(shares) == weight


@pytest.mark.parametrize(("weight", "result"), [(10, 1), (100, 910), (500, 4950), (1000, 10000)])
def test_io_weight(weight: int, result: int) -> None:
    """A straight line between the ends."""
    assert convert.io_weight(weight) == result


@pytest.mark.parametrize(
    ("quota", "period", "present", "text"),
    [
        (50000, 200000, None, "50000 200000"),
        (50000, None, None, "50000 100000"),
        (50000, None, "max 250000", "50000 250000"),
        (None, 200000, "50000 100000", "50000 200000"),
        (None, 200000, None, "max 200000"),
        (-1, None, "50000 100000", "max 100000"),
    ],
)
def test_cpu_max(quota: int | None, period: int | None, present: str | None, text: str) -> None:
    """What is not given stays as it is."""
    assert convert.cpu_max(quota, period, present) == text


@pytest.mark.parametrize(
    ("memory", "both", "text"),
    [
        (GIB, 3 * GIB, str(2 * GIB)),
        (GIB, GIB, "0"),
        (GIB, -1, "max"),
        (None, -1, "max"),
        (-1, None, "max"),
        (-1, -1, "max"),
        (GIB, None, None),
        (None, None, None),
    ],
)
def test_swap(memory: int | None, both: int | None, text: str | None) -> None:
    """v2 counts swap alone."""
    assert convert.swap_only(memory, both) == text


@pytest.mark.parametrize(("memory", "both"), [(GIB, GIB - 1), (None, GIB), (-1, GIB)])
def test_swap_refused(memory: int | None, both: int) -> None:
    """Less than memory, or without it."""
    with pytest.raises(Failure):
        convert.swap_only(memory, both)


DEVICE = {"major": 8, "minor": 16}
TABLE: list[tuple[dict[str, Any], list[tuple[str, str]], list[tuple[str, str]] | None]] = [
    # linux.resources, v1's files and texts, v2's (None: refused)
    ({}, [], []),
    ({"memory": {"limit": GIB}}, [("memory.limit_in_bytes", str(GIB))], [("memory.max", str(GIB))]),
    (
        {"memory": {"limit": -1}},
        [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
        [("memory.max", "max"), ("memory.swap.max", "max")],
    ),
    (
        {"memory": {"limit": GIB, "swap": 2 * GIB, "reservation": 512}},
        [
            ("memory.limit_in_bytes", str(GIB)),
            ("memory.memsw.limit_in_bytes", str(2 * GIB)),
            ("memory.soft_limit_in_bytes", "512"),
        ],
        [("memory.max", str(GIB)), ("memory.swap.max", str(GIB)), ("memory.low", "512")],
    ),
    (
        {"memory": {"limit": GIB, "swap": 0}},
        [("memory.limit_in_bytes", str(GIB))],
        [("memory.max", str(GIB))],
    ),
    ({"memory": {"limit": 0, "swap": 0}}, [], []),
    ({"memory": {"swap": 0}}, [], [("memory.swap.max", "0")]),
    ({"memory": {"swappiness": 0}}, [("memory.swappiness", "0")], []),
    ({"memory": {"disableOOMKiller": True}}, [("memory.oom_control", "1")], None),
    ({"memory": {"disableOOMKiller": False, "kernel": GIB, "kernelTCP": GIB}}, [], []),
    ({"cpu": {"shares": 1024}}, [("cpu.shares", "1024")], [("cpu.weight", "100")]),
    ({"cpu": {"shares": 0, "quota": 0, "period": 0}}, [], []),
    (
        {"cpu": {"quota": 50000, "period": 100000, "burst": 1000, "idle": 1}},
        [
            ("cpu.idle", "1"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_burst_us", "1000"),
        ],
        [("cpu.idle", "1"), ("cpu.max", "50000 100000"), ("cpu.max.burst", "1000")],
    ),
    ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max 100000")]),
    (
        {"cpu": {"cpus": "0-1", "mems": "0"}},
        [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
        [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
    ),
    (
        {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 1000}},
        [("cpu.rt_period_us", "1000000"), ("cpu.rt_runtime_us", "1000")],
        None,
    ),
    ({"pids": {"limit": 0}}, [("pids.max", "0")], [("pids.max", "0")]),
    ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
    ({"blockIO": {"weight": 500}}, [("blkio.bfq.weight", "500")], [("io.weight", "4950")]),
    (
        {"blockIO": {"weightDevice": [{**DEVICE, "weight": 100}]}},
        [("blkio.bfq.weight_device", "8:16 100")],
        [("io.weight", "8:16 910")],
    ),
    ({"blockIO": {"leafWeight": 10}}, [("blkio.leaf_weight", "10")], None),
    (
        {
            "blockIO": {
                "throttleReadBpsDevice": [{**DEVICE, "rate": 1000}],
                "throttleWriteIOPSDevice": [{**DEVICE, "rate": 20}, {"major": 8, "minor": 0, "rate": 0}],
            }
        },
        [
            ("blkio.throttle.read_bps_device", "8:16 1000"),
            ("blkio.throttle.write_iops_device", "8:16 20"),
            ("blkio.throttle.write_iops_device", "8:0 0"),
        ],
        [("io.max", "8:16 rbps=1000 wiops=20"), ("io.max", "8:0 wiops=max")],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]},
        [("hugetlb.2MB.max", "4194304")],
        [("hugetlb.2MB.max", "4194304")],
    ),
    (
        {"rdma": {"mlx": {"hcaHandles": 3}}},
        [("rdma.max", "mlx hca_handle=3")],
        [("rdma.max", "mlx hca_handle=3")],
    ),
    ({"unified": {"hugetlb.2MB.max": "0"}}, [("hugetlb.2MB.max", "0")], [("hugetlb.2MB.max", "0")]),
    (
        {"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2"}},
        [],
        [("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")],
    ),
]


def _planned(resources: dict[str, Any], v1: set[str], present: dict[str, str]) -> list[tuple[str, str]]:
    settings = plan(resources, v1, lambda _controller, file: present.get(file)).settings
    return [(file, text) for _controller, file, text, _field in settings]


@pytest.mark.parametrize(("resources", "on_v1", "on_v2"), TABLE)
def test_limits(
    resources: dict[str, Any], on_v1: list[tuple[str, str]], on_v2: list[tuple[str, str]] | None
) -> None:
    """Each field has its file in both versions, or is refused or passed over; what no v1 hierarchy has is v2's."""
    if "io.max" in resources.get("unified", {}):
        with pytest.raises(Failure, match="io is in v1 here"):
            _planned(resources, V1, {})
    else:
        assert _planned(resources, V1, {}) == on_v1
    if on_v2 is None:
        with pytest.raises(Failure, match="does not exist on cgroup v2"):
            _planned(resources, set(), {})
    else:
        assert _planned(resources, set(), {}) == on_v2


def test_limits_depend_on_what_the_kernel_has() -> None:
    """Weights go to the file that is there, huge pages to the limit on reservations too."""
    assert _planned({"blockIO": {"weight": 500}}, V1, {"blkio.weight": ""}) == [("blkio.weight", "500")]
    assert _planned({"blockIO": {"weight": 500}}, set(), {"io.bfq.weight": ""}) == [("io.bfq.weight", "500")]
    pages = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
    files = ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes")
    assert _planned(pages, {"hugetlb"}, {files[1]: "0"}) == [(file, "0") for file in files]


def test_limits_that_are_ignored_are_warned_of() -> None:
    """The user is told what has no effect."""
    found = plan({"memory": {"swappiness": 10, "kernel": 1}}, set(), lambda _controller, _file: None)
    assert [warning.split()[0] for warning in found.warnings] == [
        "linux.resources.memory.swappiness",
        "linux.resources.memory.kernel",
    ]


def test_controller_that_no_v1_hierarchy_has_is_named() -> None:
    """Where there is v1, the user is told what is not mounted."""
    with pytest.raises(Failure, match=r"network\.classID: no net_cls hierarchy is mounted"):
        _planned({"network": {"classID": 1}}, V1, {})


def test_unified_names_a_file_only() -> None:
    """Not a path."""
    with pytest.raises(Failure, match="not the name of a file"):
        _planned({"unified": {"../memory.max": "1"}}, set(), {})
    with pytest.raises(Failure, match=r"form CONTROLLER\.VALUE"):
        _planned({"unified": {"memory": "1"}}, set(), {})


ALL = {"allow": True, "access": "rwm"}
NONE = {"allow": False, "access": "rwm"}
KMSG = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}


def test_device_rules_begin_with_the_last_that_says_all() -> None:
    """Everything before it is moot; the default ones close the list unless all is allowed anyway."""
    assert rules([]) == rules([NONE]) == rules([ALL, KMSG, NONE]) == [(False, "a", -1, -1, "rwm"), *DEFAULT]
    assert rules([NONE, ALL]) == [(True, "a", -1, -1, "rwm")]
    assert rules([KMSG])[1] == (True, "c", 1, 11, "r")
    assert rules([{**KMSG, "access": "ra"}]) == rules([KMSG])  # engines' tests have such letters
    with pytest.raises(Failure, match="access"):
        rules([{**KMSG, "access": "x"}])


def test_device_rules_for_v1_are_a_default_and_exceptions() -> None:
    """Accesses of one device add up and are taken away."""
    allowed, exceptions = lower(rules([KMSG, {**KMSG, "access": "w"}]))
    assert (allowed, exceptions["c", 1, 11]) == (False, "rw")
    _allowed, exceptions = lower(rules([{**KMSG, "access": "rw"}, {**KMSG, "allow": False, "access": "w"}]))
    assert exceptions["c", 1, 11] == "r"
    allowed, exceptions = lower(rules([ALL, {**KMSG, "allow": False, "access": "w"}]))
    assert allowed and exceptions == {("c", 1, 11): "w"}


def test_device_rule_that_v1_cannot_express_is_refused() -> None:
    """One device out of a range."""
    wide = {"allow": True, "type": "c", "major": 10, "access": "rw"}
    with pytest.raises(Failure, match=r"cannot except c 10:229 from c 10:\*"):
        lower(rules([wide, {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "w"}]))


def test_device_changes_never_pass_through_less() -> None:
    """From list to list only the difference is written, allowing first."""
    wanted = {("c", 1, 3): "rwm", ("c", 1, 11): "rw"}
    assert changes(False, wanted, "a *:* rwm\n")[0] == ("devices.deny", "a")
    assert changes(False, wanted, "c 1:3 rwm\nc 10:229 rw\nc 1:11 r\n") == [
        ("devices.allow", "c 1:11 rw"),
        ("devices.deny", "c 10:229 rw"),
    ]
    assert changes(True, {("c", 1, 3): "w"}, "") == [("devices.allow", "a"), ("devices.deny", "c 1:3 w")]


@pytest.mark.parametrize(("text", "result"), [("0-2,7", [0, 1, 2, 7]), ("3", [3]), ("", []), (None, [])])
def test_number_lists(text: str | None, result: list[int]) -> None:
    """As cpusets are written."""
    assert numbers(text) == result
