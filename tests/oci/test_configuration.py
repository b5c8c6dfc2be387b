# SPDX-License-Identifier: Apache-2.0
"""Every key of a configuration that has them all, taken away or replaced: what is wrong is told in one line that names it.

The mass is looked at as `run --dry-run` does, in this process; some go through the program.
"""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.oci import config, dry_run, schema
from runtime.oci.commands import exec_, spec, update
from runtime.oci.failure import Failure
from runtime.oci.job import Request
from runtime.oci.settings import Settings, is_rootless
from tests.support.oci import Bundle

Key = tuple[str | int, ...]
Mapping = list[dict[str, int]]
MAPPING: Mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
SURPRISE = re.compile(
    r"internal error|Traceback|\.py:\d|Error: "
)  # who reads a message has no use for our source
OTHER_TYPES: tuple[Any, ...] = ("text", 7, 1.5, True, ["text"], [[]], {}, {"text": {}})
EXTREMES: dict[type, tuple[Any, ...]] = {
    str: ("", "x", "/", "..", "/" * 300, "a\nb", "a\0b", "\udc80", "\ud800", "é:=,;#@%", "1" * 300),
    int: (0, -1, -2, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 70), 1e300, 3.0),
    bool: (True, False),
    list: ([],),
    dict: ({},),
}


