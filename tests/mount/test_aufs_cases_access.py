# SPDX-License-Identifier: Apache-2.0
"""AUFS' acceptance cases 48–50: a kill in mid copy-up, permissions of merged directories, link counts."""

import os
import subprocess
from pathlib import Path

from tests.support import syscalls, tree
from tests.support.tree import Dir, File
from tests.support.union import Workshop, eventually, unionfs

STRANGER = 12345


def _list_as_stranger(path: Path) -> bool:
    """Tell whether an unprivileged user can list the directory."""
    done = subprocess.run(["ls", path], user=STRANGER, group=STRANGER, extra_groups=[], capture_output=True)
    return done.returncode == 0


def test_kill_in_mid_copy_up_leaves_the_lower_file(union: Workshop) -> None:
    """Case 48: after kill -9 the file is the intact lower one; a stage is invisible and swept by the next mount."""
    content = os.urandom(1 << 20) * 256
    other = union.filesystem("B0", data="mode=755,size=2g")
    u = union.prepare("", "", {"B0": other, "B1": {"f": content, "g": "g"}})
    u.start()
    writer = subprocess.Popen(["sh", "-c", f"echo x >> {u / 'f'}"], stderr=subprocess.DEVNULL)
    free = os.statvfs(other).f_bfree
    eventually(lambda: os.statvfs(other).f_bfree < free - 256, "the copy to begin")
    u.kill()
    writer.wait()
    names = tree.names(u.branch(0))
    finished = "f" in names
    assert names <= {"f"} or all(name.startswith(".wh..wh.") for name in names - {"f"})
    u.start()
    expected = content + b"x\n"
    shown = (u / "f").read_bytes()
    assert shown in ((content, expected) if finished else (content,))
    assert sorted(os.listdir(u.mnt)) == ["f", "g"]
    assert tree.names(u.branch(0)) <= {"f"}
    u.stop()
    assert unionfs("check", u.branch(0)).returncode == 0


def test_list_directory_with_nodirperm1_asks_every_copy(union: Workshop) -> None:
    """Case 49: with nodirperm1, given explicitly, the lower copy's mode still counts."""
    u = union.mount("nodirperm1", B0={}, B1={"d": Dir(0o700), "d/f": "f"})
    (u / "d").chmod(0o755)
    assert not _list_as_stranger(u / "d")


def test_list_directory_with_dirperm1_asks_the_top_copy(union: Workshop) -> None:
    """Case 49: dirperm1, which is our default, asks only the top copy."""
    u = union.mount(B0={}, B1={"d": Dir(0o700), "d/f": "f"})
    assert not _list_as_stranger(u / "d")
    (u / "d").chmod(0o755)
    assert _list_as_stranger(u / "d")


def test_directory_nlink_is_never_too_small(union: Workshop) -> None:
    """Case 50: 2 + the subdirectories of every branch; find(1) walks it without warnings."""
    u = union.mount(B0={"d/s1": Dir()}, B1={"d/s2": Dir(), "d/s3": Dir()})
    assert (u / "d").stat().st_nlink == 5
    done = subprocess.run(["find", u.mnt, "-type", "d"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 5


def test_branch_below_a_mount_is_seen_uncovered(union: Workshop) -> None:
    """What is mounted inside a branch is not followed: the covered directory is seen."""
    branch = union.directory("B1", {"sub/covered": "x"})
    syscalls.mount("none", str(branch / "sub"), "tmpfs", 0)
    try:
        u = union.mount(changing="B1", B0={}, B1=branch)
        assert os.listdir(u / "sub") == ["covered"]
    finally:
        syscalls.umount2(str(branch / "sub"), syscalls.MNT_DETACH)


def test_write_by_setuid_rule_clears_the_bit(union: Workshop) -> None:
    """A write by a non-owner to a set-id file of the lower branch clears the bit on the copy."""
    u = union.mount(B0={}, B1={"f": File("f", 0o6777, (1, 2))})
    command = ["sh", "-c", f"echo x >> {u / 'f'}"]
    subprocess.run(command, user=STRANGER, group=STRANGER, extra_groups=[], check=True)
    status = (u / "f").stat()
    assert status.st_mode & 0o7777 == 0o777
    assert (status.st_uid, status.st_gid) == (1, 2)
