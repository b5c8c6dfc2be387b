# SPDX-License-Identifier: Apache-2.0
"""What to write for `linux.resources`: the table of limits with their v1 and v2 files. It decides, `limits.py` acts.

Devices are not here (`devices.py`). Zero means "not set" for the values that cannot be zero, as engines send it so.
"""

from __future__ import annotations

from runtime.oci.cgroups import convert
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    Read = Callable[[str, str], str | None]
    # controller, file, text, field of linux.resources
    Setting = tuple[str, str, str, str]

# The four lists of blockIO: their key, v1's file, v2's key in io.max.
_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps", "rbps"),
    ("throttleWriteBpsDevice", "write_bps", "wbps"),
    ("throttleReadIOPSDevice", "read_iops", "riops"),
    ("throttleWriteIOPSDevice", "write_iops", "wiops"),
)


class Plan:
    """The settings in the order of writing, and what a user should be warned of."""

    __slots__ = ("_read", "_v1", "settings", "warnings")

    def __init__(self, v1: Collection[str], read: Read) -> None:
        self._v1 = v1
        self._read = read
        self.settings: list[Setting] = []
        self.warnings: list[str] = []

    def on_v1(self, controller: str) -> bool:
        """Tell whether the controller's limits are written in v1's files."""
        return controller in self._v1

    def present(self, controller: str, file: str) -> str | None:
        """Return what a file says now, None if there is none."""
        return self._read(controller, file)

    def add(self, field: str, controller: str, file: str, value: object) -> None:
        """Plan to write a value."""
        self.settings.append((controller, file, str(value), field))

    def refuse(self, field: str, controller: str, hint: str = "") -> None:
        """Fail as only v1 has the field, and there is no v1 hierarchy with the controller."""
        if self._v1:
            raise Failure(
                f"linux.resources.{field}: no {controller} hierarchy is mounted on this machine", hint
            )
        raise Failure(f"linux.resources.{field} does not exist on cgroup v2", hint or "remove it")


def plan(resources: dict[str, Any], v1: Collection[str], read: Read) -> Plan:
    """Return what to write for `resources`. `v1` holds the controllers that are v1's here; all others are v2's.

    `read(controller, file)` returns the present text of a file or None. Failure for what cannot be expressed.
    """
    result = Plan(v1, read)
    for section, add in _SECTIONS:
        if given := resources.get(section):
            add(result, given)
    return result


def _cpu(result: Plan, given: dict[str, Any]) -> None:
    v1 = result.on_v1("cpu")
    if shares := given.get("shares"):
        if v1:
            result.add("cpu.shares", "cpu", "cpu.shares", shares)
        else:
            result.add("cpu.shares", "cpu", "cpu.weight", convert.cpu_weight(shares))
    if given.get("idle") is not None:  # after the weight, which idle=1 makes read-only
        result.add("cpu.idle", "cpu", "cpu.idle", given["idle"])
    quota, period = given.get("quota") or None, given.get("period") or None
    if v1:
        if period:
            result.add("cpu.period", "cpu", "cpu.cfs_period_us", period)
        if quota:
            result.add("cpu.quota", "cpu", "cpu.cfs_quota_us", max(quota, -1))
    elif quota or period:
        text = convert.cpu_max(quota, period, result.present("cpu", "cpu.max"))
        result.add("cpu.quota" if quota else "cpu.period", "cpu", "cpu.max", text)
    if given.get("burst") is not None:
        result.add("cpu.burst", "cpu", "cpu.cfs_burst_us" if v1 else "cpu.max.burst", given["burst"])
    for key, file in (("realtimePeriod", "cpu.rt_period_us"), ("realtimeRuntime", "cpu.rt_runtime_us")):
        if given.get(key):
            if not v1:
                result.refuse(f"cpu.{key}", "cpu")
            result.add(f"cpu.{key}", "cpu", file, given[key])
    for key in ("cpus", "mems"):
        if given.get(key):
            result.add(f"cpu.{key}", "cpuset", f"cpuset.{key}", given[key])


def _memory(result: Plan, given: dict[str, Any]) -> None:
    v1 = result.on_v1("memory")
    limit, swap = given.get("limit") or None, given.get("swap") or None
    if v1:
        if limit:
            result.add("memory.limit", "memory", "memory.limit_in_bytes", limit)
            if limit == -1 and swap is None:
                swap = -1
        if swap:
            result.add("memory.swap", "memory", "memory.memsw.limit_in_bytes", swap)
    else:
        if limit:
            result.add("memory.limit", "memory", "memory.max", convert.limit(limit))
        none_at_all = "limit" not in given and given.get("swap") == 0
        if (text := "0" if none_at_all else convert.swap_only(limit, swap)) is not None:
            result.add("memory.swap", "memory", "memory.swap.max", text)
    if reservation := given.get("reservation"):
        file = "memory.soft_limit_in_bytes" if v1 else "memory.low"
        result.add("memory.reservation", "memory", file, reservation if v1 else convert.limit(reservation))
    if given.get("swappiness") is not None:
        if v1:
            result.add("memory.swappiness", "memory", "memory.swappiness", given["swappiness"])
        else:
            result.warnings.append("linux.resources.memory.swappiness is ignored: cgroup v2 has none")
    if given.get("disableOOMKiller"):
        if not v1:
            result.refuse("memory.disableOOMKiller", "memory")
        result.add("memory.disableOOMKiller", "memory", "memory.oom_control", 1)
    if given.get("useHierarchy") and v1 and result.present("memory", "memory.use_hierarchy") == "0":
        result.add("memory.useHierarchy", "memory", "memory.use_hierarchy", 1)
    for key in ("kernel", "kernelTCP"):
        if given.get(key):
            result.warnings.append(f"linux.resources.memory.{key} is ignored: Linux has dropped it")


