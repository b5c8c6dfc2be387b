# SPDX-License-Identifier: Apache-2.0
"""Devices that a control group's processes may open or make, by v1's files or v2's program."""

import os
import stat
from pathlib import Path

import pytest

from runtime.oci.cgroups import Group
from tests.support.groups import MIB, Make, can_group, run, running

pytestmark = pytest.mark.skipif(not can_group(), reason="cgroups need root")


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
