# SPDX-License-Identifier: Apache-2.0
"""What config.json looks like, as a table: which type each key that we read has, and which ones an object must have.

`str`, `bool` and `int` (of 64 bits) stand for themselves, `Number` for fewer bits, a list for a list of its one element, `Map`
for an object with any keys, a dict or `Whole` for one in which keys that are not named are nobody's business, as the
specification wants.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Number:
    """An integer within limits."""

    __slots__ = ("least", "most")

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most


class Map:
    """An object with any keys, whose values have one shape."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Whole:
    """An object that must have the keys named in `needed`."""

    __slots__ = ("keys", "needed")

    def __init__(self, needed: str, keys: dict[str, Any]) -> None:
        self.keys = keys
        self.needed = needed.split()


ANY_INTEGER = Number(-(1 << 63), (1 << 64) - 1)
_U16, _U32 = Number(0, 0xFFFF), Number(0, 0xFFFFFFFF)
_I32 = Number(-(1 << 31), (1 << 31) - 1)
_ID = Number(0, 0xFFFFFFFE)  # the one above stands for "none"
_TIME = Number(0, (1 << 64) - 1)  # of SCHED_DEADLINE, in nanoseconds
_DEVICE_NUMBER = Number(-1, (1 << 31) - 1)  # in a rule; -1 is any

_MAPPING = [Whole("containerID hostID size", {"containerID": _U32, "hostID": _U32, "size": _U32})]
_HOOKS = [Whole("path", {"path": str, "args": [str], "env": [str], "timeout": int})]
_HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_USER = {"uid": int, "gid": int, "umask": int, "additionalGids": [int], "username": str}
_RULE = Whole(
    "allow", {"allow": bool, "type": str, "major": _DEVICE_NUMBER, "minor": _DEVICE_NUMBER, "access": str}
)
_WEIGHT = [
    Whole("major minor", {"major": _DEVICE_NUMBER, "minor": _DEVICE_NUMBER, "weight": int, "leafWeight": int})
]
_RATE = [Whole("major minor rate", {"major": _DEVICE_NUMBER, "minor": _DEVICE_NUMBER, "rate": int})]

PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": Whole("height width", {"height": _U16, "width": _U16}),
    "user": _USER,
    "args": [str],
    "env": [str],
    "cwd": str,
    "capabilities": {
        kind: [str] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    },
    "rlimits": [Whole("type hard soft", {"type": str, "hard": int, "soft": int})],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "oomScoreAdj": Number(-1000, 1000),
    "selinuxLabel": str,
    "scheduler": Whole(
        "policy",
        {
            "policy": str,
            "nice": _I32,
            "priority": _U32,
            "flags": [str],
            "runtime": _TIME,
            "deadline": _TIME,
            "period": _TIME,
        },
    ),
    "ioPriority": Whole("class", {"class": str, "priority": int}),
    "execCPUAffinity": {"initial": str, "final": str},
}

RESOURCES: dict[str, Any] = {
    "devices": [_RULE],
    "memory": {
        "limit": int,
        "reservation": int,
        "swap": int,
        "kernel": int,
        "kernelTCP": int,
        "swappiness": int,
        "disableOOMKiller": bool,
        "useHierarchy": bool,
        "checkBeforeUpdate": bool,
    },
    "cpu": {
        "shares": int,
        "quota": int,
        "burst": int,
        "period": int,
        "realtimeRuntime": int,
        "realtimePeriod": int,
        "cpus": str,
        "mems": str,
        "idle": int,
    },
    "pids": {"limit": int},
    "blockIO": {
        "weight": int,
        "leafWeight": int,
        "weightDevice": _WEIGHT,
        "throttleReadBpsDevice": _RATE,
        "throttleWriteBpsDevice": _RATE,
        "throttleReadIOPSDevice": _RATE,
        "throttleWriteIOPSDevice": _RATE,
    },
    "hugepageLimits": [Whole("pageSize limit", {"pageSize": str, "limit": int})],
    "network": {"classID": int, "priorities": [Whole("name priority", {"name": str, "priority": int})]},
    "rdma": Map({"hcaHandles": int, "hcaObjects": int}),
    "unified": Map(str),
}

# seccomp/profile.py checks the rest: a number that is zero may be left out.
_SECCOMP: dict[str, Any] = {
    "defaultAction": str,
    "defaultErrnoRet": int,
    "architectures": [str],
    "flags": [str],
    "listenerPath": str,
    "listenerMetadata": str,
    "syscalls": [
        {
            "names": [str],
            "action": str,
            "errnoRet": int,
            "args": [{"index": int, "value": int, "valueTwo": int, "op": str}],
        }
    ],
}

_LINUX: dict[str, Any] = {
    "namespaces": [Whole("type", {"type": str, "path": str})],
    "uidMappings": _MAPPING,
    "gidMappings": _MAPPING,
    "timeOffsets": Map({"secs": int, "nanosecs": int}),
    "devices": [
        Whole(
            "type path",
            {
                "type": str,
                "path": str,
                "major": Number(0, _I32.most),
                "minor": Number(0, _I32.most),
                "fileMode": _ID,
                "uid": _ID,
                "gid": _ID,
            },
        )
    ],
    "netDevices": Map({"name": str}),
    "cgroupsPath": str,
    "resources": RESOURCES,
    "rootfsPropagation": str,
    "seccomp": _SECCOMP,
    "sysctl": Map(str),
    "maskedPaths": [str],
    "readonlyPaths": [str],
    "mountLabel": str,
    "personality": Whole("domain", {"domain": str, "flags": [str]}),
    "memoryPolicy": Whole("mode", {"mode": str, "nodes": str, "flags": [str]}),
    "intelRdt": {},
}

CONFIG: dict[str, Any] = {
    "ociVersion": str,
    # type, source and options are ours: see docs/unionrt.md.
    "root": {"path": str, "readonly": bool, "type": str, "source": str, "options": [str]},
    "mounts": [
        Whole(
            "destination",
            {
                "destination": str,
                "type": str,
                "source": str,
                "options": [str],
                "uidMappings": _MAPPING,
                "gidMappings": _MAPPING,
            },
        )
    ],
    "process": PROCESS,
    "hostname": str,
    "domainname": str,
    "hooks": dict.fromkeys(_HOOK_KINDS, _HOOKS),
    "annotations": Map(str),
    "linux": _LINUX,
}
