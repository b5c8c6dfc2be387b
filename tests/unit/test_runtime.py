# SPDX-License-Identifier: Apache-2.0
"""What `runtime` decides before it acts: sizes, mounts, hidden paths, lookups; and what it must not import."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import cli, demo
from runtime.engine import cgroup, mounts, process
from runtime.engine.spec import ContainerSpec, IdMap, Process
from runtime.oci import privileges

ROOT = Path(__file__).parents[2]
V1 = cgroup.Layout(
    {"cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct", "memory": "/c/memory"}, "/c/unified"
)


def _spec(**changes: object) -> ContainerSpec:
    return ContainerSpec("id", Process(("true",)), "host", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("1.5g", 3 << 29),
        ("2k", 2048),
        ("7b", 7),
    ],
)
def test_parse_size_reads_units(text: str, size: int) -> None:
    """Sizes are Docker's: bytes, or with b, k, m, g, t."""
    assert cli.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "0", "0.5b", "1x", "1 m m", "0x10", "1e3", "9" * 400, "9" * 20 + "t"]
)
def test_parse_size_refuses_nonsense(text: str) -> None:
    """What is no size is refused before anything is made."""
    with pytest.raises(argparse.ArgumentTypeError):
        cli.parse_size(text)


def test_plan_mounts_parents_before_children() -> None:
    """Every mount comes after the one its target lies in; all but /dev are nodev or devpts."""
    planned = mounts.plan(_spec(), V1)
    targets = [mount.target for mount in planned]
    for number, target in enumerate(targets):
        assert all(not other.startswith(target + "/") for other in targets[:number])
    assert targets[-3:] == ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]
    assert [mount.data for mount in planned[-3:]] == ["cpu,cpuacct", "memory", ""]


def test_plan_in_a_user_namespace_asks_for_what_is_allowed() -> None:
    """devpts gets no group that is not mapped; with the host's network /sys is the host's, bound."""
    one = (IdMap(0, 1000, 1),)
    planned = mounts.plan(_spec(uid_map=one, gid_map=one, host_network=True), V1)
    assert "gid=5" not in next(mount.data for mount in planned if mount.kind == "devpts")
    assert planned[-1] == mounts.Mount("/sys", "bind", source="/sys")
    assert "gid=5" in next(mount.data for mount in mounts.plan(_spec(), V1) if mount.kind == "devpts")


def test_plan_on_v2_shows_one_hierarchy() -> None:
    """Without v1 the container's group is mounted on /sys/fs/cgroup itself; without cgroups there is nothing to show."""
    assert mounts.plan(_spec(), cgroup.Layout({}, "/sys/fs/cgroup"))[-1].kind == "cgroup2"
    assert mounts.plan(_spec(), cgroup.Layout({}))[-1].target == "/sys"


def test_open_directory_follows_no_link(tmp_path: Path) -> None:
    """A component that is a link, or .., is refused; what is missing is made."""
    (tmp_path / "link").symlink_to("/etc")
    root = os.open(tmp_path, os.O_PATH)
    try:
        for path in ("link", "link/x", "a/../b"):
            with pytest.raises(OSError):
                mounts.open_directory(root, path)
        os.close(mounts.open_directory(root, "/new/deep/"))
        assert (tmp_path / "new/deep").is_dir()
        with pytest.raises(FileNotFoundError):
            mounts.open_directory(root, "other", create=False)
    finally:
        os.close(root)


def test_candidates_are_execvps() -> None:
    """A name with a slash is taken as it is; an empty PATH element is the current directory."""
    assert process.candidates("a/b", "/bin") == ["a/b"]
    assert process.candidates("x", "/bin::/usr/bin") == ["/bin/x", "./x", "/usr/bin/x"]
    assert process.candidates("", "/bin") == []


def test_default_capabilities_are_dockers() -> None:
    """The mask is the well-known one; without a devices cgroup mknod is not in it."""
    assert privileges.capability_mask() == 0xA80425FB
    assert privileges.capability_mask(without_mknod=True) == 0xA00425FB


def test_demo_tells_new_changed_and_removed(tmp_path: Path) -> None:
    """The demo's summary reads AUFS' marks of the rw branch."""
    base, branch = tmp_path / "base", tmp_path / "rw"
    (base / "etc").mkdir(parents=True)
    (base / "etc/old").touch()
    (branch / "etc").mkdir(parents=True)
    for name in ("etc/old", "etc/new", "etc/.wh.gone", ".wh..wh.aufs"):
        (branch / name).touch()
    found = list(demo._changes(branch, base))
    assert found == [("removed", "/etc/gone"), ("new", "/etc/new"), ("changed", "/etc/old")]


def test_container_processes_carry_no_event_loop() -> None:
    """What is loaded when the container is forked: no trio, no pyfuse3, no threads' pools, no subprocess."""
    code = "import runtime.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {
        "trio",
        "pyfuse3",
        "asyncio",
        "concurrent.futures",
        "subprocess",
        "unionfs.filesystem",
        "unionfs.server",
    }
    assert set(done.stdout.split()) & heavy == set()