def full() -> dict[str, Any]:
    """Return a configuration with every key that we read."""
    config = copy.deepcopy(spec.default(rootless=False))
    hook = {"path": "/bin/true", "args": ["true"], "env": ["A=1"], "timeout": 5}
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    config["hooks"] = {kind: [copy.deepcopy(hook)] for kind in kinds}
    config |= {"hostname": "inner", "domainname": "outer", "annotations": {"org.x": "y"}}
    config["root"] |= {"type": "unionfs", "source": "union.sock", "options": ["nodev"]}
    config["process"] |= {
        "terminal": False,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 1, "umask": 18, "additionalGids": [5], "username": "x"},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "priority": 0, "flags": [], "runtime": 0},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0", "final": "0"},
        "oomScoreAdj": 100,
    }
    config["process"]["capabilities"] |= {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    config["process"]["scheduler"] |= {"deadline": 0, "period": 0}
    spaces = ("pid", "network", "ipc", "uts", "mount", "user", "time", "cgroup")
    rule = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    device = {
        "type": "c",
        "path": "/dev/fuse",
        "major": 10,
        "minor": 229,
        "fileMode": 438,
        "uid": 0,
        "gid": 0,
    }
    config["linux"] |= {
        "namespaces": [{"type": kind, "path": ""} for kind in spaces],
        "uidMappings": copy.deepcopy(MAPPING),
        "gidMappings": copy.deepcopy(MAPPING),
        "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 2}},
        "devices": [device],
        "cgroupsPath": "/unionrt-test-configuration",
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "personality": {"domain": "LINUX", "flags": []},
        "memoryPolicy": {"mode": "MPOL_PREFERRED", "nodes": "0", "flags": []},
        "rootfsPropagation": "private",
        "seccomp": seccomp(),
    }
    config["linux"]["netDevices"] = {"dummy0": {"name": "eth0"}}
    config["linux"]["resources"]["devices"] = [rule]
    config["linux"]["resources"] |= limits()
    config["mounts"].insert(0, bind())  # the one that is looked at
    return config


def bind() -> dict[str, Any]:
    """Return a mount that has every key."""
    return {
        "destination": "/mnt",
        "type": "bind",
        "source": "/usr",
        "options": ["rbind", "ro", "nosuid"],
        "uidMappings": copy.deepcopy(MAPPING),
        "gidMappings": copy.deepcopy(MAPPING),
    }


def limits() -> dict[str, Any]:
    """Return limits that v1 and v2 both have."""
    rate = {"major": 8, "minor": 0, "rate": 1 << 20}
    kinds = ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
    return {
        "memory": {"limit": 1 << 28, "reservation": 1 << 27, "swap": 1 << 29, "checkBeforeUpdate": False},
        "cpu": {
            "shares": 512,
            "quota": 50000,
            "period": 100000,
            "burst": 0,
            "idle": 0,
            "cpus": "0",
            "mems": "0",
        },
        "pids": {"limit": 100},
        "blockIO": {f"throttle{kind}Device": [dict(rate)] for kind in kinds}
        | {"weight": 100, "weightDevice": [{"major": 8, "minor": 0, "weight": 100}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
        "rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 4}},
    }


def seccomp() -> dict[str, Any]:
    """Return a profile."""
    argument = {"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [argument]}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listenerPath": "",
        "listenerMetadata": "",
        "syscalls": [rule],
    }


def keys(value: Any, place: Key = ()) -> Iterator[Key]:
    """Yield the way to each value below."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from keys(item, (*place, key))
    elif isinstance(value, list) and value:
        yield from keys(value[0], (*place, 0))  # the others have the same shape


def without(config: dict[str, Any], place: Key) -> dict[str, Any]:
    """Return a copy that lacks one value."""
    return _changed(config, place, lambda parent: parent.pop(place[-1]))


def with_value(config: dict[str, Any], place: Key, value: Any) -> dict[str, Any]:
    """Return a copy with another value."""
    return _changed(config, place, lambda parent: parent.__setitem__(place[-1], value))


def _changed(config: dict[str, Any], place: Key, change: Callable[[Any], object]) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(config)
    parent: Any = result
    for key in place[:-1]:
        parent = parent[key]
    change(parent)
    return result


def at(config: Any, place: Key) -> Any:
    """Return the value at a place."""
    for key in place:
        config = config[key]
    return config


def name(place: Key) -> str:
    """Return a place as messages name it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)[1:]


@pytest.fixture
def judge(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Give a function that returns what `run --dry-run` says against a configuration, "" if nothing.

    Anything but a Failure is an internal error and fails the test.
    """
    settings = Settings(str(tmp_path), rootless=is_rootless())
    path = tmp_path / "config.json"
    (tmp_path / "rootfs").mkdir()

    def said(config: dict[str, Any]) -> str:
        path.write_text(json.dumps(config))
        try:
            dry_run.steps(settings, Request("test", str(tmp_path), str(path)))
        except Failure as failure:
            assert failure.status == 1
            return failure.line()
        return ""

    return said


def test_the_full_configuration_is_fine(judge: Callable[[dict[str, Any]], str]) -> None:
    """Else the other tests would see the wrong mistakes."""
    assert judge(full()) == ""


def test_values_of_a_wrong_type_are_named(judge: Callable[[dict[str, Any]], str]) -> None:
    """Text for numbers, numbers for lists, lists for objects and so on, for each key."""
    config = full()
    for place in keys(config):
        kind = type(at(config, place))
        for value in OTHER_TYPES:
            if type(value) is kind:
                continue
            said = judge(with_value(config, place, value))
            assert name(place) in said, (place, value, said)


def test_missing_and_null_keys_are_named_or_not_needed(judge: Callable[[dict[str, Any]], str]) -> None:
    """A key that is missing is told by its name, whether it is not there or null."""
    config = full()
    needed = set()
    for place in keys(config):
        said = judge(without(config, place))
        if isinstance(place[-1], str):
            assert judge(with_value(config, place, None)) == said
        if said:
            needed.add((*(key for key in place if isinstance(key, str)),))
            words = ("needs a",) if place in (("linux",), ("linux", "namespaces")) else (str(place[-1]),)
            assert isinstance(place[-1], int) or any(word in said for word in words), (place, said)
    assert {
        ("ociVersion",),
        ("root", "path"),
        ("process", "args"),
        ("process", "rlimits", "hard"),
        ("process", "consoleSize", "width"),
        ("linux", "devices", "type"),
        ("linux", "uidMappings", "size"),
        ("linux", "seccomp", "syscalls", "names"),
        ("linux", "resources", "devices", "allow"),
        ("linux", "resources", "blockIO", "throttleReadBpsDevice", "rate"),
        ("linux", "resources", "hugepageLimits", "pageSize"),
        ("mounts", "destination"),
        ("hooks", "poststop", "path"),
    } <= needed


def test_extreme_values_are_judged(judge: Callable[[dict[str, Any]], str]) -> None:
    """The empty, the huge, the negative, what is no text: right or wrong, but never a surprise."""
    config = full()
    for place in keys(config):
        for value in EXTREMES.get(type(at(config, place)), ()):
            judge(with_value(config, place, value))


def _numbers(wanted: Any, place: Key = ()) -> Iterator[tuple[Key, schema.Number | None]]:
    """Yield the way to each named key of a schema, and its limits if it is a number that has some."""
    if isinstance(wanted, list):
        yield from _numbers(wanted[0], (*place, 0))
    elif isinstance(wanted, dict | schema.Whole):
        for key, below in (wanted.keys if isinstance(wanted, schema.Whole) else wanted).items():
            yield (*place, key), below if isinstance(below, schema.Number) else None
            yield from _numbers(below, (*place, key))


def test_the_full_configuration_has_the_keys_of_the_shape() -> None:
    """What the schema knows is tested here, but what is ignored, or what a machine may lack."""
    apart = {"apparmorProfile", "selinuxLabel", "mountLabel", "intelRdt", "network", "unified"}
    apart |= {"defaultErrnoRet"}  # goes with another action
    ignored = {"kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy", "leafWeight"}
    real_time = {"realtimeRuntime", "realtimePeriod"}
    left = {place for place, _ in _numbers(schema.CONFIG)} - set(keys(full()))
    assert {place for place in left if not set(place) & (apart | ignored | real_time)} == set()


def test_numbers_just_outside_their_limits_are_named(judge: Callable[[dict[str, Any]], str]) -> None:
    """Every number that the schema bounds is refused by name one below and one above."""
    config = full()
    there = set(keys(config))
    for place, number in _numbers(schema.CONFIG):
        if number is not None and place in there:
            for value in (number.least - 1, number.most + 1):
                assert name(place) in judge(with_value(config, place, value)), (place, value)


MANY: list[tuple[Key, Any, str]] = [
    (("process", "oomScoreAdj"), 5000, "process.oomScoreAdj"),
    (("process", "oomScoreAdj"), -1001, "process.oomScoreAdj"),
    (("process", "user", "additionalGids"), list(range(65537)), "process.user.additionalGids"),
    (("process", "user", "additionalGids"), [1 << 31], "process.user.additionalGids"),
    (("process", "user", "uid"), 1 << 31, "process.user"),
    (("linux", "uidMappings"), [{"containerID": 1, "hostID": 0, "size": 5}], "linux.uidMappings"),
    (("hooks",), {"createRuntime": [{"path": "/bin/true", "args": [""]}]}, "hooks.createRuntime[0].args"),
]


@pytest.mark.parametrize(("place", "value", "key"), MANY)
def test_values_that_only_the_kernel_refuses_are_named(
    bundle: Bundle, place: Key, value: Any, key: str
) -> None:
    """What is found out when the container is made is told by the key, as what is found out before."""
    bundle.linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.process["user"] = {"uid": 0, "gid": 0}
    bundle.config = with_value(bundle.config, place, value)
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert key in result.stderr
    assert not SURPRISE.search(result.stderr), result.stderr


def test_extreme_values_leave_nothing(bundle: Bundle) -> None:
    """Through the program, with what only the kernel can judge: one line, status 1 or a container, and nothing stays."""
    config = full()
    del config["linux"]["netDevices"]
    del config["mounts"][0]
    del config["root"]["type"]  # nobody serves it here
    config["linux"]["resources"] = {"pids": {"limit": 100}}
    config["linux"]["cgroupsPath"] = bundle.linux["cgroupsPath"]
    for key in ("uidMappings", "gidMappings"):
        config["linux"][key] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    config["process"] |= {"args": ["true"], "user": {"uid": 0, "gid": 0}}
    bundle.config = config
    bundle.create()
    bundle.delete("--force")
    chance = random.Random(1)
    cases = [(place, value) for place in keys(config) for value in EXTREMES.get(type(at(config, place)), ())]
    for place, value in chance.sample(cases, 40):
        bundle.config = with_value(config, place, value)
        bundle.linux["cgroupsPath"] = config["linux"]["cgroupsPath"]
        result = bundle.create(check=False)
        assert result.returncode in (0, 1), (place, value, result.stderr)
        assert not SURPRISE.search(result.stderr), (place, value, result.stderr)
        if result.returncode:
            assert not list(bundle.state.glob("[!.]*")), (place, value)
        bundle.delete("--force")
        assert bundle.leftovers() == [], (place, value)


def test_failure_names_the_file_that_was_given(tmp_path: Path) -> None:
    """A configuration, a process and resources are called as on the command line, not config.json."""
    bad = tmp_path / "bad.json"
    reads: list[tuple[Callable[[str], Any], Any, str]] = [
        (config.load, {"ociVersion": 7}, "bad.json: ociVersion is not a string"),
        (config.load, {"ociVersion": "1.0"}, "bad.json: root.path is missing"),
        (exec_._read_process, {"args": "x"}, "bad.json: process.args is not a list"),
        (update._read, {"memory": 7}, "bad.json: linux.resources.memory is not an object"),
    ]
    for read, content, told in reads:
        bad.write_text(json.dumps(content))
        with pytest.raises(Failure) as caught:
            read(str(bad))
        assert caught.value.line() == told
