# SPDX-License-Identifier: Apache-2.0
"""A writable branch belongs to one live union: taken at the mount, given back at the end, dead with its holder."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support import syscalls
from tests.support.place import Place, refused
from tests.support.union import Workshop, eventually, is_mounted, program, unionfs
from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.server.mount import MountPlan, mount_in_background, wait_for_end

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")


@pytest.fixture
def second(place: Place) -> Iterator[Path]:
    """Give a second mount point beside a mounted union, which is unmounted at the end as the first one is."""
    unionfs("mount", "-o", place.options, place.mnt)
    target = place.root / "second"
    target.mkdir()
    try:
        yield target
    finally:
        for path in (target, place.mnt):
            if is_mounted(path):
                unionfs("umount", path)


def _pid(mountpoint: Path) -> int:
    return int(json.loads(unionfs("status", "--json", mountpoint).stdout)["pid"])


def test_mount_of_a_branch_in_use_is_refused_and_names_the_union(place: Place, second: Path) -> None:
    """The branch is as it was: what the living union has on its way is not swept away."""
    stage = place.rw / ".wh..wh.orph/.wh..wh.copy.0001"
    stage.touch()
    done = unionfs("mount", "-o", place.options, second, check=False)
    refused(
        done,
        f"branch {place.rw}: it is a writable branch of the union at {place.mnt} (pid {_pid(place.mnt)})",
    )
    assert "share_rw" in done.stderr
    assert not is_mounted(second) and stage.exists()
    unionfs("umount", place.mnt)
    unionfs("mount", "-o", place.options, second)
    assert not stage.exists()


@pytest.mark.parametrize("form", ["aufs", "overlay"])
def test_overlay_program_is_refused_a_directory_in_use(place: Place, second: Path, form: str) -> None:
    """Whatever the form and the program: overlayfs warns of an upperdir in use, here it is a refusal."""
    argv = program("unionfs-overlay", "unionfs.cli.overlay")
    options = f"lowerdir={place.ro},upperdir={place.rw},workdir={place.root}"
    more = {"FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT": "1"} if form == "aufs" else {}
    done = subprocess.run(
        [*argv, "-o", options, str(second)], env=os.environ | more, capture_output=True, text=True
    )
    refused(done, f"the union at {place.mnt}")
    subprocess.run([*argv, "-o", options + ",share_rw", str(second)], env=os.environ | more, check=True)
    assert is_mounted(second)


def test_shared_branch_is_taken_and_the_others_work_left_alone(place: Place, second: Path) -> None:
    """share_rw: stages and pseudo-links of the other union stay its own."""
    (place.ro / "a").write_text("low\n")
    os.link(place.ro / "a", place.ro / "b")
    (place.mnt / "a").write_text("new\n")
    stage = place.rw / ".wh..wh.orph/.wh..wh.copy.0001"
    stage.touch()
    links = set((place.rw / ".wh..wh.plnk").iterdir())
    unionfs("mount", "-o", place.options + ",share_rw", second)
    assert "share_rw" in unionfs("status", second).stdout
    (second / "other").write_text("x\n")
    assert (place.rw / "other").exists() and stage.exists()
    unionfs("umount", second)
    assert links and set((place.rw / ".wh..wh.plnk").iterdir()) == links and stage.exists()
    unionfs("umount", place.mnt)
    assert (place.rw / "b").read_text() == "new\n"


def test_shared_branches_keep_out_those_that_do_not_share(place: Place, second: Path) -> None:
    """Two unions that share hold the lock together; it is free when both have gone."""
    unionfs("umount", place.mnt)
    third = place.root / "third"
    third.mkdir()
    for target in (place.mnt, second):
        unionfs("mount", "-o", place.options + ",share_rw", target)
    unionfs("umount", place.mnt)
    refused(unionfs("mount", "-o", place.options, third, check=False), f"the union at {second}")
    unionfs("umount", second)
    unionfs("mount", "-o", place.options, third)
    unionfs("umount", third)


def test_shared_branch_stays_locked_when_the_first_union_goes(place: Place, second: Path) -> None:
    """Who shares a branch with a union that does not keeps it from a third one, also when that has gone."""
    third = place.root / "third"
    third.mkdir()
    unionfs("mount", "-o", place.options + ",share_rw", second)
    unionfs("umount", place.mnt)
    eventually(lambda: _lock_is_free(place, _pid(second)), "the lock of the one that stays")
    stage = place.rw / ".wh..wh.orph/.wh..wh.copy.0001"
    stage.touch()
    refused(unionfs("mount", "-o", place.options, third, check=False), f"the union at {second}")
    assert stage.exists()
    unionfs("umount", second)
    unionfs("mount", "-o", place.options, third)
    unionfs("umount", third)


def test_branch_of_another_union_may_be_a_lower_one(place: Place, second: Path) -> None:
    """As in AUFS: what the other union writes there is a direct change."""
    top = place.root / "top"
    top.mkdir()
    unionfs("mount", "-o", f"br:{top}=rw:{place.rw}=ro+wh:{place.ro}=ro", second)
    (place.mnt / "new").write_text("x\n")
    assert (second / "new").read_text() == "x\n"


def test_branch_inside_another_unions_branch_is_warned_of(place: Place, second: Path) -> None:
    """As overlayfs does; a branch around another union's is not noticed, there as here."""
    inner = place.rw / "inner"
    inner.mkdir()
    done = unionfs("mount", "-o", f"br:{inner}=rw:{place.ro}=ro", second)
    assert f"{inner}: lies inside a writable branch of the union at {place.mnt}" in done.stderr
    assert done.stderr.count("\n") == 1
    unionfs("umount", second)
    outer = unionfs("mount", "-o", f"br:{place.root}/rw/..=rw", place.root / "second", check=False)
    assert "lies inside" not in outer.stderr


