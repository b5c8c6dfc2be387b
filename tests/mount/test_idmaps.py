# SPDX-License-Identifier: Apache-2.0
"""uidmapping= and gidmapping= of unionfs-overlay: branches have other ids than the union."""

import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import Dir, File, Tree
from tests.support.union import Workshop, program

SHIFT = "0:100000:65536"  # what a container's root is on branches, and who it is outside
KEEP_ID = ":0:1:1000:1000:0:1:1001:1001:64536"  # as podman writes --userns=keep-id
CONTENT: Tree = {
    "root": File("r"),
    "user": File("u", owner=(1000, 1000)),
    "far": File("f", owner=(70000, 70000)),
    "d": Dir(mode=0o777),
    "mixed": File("m", owner=(3, 1000)),
}


class Mapped:
    def __init__(self, root: Path, session: str) -> None:
        self.mnt, self.top, self.low = root / "mnt", root / "top", root / "low"
        self.session = session
        for path in (self.mnt, self.top, root / "work"):
            path.mkdir()
        self.options = f"lowerdir={self.low},upperdir={self.top},workdir={root / 'work'}"

    def mount(self, words: str) -> None:
        command = [
            *program("unionfs-overlay", "unionfs.cli.overlay"),
            "-o",
            f"{self.options},{words}",
            str(self.mnt),
        ]
        subprocess.run(command, check=True, timeout=60, env={**os.environ, "UNIONFS_SESSION": self.session})

    def owner(self, name: str) -> tuple[int, int]:
        status = (self.mnt / name).lstat()
        return status.st_uid, status.st_gid

    def kept(self, name: str) -> tuple[int, int]:
        status = (self.top / name).lstat()
        return status.st_uid, status.st_gid


@pytest.fixture
def mapped(union: Workshop) -> Iterator[Mapped]:
    union.directory("low", CONTENT)
    place = Mapped(union.root, union.session)
    try:
        yield place
    finally:
        subprocess.run(["umount", place.mnt], check=True)


def as_user(uid: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *map(str, command)]
    return subprocess.run(argv, capture_output=True, text=True)


def test_owners_show_as_the_maps_say(mapped: Mapped) -> None:
    """Every id is translated; one without a place is the overflow id. Listings and open files tell the same."""
    mapped.mount(f"uidmapping={SHIFT},gidmapping={SHIFT}")
    expected = {"root": 100000, "user": 101000, "far": 65534, "d": 100000}
    assert {name: mapped.owner(name) for name in expected} == {
        name: (uid, uid) for name, uid in expected.items()
    }
    assert mapped.owner("mixed") == (100003, 101000)
    assert {entry.name: entry.stat().st_uid for entry in os.scandir(mapped.mnt)} == expected | {
        "mixed": 100003
    }
    with (mapped.mnt / "user").open() as file:
        assert os.fstat(file.fileno()).st_uid == 101000


def test_owners_show_as_podman_keeps_ids(mapped: Mapped) -> None:
    """Several ranges with podman's leading colon."""
    mapped.mount(f"uidmapping={KEEP_ID},gidmapping={KEEP_ID}")
    assert mapped.owner("root") == (1, 1)
    assert mapped.owner("user") == (0, 0)
    (mapped.mnt / "new").touch()
    assert mapped.kept("new") == (1000, 1000)


def test_new_files_get_the_branches_ids(mapped: Mapped) -> None:
    """What a user of the union makes belongs to that user, and on the branch to the one that the map names."""
    mapped.mount(f"uidmapping={SHIFT},gidmapping={SHIFT}")
    for command, name in (("touch", "d/f"), ("mkdir", "d/dir"), ("mkfifo", "d/fifo")):
        done = as_user(100042, command, mapped.mnt / name)
        assert done.returncode == 0, done.stderr
        assert (mapped.owner(name), mapped.kept(name)) == ((100042, 100042), (42, 42))


def test_new_files_of_users_without_an_id_belong_to_the_overflow_id(mapped: Mapped) -> None:
    """As in fuse-overlayfs: podman makes /etc/mtab as a user whom --userns=auto leaves out, then gives it to the right one."""
    mapped.mount(f"uidmapping={SHIFT},gidmapping={SHIFT}")
    made = mapped.mnt / "d/made"
    commands: list[list[str | Path]] = [
        ["cp", "/dev/null", made],
        ["mkdir", made],
        ["ln", "-s", "to", made],
        ["mkfifo", made],
    ]
    for command in commands:
        done = as_user(5, *command)
        assert done.returncode == 0, done.stderr
        assert (mapped.owner("d/made"), mapped.kept("d/made")) == ((165534, 165534), (65534, 65534))
        os.chown(made, 100000, 100000, follow_symlinks=False)
        assert mapped.kept("d/made") == (0, 0)
        if made.is_dir():
            made.rmdir()
        else:
            made.unlink()


