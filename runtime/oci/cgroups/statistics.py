# SPDX-License-Identifier: Apache-2.0
"""What a group has used, in the shape that engines know from `runc events --stats`. Times in ns, sizes in bytes.

Numbers of v2 that v1 never had (pressure) are added; what a hierarchy does not tell is left out or 0. On v2 `swap` is given as
v1 counts it: memory and swap together.
"""

from __future__ import annotations

import os

from runtime.oci.cgroups.files import counter, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.cgroups.directories import Directories

    Entry = dict[str, object]

# What v1 calls unlimited is the largest number of pages; v2 says max. Both are told as this.
UNLIMITED = 2**64 - 1
_V1_UNLIMITED = 2**63 - 4096 * 16
_NS_OF_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_V1_BLKIO = (
    ("ioServiceBytesRecursive", "io_service_bytes"),
    ("ioServicedRecursive", "io_serviced"),
    ("ioQueueRecursive", "io_queued"),
    ("ioServiceTimeRecursive", "io_service_time"),
    ("ioWaitTimeRecursive", "io_wait_time"),
    ("ioMergedRecursive", "io_merged"),
    ("ioTimeRecursive", "time"),
    ("sectorsRecursive", "sectors"),
)
_V2_BLKIO = (
    ("ioServiceBytesRecursive", (("Read", "rbytes"), ("Write", "wbytes"), ("Discard", "dbytes"))),
    ("ioServicedRecursive", (("Read", "rios"), ("Write", "wios"), ("Discard", "dios"))),
)
_CPUSET_FLAGS = (
    "cpu_exclusive mem_exclusive mem_hardwall memory_migrate memory_spread_page memory_spread_slab memory_pressure"
    " sched_load_balance sched_relax_domain_level"
).split()