def _pids(result: Plan, given: dict[str, Any]) -> None:
    if given.get("limit") is not None:
        result.add("pids.limit", "pids", "pids.max", convert.limit(given["limit"]))


def _block_io(result: Plan, given: dict[str, Any]) -> None:
    v1 = result.on_v1("blkio")
    controller = "blkio" if v1 else "io"
    weight_file, plain = _weight_file(result, controller)
    if weight := given.get("weight"):
        text = convert.io_weight(weight) if plain and not v1 else weight
        result.add("blockIO.weight", controller, weight_file, text)
    if leaf := given.get("leafWeight"):
        if not v1:
            result.refuse("blockIO.leafWeight", "blkio")
        result.add("blockIO.leafWeight", controller, "blkio.leaf_weight", leaf)
    for device in given.get("weightDevice") or ():
        _weight_device(result, controller, weight_file, plain, device)
    lines: dict[str, list[str]] = {}
    for key, v1_file, v2_key in _THROTTLES:
        for device in given.get(key) or ():
            number, rate = f"{device['major']}:{device['minor']}", device["rate"]
            if v1:
                result.add(
                    f"blockIO.{key}", controller, f"blkio.throttle.{v1_file}_device", f"{number} {rate}"
                )
            else:
                lines.setdefault(number, []).append(f"{v2_key}={rate or 'max'}")
    for number, words in lines.items():
        result.add("blockIO.throttle*Device", controller, "io.max", f"{number} {' '.join(words)}")


def _weight_file(result: Plan, controller: str) -> tuple[str, bool]:
    """Return the file for weights, and whether it is the general one, not BFQ's (v1 and v2 each have had both)."""
    general, bfq = (
        ("blkio.weight", "blkio.bfq.weight") if controller == "blkio" else ("io.weight", "io.bfq.weight")
    )
    first, second = (general, bfq) if controller == "blkio" else (bfq, general)
    file = first if result.present(controller, first) is not None else second
    return file, file == general


def _weight_device(result: Plan, controller: str, file: str, plain: bool, device: dict[str, Any]) -> None:
    number = f"{device['major']}:{device['minor']}"
    if weight := device.get("weight"):
        if controller == "blkio":
            result.add("blockIO.weightDevice", controller, f"{file}_device", f"{number} {weight}")
        else:
            text = convert.io_weight(weight) if plain else weight
            result.add("blockIO.weightDevice", controller, file, f"{number} {text}")
    if leaf := device.get("leafWeight"):
        if controller != "blkio":
            result.refuse("blockIO.weightDevice.leafWeight", "blkio")
        result.add("blockIO.weightDevice", controller, "blkio.leaf_weight_device", f"{number} {leaf}")


def _hugepages(result: Plan, given: list[dict[str, Any]]) -> None:
    """The limit on reservations stops a program when it maps, the other when it touches: by then only SIGBUS is left."""
    suffix = "limit_in_bytes" if result.on_v1("hugetlb") else "max"
    for entry in given:
        size, value = entry["pageSize"], entry["limit"]
        for file in (f"hugetlb.{size}.{suffix}", f"hugetlb.{size}.rsvd.{suffix}"):
            if ".rsvd." not in file or result.present("hugetlb", file) is not None:
                result.add("hugepageLimits", "hugetlb", file, value)


def _network(result: Plan, given: dict[str, Any]) -> None:
    hint = "match the cgroup with nftables instead"
    if class_id := given.get("classID"):
        if not result.on_v1("net_cls"):
            result.refuse("network.classID", "net_cls", hint)
        result.add("network.classID", "net_cls", "net_cls.classid", class_id)
    for entry in given.get("priorities") or ():
        if not result.on_v1("net_prio"):
            result.refuse("network.priorities", "net_prio", hint)
        text = f"{entry['name']} {entry['priority']}"
        result.add("network.priorities", "net_prio", "net_prio.ifpriomap", text)


def _rdma(result: Plan, given: dict[str, dict[str, Any]]) -> None:
    for device, limits in given.items():
        words = [device]
        for key, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(key) is not None:
                words.append(f"{name}={limits[key]}")
        result.add("rdma", "rdma", "rdma.max", " ".join(words))


def _unified(result: Plan, given: dict[str, str]) -> None:
    for file, text in given.items():
        if "/" in file:
            raise Failure(f"linux.resources.unified: {file!r} is not the name of a file")
        if "." not in file:
            raise Failure(
                f"linux.resources.unified: the specified key has not the form CONTROLLER.VALUE `{file}`"
            )
        controller = file.partition(".")[0]
        if result.on_v1({"io": "blkio"}.get(controller, controller)):
            raise Failure(
                f"linux.resources.unified: invalid configuration: {file} is a file of cgroup v2, {controller} is in v1 here",
                "use the other fields of linux.resources",
            )
        for line in text.splitlines() or [""]:  # io.max and the like take one line at a time
            result.add(f"unified {file}", "" if controller == "cgroup" else controller, file, line)


# cpuset before memory, so that its nodes are known when pages are counted; unified has the last word.
_SECTIONS: tuple[tuple[str, Callable[[Plan, Any], None]], ...] = (
    ("cpu", _cpu),
    ("memory", _memory),
    ("pids", _pids),
    ("blockIO", _block_io),
    ("hugepageLimits", _hugepages),
    ("network", _network),
    ("rdma", _rdma),
    ("unified", _unified),
)