def test_chown_translates_and_copies_keep_ids(mapped: Mapped) -> None:
    """chown takes ids of the union; a copy-up keeps the branch's."""
    mapped.mount(f"uidmapping={SHIFT},gidmapping={SHIFT}")
    os.chown(mapped.mnt / "root", 100007, -1)
    assert (mapped.owner("root"), mapped.kept("root")) == ((100007, 100000), (7, 0))
    (mapped.mnt / "user").write_text("changed")
    (mapped.mnt / "far").write_text("changed")
    assert (mapped.kept("user"), mapped.kept("far")) == ((1000, 1000), (70000, 70000))
    with pytest.raises(OSError) as caught:
        os.chown(mapped.mnt / "user", 5, 5)
    assert caught.value.errno == errno.EOVERFLOW


def test_acls_are_translated(mapped: Mapped) -> None:
    """Named users and groups of an ACL are those of the union; on the branch they are the branch's."""
    mapped.mount(f"uidmapping={SHIFT},gidmapping={SHIFT}")

    def acl(user: int, group: int) -> bytes:
        none = 0xFFFFFFFF
        entries = ((1, 6, none), (2, 4, user), (4, 4, none), (8, 4, group), (16, 4, none), (32, 0, none))
        return struct.pack("=I", 2) + b"".join(struct.pack("=HHI", *entry) for entry in entries)

    name = "system.posix_acl_access"
    os.setxattr(mapped.mnt / "user", name, acl(100001, 100002))
    assert os.getxattr(mapped.mnt / "user", name) == acl(100001, 100002)
    assert os.getxattr(mapped.top / "user", name) == acl(1, 2)


def test_one_map_alone_leaves_the_other_ids(mapped: Mapped) -> None:
    """Without gidmapping groups are the same on both sides."""
    mapped.mount(f"uidmapping={SHIFT}")
    assert mapped.owner("user") == (101000, 1000)


def test_squashed_owners_show_as_one(mapped: Mapped) -> None:
    """Every file looks the one id's, in stat, listings and open files; what is made or given keeps its own on the branch."""
    mapped.mount("squash_to_uid=100042,squash_to_gid=100043")
    for name in ("root", "user", "far", "mixed", "d"):
        assert mapped.owner(name) == (100042, 100043)
    assert {entry.stat().st_uid for entry in os.scandir(mapped.mnt)} == {100042}
    with (mapped.mnt / "user").open() as file:
        assert os.fstat(file.fileno()).st_gid == 100043
    done = as_user(100042, "touch", mapped.mnt / "d/made", mapped.mnt / "root")
    assert done.returncode == 0, done.stderr
    assert (mapped.owner("d/made"), mapped.kept("d/made")) == ((100042, 100043), (100042, 100042))
    (mapped.mnt / "user").write_text("changed")
    assert mapped.kept("user") == (1000, 1000)
    os.chown(mapped.mnt / "user", 5, 6)
    assert (mapped.owner("user"), mapped.kept("user")) == ((100042, 100043), (5, 6))


def test_squashed_to_root_leaves_acls(mapped: Mapped) -> None:
    """squash_to_root shows owners as root; whom an ACL names stays."""
    mapped.mount("squash_to_root")
    assert mapped.owner("user") == (0, 0)
    none = 0xFFFFFFFF
    entries = ((1, 6, none), (2, 4, 7), (4, 4, none), (16, 4, none), (32, 0, none))
    acl = struct.pack("=I", 2) + b"".join(struct.pack("=HHI", *entry) for entry in entries)
    os.setxattr(mapped.mnt / "user", "system.posix_acl_access", acl)
    assert os.getxattr(mapped.mnt / "user", "system.posix_acl_access") == acl
    assert os.getxattr(mapped.top / "user", "system.posix_acl_access") == acl


@pytest.mark.parametrize("words", ["squash_to_gid=100043", f"gidmapping={SHIFT}"])
def test_set_group_id_stays_for_the_group_that_shows(mapped: Mapped, words: str) -> None:
    """An ACL set by a member of the group that the file shows leaves set-group-ID, by anybody else takes it."""
    mapped.mount(words)
    for group, left in ((mapped.owner("root")[1], 0o2000), (55, 0)):
        file = mapped.mnt / f"of-{group}"
        file.write_text("x")
        os.chown(file, 100042, -1)
        if words.startswith("gid"):
            os.chown(file, -1, mapped.owner("root")[1])
        file.chmod(0o2770)
        argv = ["setpriv", "--reuid=100042", f"--regid={group}", "--clear-groups", "--"]
        subprocess.run([*argv, "setfacl", "-m", "u:7:r", file], check=True)
        assert file.stat().st_mode & 0o2000 == left
