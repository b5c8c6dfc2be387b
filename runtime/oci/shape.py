# SPDX-License-Identifier: Apache-2.0
"""What config.json looks like, as a table: which type each key that we read has.

`str`, `int` and `bool` stand for themselves, a list for a list of its one element, `Map` for an object with any keys, a dict
for an object in which keys that are not named are nobody's business, as the specification wants.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Map:
    """An object with any keys, whose values have one shape."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


_MAPPING = [{"containerID": int, "hostID": int, "size": int}]
_HOOKS = [{"path": str, "args": [str], "env": [str], "timeout": int}]
_HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_USER = {"uid": int, "gid": int, "umask": int, "additionalGids": [int], "username": str}
_RULE = {"allow": bool, "type": str, "major": int, "minor": int, "access": str}
_WEIGHT = [{"major": int, "minor": int, "weight": int, "leafWeight": int}]
_RATE = [{"major": int, "minor": int, "rate": int}]

PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": {"height": int, "width": int},
    "user": _USER,
    "args": [str],
    "env": [str],
    "cwd": str,
    "capabilities": {
        kind: [str] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    },
    "rlimits": [{"type": str, "hard": int, "soft": int}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "oomScoreAdj": int,
    "selinuxLabel": str,
    "scheduler": {
        "policy": str,
        "nice": int,
        "priority": int,
        "flags": [str],
        "runtime": int,
        "deadline": int,
        "period": int,
    },
    "ioPriority": {"class": str, "priority": int},
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
    "hugepageLimits": [{"pageSize": str, "limit": int}],
    "network": {"classID": int, "priorities": [{"name": str, "priority": int}]},
    "rdma": Map({"hcaHandles": int, "hcaObjects": int}),
    "unified": Map(str),
}

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
    "namespaces": [{"type": str, "path": str}],
    "uidMappings": _MAPPING,
    "gidMappings": _MAPPING,
    "timeOffsets": Map({"secs": int, "nanosecs": int}),
    "devices": [
        {
            "type": str,
            "path": str,
            "major": int,
            "minor": int,
            "fileMode": int,
            "uid": int,
            "gid": int,
        }
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
    "personality": {"domain": str, "flags": [str]},
    "memoryPolicy": {"mode": str, "nodes": str, "flags": [str]},
    "intelRdt": {},
}

CONFIG: dict[str, Any] = {
    "ociVersion": str,
    "root": {"path": str, "readonly": bool},
    "mounts": [
        {
            "destination": str,
            "type": str,
            "source": str,
            "options": [str],
            "uidMappings": _MAPPING,
            "gidMappings": _MAPPING,
        }
    ],
    "process": PROCESS,
    "hostname": str,
    "domainname": str,
    "hooks": dict.fromkeys(_HOOK_KINDS, _HOOKS),
    "annotations": Map(str),
    "linux": _LINUX,
}
