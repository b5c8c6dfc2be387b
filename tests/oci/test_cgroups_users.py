# SPDX-License-Identifier: Apache-2.0
"""Whose a control group is: the container's own root, an ordinary user, nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.oci.cgroups import open_group
from runtime.oci.failure import Failure
from tests.support.groups import OURS, Make, can_group

pytestmark = pytest.mark.skipif(not can_group(), reason="cgroups need root")

ROOT = Path(__file__).parents[2]


def test_owner_gets_what_may_be_handed_over(make_group: Make) -> None:
    """In its own user and cgroup namespaces, with a writable mount, the container's root owns the group but no limit."""
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    path = f"/{OURS}-owner"
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