def test_mount_waits_for_a_union_that_was_unmounted(place: Place, second: Path) -> None:
    """After umount(8) the server flushes; the next mount of the branch comes when it has ended, however long that takes."""
    (place.ro / "a").write_text("low\n")
    for name in ("b", "c"):
        os.link(place.ro / "a", place.ro / name)
    (place.mnt / "a").write_text("new\n")
    pid = _pid(place.mnt)
    os.kill(pid, signal.SIGSTOP)
    syscalls.umount2(str(place.mnt))
    argv = [*program(), "mount", "-o", place.options, str(second)]
    waiting = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        assert waiting.stderr is not None
        line = waiting.stderr.readline()
        assert f"waiting for the union at {place.mnt} (pid {pid}), which still has it" in line
        assert not is_mounted(second) and waiting.poll() is None
    finally:
        os.kill(pid, signal.SIGCONT)
    assert waiting.wait(60) == 0
    waiting.stderr.close()
    assert not Path(f"/proc/{pid}").exists() or _lock_is_free(place, held_by=_pid(second))
    for name in ("a", "b", "c"):
        assert (second / name).read_text() == "new\n"
    (second / "a").write_text("newer\n")
    assert (second / "b").read_text() == "newer\n"


def _lock_is_free(place: Place, held_by: int) -> bool:
    """Tell whether exactly one process has the branch locked."""
    inode = os.stat(place.rw).st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(words[4]) for words in lines if words[5].endswith(f":{inode}")] == [held_by]


def test_lock_dies_with_the_server(union: Workshop) -> None:
    """kill -9 and a new mount at once, again and again."""
    u = union.mount("br:{B0}=rw:{B1}=ro+wh", B0={}, B1={"f": "x"})
    for _ in range(3):
        (u / "f").write_text("y")
        u.kill()
        u.start()
        assert (u / "f").read_text() == "y"


def test_branches_are_locked_and_unlocked_while_mounted(place: Place, second: Path) -> None:
    """append, mod and del take and drop the lock; a refused one leaves the list as it was."""
    top = place.root / "top"
    top.mkdir()
    unionfs("mount", "-o", f"br:{top}=rw:{place.ro}=ro", second)
    listed = unionfs("branch", "list", second).stdout
    refused(unionfs("branch", "append", second, f"{place.rw}=rw", check=False), f"the union at {place.mnt}")
    refused(unionfs("branch", "prepend", second, str(place.rw), check=False), f"the union at {place.mnt}")
    assert unionfs("branch", "list", second).stdout == listed
    unionfs("branch", "append", second, f"{place.rw}=ro")
    refused(unionfs("branch", "mod", second, f"{place.rw}=rw", check=False), f"the union at {place.mnt}")
    unionfs("branch", "mod", place.mnt, f"{place.rw}=ro")
    unionfs("branch", "mod", second, f"{place.rw}=rw")
    refused(unionfs("branch", "mod", place.mnt, f"{place.rw}=rw", check=False), f"the union at {second}")
    unionfs("branch", "del", second, place.rw)
    unionfs("branch", "mod", place.mnt, f"{place.rw}=rw")
    unionfs("remount", "-o", "create=rr,sum", place.mnt)
    unionfs("remount", place.mnt)
    refused(unionfs("branch", "append", second, f"{place.rw}=rw", check=False), f"the union at {place.mnt}")
    unionfs("remount", "-o", "share_rw", second)
    unionfs("branch", "append", second, f"{place.rw}=rw")