def collect(group: Directories) -> dict[str, Any]:
    """Return the statistics of the group and all below it."""
    return {
        "cpu": _cpu(group),
        "cpuset": _cpuset(group),
        "memory": _memory_v1(group) if "memory" in group.v1 else _memory_v2(group.v2),
        "pids": _pids(group),
        "blkio": _blkio_v1(group.v1["blkio"]) if "blkio" in group.v1 else _blkio_v2(group.v2),
        "hugetlb": _hugetlb(group),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _number(directory: str, file: str) -> int:
    """Return the number in a file; unlimited is one number, whatever the file calls it, and no file is 0."""
    text = read(directory, file) if directory else None
    if not text:
        return 0
    if text == "max":
        return UNLIMITED
    value = int(text)
    return UNLIMITED if value >= _V1_UNLIMITED or value < 0 else value


def _table(text: str | None) -> dict[str, int]:
    """Return a file of "NAME NUMBER" lines."""
    result = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            result[name] = int(value)
    return result


def _cpu(group: Directories) -> dict[str, Any]:
    result: dict[str, Any] = {}
    throttled = _table(read(group.directory("cpu"), "cpu.stat"))
    if "cpuacct" in group.v1:
        result["usage"] = _usage_v1(group.v1["cpuacct"])
        waited = throttled.get("throttled_time", 0)
    else:
        at = _table(read(group.v2, "cpu.stat"))
        result["usage"] = {
            "total": at.get("usage_usec", 0) * 1000,
            "kernel": at.get("system_usec", 0) * 1000,
            "user": at.get("user_usec", 0) * 1000,
        }
        waited = throttled.get("throttled_usec", 0) * 1000
    result["throttling"] = {
        "periods": throttled.get("nr_periods", 0),
        "throttledPeriods": throttled.get("nr_throttled", 0),
        "throttledTime": waited,
    }
    if pressure := _pressure(group.v2, "cpu.pressure"):
        result["psi"] = pressure
    return result


def _usage_v1(directory: str) -> Entry:
    ticks = _table(read(directory, "cpuacct.stat"))
    return {
        "total": _number(directory, "cpuacct.usage"),
        "percpu": [int(word) for word in (read(directory, "cpuacct.usage_percpu") or "").split()],
        "percpu_kernel": [int(word) for word in (read(directory, "cpuacct.usage_percpu_sys") or "").split()],
        "percpu_user": [int(word) for word in (read(directory, "cpuacct.usage_percpu_user") or "").split()],
        "kernel": ticks.get("system", 0) * _NS_OF_TICK,
        "user": ticks.get("user", 0) * _NS_OF_TICK,
    }


def _cpuset(group: Directories) -> Entry:
    directory = group.directory("cpuset")
    effective = "cpuset.effective_" if "cpuset" in group.v1 else "cpuset."
    suffix = "" if "cpuset" in group.v1 else ".effective"
    result: Entry = {
        "cpus": numbers(read(directory, f"{effective}cpus{suffix}")),
        "mems": numbers(read(directory, f"{effective}mems{suffix}")),
    }
    if "cpuset" in group.v1:
        for name in _CPUSET_FLAGS:
            result[name] = int(read(directory, f"cpuset.{name}") or 0)
    return result


def numbers(text: str | None) -> list[int]:
    """Return the numbers in a list such as "0-3,7"."""
    result: list[int] = []
    for part in (text or "").split(","):
        first, dash, last = part.partition("-")
        if first:
            result += range(int(first), int(last if dash else first) + 1)
    return result


def _memory_v1(group: Directories) -> dict[str, Any]:
    directory = group.v1["memory"]
    raw = _table(read(directory, "memory.stat"))
    result: dict[str, Any] = {"cache": raw.get("cache", 0), "raw": raw}
    for name, infix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        result[name] = {
            "limit": _number(directory, f"memory.{infix}limit_in_bytes"),
            "usage": _number(directory, f"memory.{infix}usage_in_bytes"),
            "max": _number(directory, f"memory.{infix}max_usage_in_bytes"),
            "failcnt": _number(directory, f"memory.{infix}failcnt"),
        }
    if pressure := _pressure(group.v2, "memory.pressure"):
        result["psi"] = pressure
    return result


def _memory_v2(directory: str) -> dict[str, Any]:
    raw = _table(read(directory, "memory.stat"))
    usage = {
        "limit": _number(directory, "memory.max"),
        "usage": _number(directory, "memory.current"),
        "max": _number(directory, "memory.peak"),
        "failcnt": counter(read(directory, "memory.events"), "max"),
    }
    limit = _number(directory, "memory.swap.max")
    swap = {
        "limit": UNLIMITED if UNLIMITED in (limit, usage["limit"]) else limit + usage["limit"],
        "usage": usage["usage"] + _number(directory, "memory.swap.current"),
        "max": usage["max"] + _number(directory, "memory.swap.peak"),
        "failcnt": counter(read(directory, "memory.swap.events"), "max"),
    }
    nothing = {"limit": UNLIMITED, "usage": raw.get("kernel", 0), "max": 0, "failcnt": 0}
    result: dict[str, Any] = {
        "cache": raw.get("file", 0),
        "usage": usage,
        "swap": swap,
        "kernel": nothing,
        "raw": raw,
    }
    result["kernelTCP"] = {**nothing, "usage": raw.get("sock", 0)}
    if pressure := _pressure(directory, "memory.pressure"):
        result["psi"] = pressure
    return result


def _pids(group: Directories) -> Entry:
    directory = group.directory("pids")
    limit = _number(directory, "pids.max")
    return {"current": _number(directory, "pids.current"), "limit": 0 if limit == UNLIMITED else limit}


def _blkio_v1(directory: str) -> dict[str, Any]:
    """BFQ counts what it schedules, the throttle counts all: the first that has counted is told."""
    result: dict[str, Any] = {}
    for key, name in _V1_BLKIO:
        for prefix in ("blkio.bfq.", "blkio.throttle.", "blkio."):
            if entries := _entries(read(directory, f"{prefix}{name}_recursive")):
                result[key] = entries
                break
    return result


def _entries(text: str | None) -> list[Entry]:
    entries: list[Entry] = []
    for line in (text or "").splitlines():
        words = line.split()
        if ":" not in words[0] or not words[-1].isdigit():  # the line with the total
            continue
        major, _, minor = words[0].partition(":")
        operation = words[1] if len(words) == 3 else ""
        entries.append({"major": int(major), "minor": int(minor), "op": operation, "value": int(words[-1])})
    return entries


def _blkio_v2(directory: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for line in (read(directory, "io.stat") or "").splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        counted = dict(word.split("=", 1) for word in words if "=" in word)
        for key, operations in _V2_BLKIO:
            for operation, name in operations:
                if name in counted and major.isdigit():
                    value = int(counted[name])
                    entry = {"major": int(major), "minor": int(minor), "op": operation, "value": value}
                    result.setdefault(key, []).append(entry)
    if pressure := _pressure(directory, "io.pressure"):
        result["psi"] = pressure
    return result


def _hugetlb(group: Directories) -> dict[str, Entry]:
    directory = group.directory("hugetlb")
    v1 = "hugetlb" in group.v1
    usage_file, max_file = ("usage_in_bytes", "max_usage_in_bytes") if v1 else ("current", "max")
    result: dict[str, Entry] = {}
    try:
        files = os.listdir(directory) if directory else []
    except FileNotFoundError:
        files = []
    for file in sorted(files):
        words = file.split(".")
        if len(words) != 3 or words[0] != "hugetlb" or words[2] != usage_file:
            continue
        size = words[1]
        if v1:
            failures = _number(directory, f"hugetlb.{size}.failcnt")
        else:
            failures = counter(read(directory, f"hugetlb.{size}.events"), "max")
        maximum = _number(directory, f"hugetlb.{size}.{max_file}") if v1 else 0
        result[size] = {"usage": _number(directory, file), "max": maximum, "failcnt": failures}
    return result


def _pressure(directory: str, file: str) -> dict[str, dict[str, float]]:
    """Return the shares of time lost in percent, and the sum in µs, for "some" processes and for all ("full")."""
    result: dict[str, dict[str, float]] = {}
    for line in (read(directory, file) or "").splitlines() if directory else ():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        result[kind] = {key: int(value) if key == "total" else float(value) for key, value in values.items()}
    return result
