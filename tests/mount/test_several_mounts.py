# SPDX-License-Identifier: Apache-2.0
"""Several unions served by one process, through the Python interface."""

import os
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support import syscalls
from tests.support.union import eventually, is_mounted, unionfs
from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.server.mount import MountPlan, mount_in_background, wait_for_end

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")


def _plan(root: Path, name: str, session: str = "direct") -> MountPlan:
    for kind in ("rw", "ro", "mnt"):
        (root / f"{name}-{kind}").mkdir()
    (root / f"{name}-ro/from").write_text(name)
    branches = (Branch(str(root / f"{name}-rw"), "rw"), Branch(str(root / f"{name}-ro")))
    return MountPlan(
        branches, str(root / f"{name}-mnt"), flags=frozenset(("allow_other",)), fsname=name, session=session
    )


def test_three_unions_of_one_server_go_one_by_one(tmp_path: Path) -> None:
    """Each has its own branches and commands; umount ends one and leaves the others; the last one ends the server."""
    names = ["one", "two", "three"]
    pid = mount_in_background(*(_plan(tmp_path, name) for name in names))
    for name in names:
        mnt = tmp_path / f"{name}-mnt"
        assert (mnt / "from").read_text() == name
        (mnt / "new").write_text(name)
        assert (tmp_path / f"{name}-rw/new").read_text() == name
        assert f"{name}-rw=rw" in unionfs("branch", "list", mnt).stdout
        assert Path(f"/proc/{pid}").exists()
        assert str(pid) in unionfs("status", mnt).stdout
    while names:
        name = names.pop()
        unionfs("umount", tmp_path / f"{name}-mnt")
        assert not is_mounted(tmp_path / f"{name}-mnt")
        assert _holds(pid, tmp_path / f"{name}-rw") == []
        for other in names:
            assert (tmp_path / f"{other}-mnt/from").read_text() == other
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the server")


def _holds(pid: int, branch: Path) -> list[str]:
    """Return what the server has open of a branch; nothing if it has ended."""
    found = []
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            found += [link] if link.startswith(str(branch)) else []
    except FileNotFoundError:
        pass
    return found


def test_signal_unmounts_every_union_of_a_server(tmp_path: Path) -> None:
    """SIGTERM to the one process leaves nothing mounted."""
    pid = mount_in_background(*(_plan(tmp_path, name) for name in ("one", "two")))
    os.kill(pid, 15)
    wait_for_end(pid)
    for name in ("one", "two"):
        assert not is_mounted(tmp_path / f"{name}-mnt")


def test_union_that_cannot_be_mounted_takes_the_others_along(tmp_path: Path) -> None:
    """All or none: nothing stays mounted, and the message names what is wrong."""
    plans = [_plan(tmp_path, name) for name in ("one", "two")]
    (tmp_path / "two-ro/from").unlink()
    (tmp_path / "two-ro").rmdir()
    with pytest.raises(UserError, match="two-ro"):
        mount_in_background(*plans)
    assert not is_mounted(tmp_path / "one-mnt")


def test_mount_point_inside_another_one_of_the_server_is_refused(tmp_path: Path) -> None:
    """The server would wait for itself."""
    outer, inner = (_plan(tmp_path, name) for name in ("outer", "inner"))
    place = tmp_path / "outer-mnt/inner"
    place.mkdir()
    with pytest.raises(UserError, match="inside another"):
        mount_in_background(outer, MountPlan(inner.branches, str(place), flags=inner.flags, session="direct"))


def test_pyfuse3_serves_one_union_only(tmp_path: Path) -> None:
    """That library has one session in a process."""
    with pytest.raises(UserError, match="pyfuse3 session serves one mount"):
        mount_in_background(*(_plan(tmp_path, name, "pyfuse3") for name in ("one", "two")))
    for name in ("one", "two"):
        mnt = tmp_path / f"{name}-mnt"
        if is_mounted(mnt):
            syscalls.umount2(str(mnt), syscalls.MNT_DETACH)
            raise AssertionError(f"{mnt} is left")