def test_unions_of_one_server_do_not_share_a_branch(tmp_path: Path) -> None:
    """Nothing stays mounted, and each alone is served."""
    for name in ("rw", "ro", "one", "two"):
        (tmp_path / name).mkdir()
    branches = (Branch(str(tmp_path / "rw"), "rw"), Branch(str(tmp_path / "ro")))
    plans = [MountPlan(branches, str(tmp_path / name), session="direct") for name in ("one", "two")]
    with pytest.raises(UserError, match="it is a writable branch of another union"):
        mount_in_background(*plans)
    assert not is_mounted(tmp_path / "one")
    for plan in plans:
        pid = mount_in_background(plan)
        unionfs("umount", plan.target)
        wait_for_end(pid)


def test_unmounted_union_of_a_living_server_gives_its_branch_back(tmp_path: Path) -> None:
    """The other union of the server lives on."""
    plans = []
    for name in ("one", "two"):
        for kind in ("rw", "mnt"):
            (tmp_path / f"{name}-{kind}").mkdir()
        plans.append(
            MountPlan(
                (Branch(str(tmp_path / f"{name}-rw"), "rw"),), str(tmp_path / f"{name}-mnt"), session="direct"
            )
        )
    pid = mount_in_background(*plans)
    syscalls.umount2(plans[0].target)
    again = mount_in_background(plans[0])
    assert os.path.exists(f"/proc/{pid}") and is_mounted(tmp_path / "two-mnt")
    for plan, server in ((plans[0], again), (plans[1], pid)):
        unionfs("umount", plan.target)
        wait_for_end(server)


def test_lock_of_somebody_who_may_only_read_does_not_count(union: Workshop) -> None:
    """Else any user could keep root from mounting."""
    u = union.prepare("br:{B0}=rw", "", {"B0": {}})
    u.allowed_log.append("locked by somebody who may not write there")
    script = (
        "import fcntl, os, sys; os.setresuid(65534, 65534, 65534)\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX); print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(u.branch(0))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stranger:
        assert stranger.stdout is not None and stranger.stdout.readline() == "locked\n"
        u.start()
        u.stop()
    assert "locked by somebody" in u.log.read_text()


def test_lock_of_a_process_that_may_write_counts(place: Place) -> None:
    """It may be a union of which nothing is known here."""
    fd = os.open(place.rw, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = unionfs("mount", "-o", place.options, place.mnt, check=False)
        assert done.returncode == 1 and not is_mounted(place.mnt)
        assert f"another union or container (pid {os.getpid()})" in done.stderr
    finally:
        os.close(fd)


def test_check_repairs_no_branch_that_is_written_to(place: Place, second: Path) -> None:
    """Nor a directory inside one; a union that is known by its lock alone counts too."""
    inner = place.rw / "inner"
    inner.mkdir()
    for directory in (place.rw, inner):
        (directory / "a").touch()
        (directory / ".wh.a").touch()
    for directory in (place.rw, inner):
        refused(unionfs("check", "-r", directory, check=False), "unmount it first")
        assert (directory / ".wh.a").exists()
    unionfs("umount", place.mnt)
    fd = os.open(place.rw, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    refused(unionfs("check", "-r", place.rw, check=False), "another union or container")
    os.close(fd)
    unionfs("check", "-r", place.rw)
    assert not (place.rw / ".wh.a").exists()


@pytest.mark.parametrize("options", ["udba=none", "whiteout=overlay,udba=notify", "share_rw"])
def test_listing_of_a_directory_with_an_old_stage_removes_it(union: Workshop, options: str) -> None:
    """A stage that a killed server left beside users' entries goes; the directory's time stays; a shared branch is left alone."""
    stages = {"d/.wh..wh.f.00a1": "staged", "d/.wh..wh.s.00a2/deep/x": "staged", "d/.wh.odd": "", "d/e": "e"}
    u = union.mount(f"{options},br:{{B0}}=rw:{{B1}}=ro", B0=stages, B1={"d/low": "low"})
    before = os.stat(u.branch(0) / "d").st_mtime_ns
    assert sorted(os.listdir(u / "d")) == ["e", "low"]
    kept = [] if options != "share_rw" else [".wh..wh.f.00a1", ".wh..wh.s.00a2"]
    assert sorted(os.listdir(u.branch(0) / "d")) == [*kept, ".wh.odd", "e"]
    assert os.stat(u.branch(0) / "d").st_mtime_ns == before == os.stat(u / "d").st_mtime_ns


def test_listing_of_a_directory_with_a_young_stage_leaves_it(union: Workshop) -> None:
    """What appeared since the mount is not a killed server's: a union inside the branch may be at work with it."""
    u = union.mount("whiteout=overlay,udba=reval", B0={"d/e": "e"}, B1={"d/low": "low"})
    (u.branch(0) / "d/.wh..wh.f.00a1").touch()
    assert sorted(os.listdir(u / "d")) == ["e", "low"]
    assert sorted(os.listdir(u.branch(0) / "d")) == [".wh..wh.f.00a1", "e"]
