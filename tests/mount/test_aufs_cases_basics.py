# SPDX-License-Identifier: Apache-2.0
"""AUFS' acceptance cases 1–8, 15–17, 33 and 34: defaults, merging, copy-up, names."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import syscalls, tree
from tests.support.errnos import refused
from tests.support.tree import Dir, File, Tree
from tests.support.union import Workshop

OLD = 1_000_000_000.25


def test_mount_without_permissions_gives_defaults(union: Workshop) -> None:
    """Case 1: the first branch is rw, the others ro."""
    u = union.mount(B0={}, B1={}, B2={})
    assert u.branch_list() == ["B0=rw", "B1=ro", "B2=ro"]


def test_mount_read_only_gives_all_ro(union: Workshop) -> None:
    """Case 1: with -o ro every branch without a permission is ro."""
    u = union.mount("ro", B0={"f": "x"}, B1={}, B2={})
    assert u.branch_list() == ["B0=ro", "B1=ro", "B2=ro"]
    with refused("EROFS"):
        (u / "new").touch()


def test_mount_unknown_permission_is_ro(union: Workshop) -> None:
    """Case 1: an unknown permission word means ro, with a warning, not an error."""
    u = union.prepare("br:{B0}=rw:{B1}=bogus", "", {"B0": {}, "B1": {}})
    u.allowed_log = ["bogus"]
    u.start()
    assert u.branch_list() == ["B0=rw", "B1=ro"]


def test_mount_makes_bookkeeping_in_rw_branch_only(union: Workshop) -> None:
    """Case 2: the base file and the two directories are in B0's root, invisible in the union, absent from B1."""
    u = union.mount(B0={}, B1={})
    base = (u.branch(0) / ".wh..wh.aufs").lstat()
    assert stat.S_ISREG(base.st_mode)
    assert stat.S_IMODE(base.st_mode) == 0o444
    assert base.st_size == 0
    for name in (".wh..wh.plnk", ".wh..wh.orph"):
        status = (u.branch(0) / name).lstat()
        assert stat.S_ISDIR(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o700
    assert os.listdir(u.mnt) == []
    assert os.listdir(u.branch(1)) == []


def test_lookup_name_on_two_branches_top_wins(union: Workshop) -> None:
    """Case 3: each name is listed once, the content is the top one's."""
    u = union.mount(B0={"f": "new"}, B1={"f": "old", "g": "g"})
    assert sorted(os.listdir(u.mnt)) == ["f", "g"]
    assert (u / "f").read_text() == "new"


def test_append_lower_file_copies_up_everything(union: Workshop) -> None:
    """Case 4: content, mode, owner and xattr come along; the parent keeps owner, mode and mtime; no stage is left."""
    lower: Tree = {
        "d": Dir(mode=0o750, owner=(3, 4), mtime=OLD),
        "d/f": File("old", 0o640, (1, 2), mtime=OLD, xattrs={"user.a": b"1"}),
    }
    u = union.mount(B0={}, B1=lower)
    with (u / "d/f").open("a") as file:
        file.write("x")
    copy = u.branch(0) / "d/f"
    status = copy.stat()
    assert copy.read_text() == "oldx"
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 1, 2)
    assert os.getxattr(copy, "user.a") == b"1"
    parent = copy.parent.stat()
    assert (stat.S_IMODE(parent.st_mode), parent.st_uid, parent.st_gid) == (0o750, 3, 4)
    assert parent.st_mtime == OLD
    assert os.listdir(copy.parent) == ["f"]


def test_open_for_write_alone_copies_nothing(union: Workshop) -> None:
    """Case 5: opening O_RDWR and closing leaves B0 empty."""
    u = union.mount("coherence=aufs", B0={}, B1={"f": "old"})
    os.close(os.open(u / "f", os.O_RDWR))
    assert tree.names(u.branch(0)) == set()


def test_open_truncate_big_lower_file_copies_no_data(union: Workshop) -> None:
    """Case 6: O_TRUNC keeps mode and owner, and never writes the 50 MB that go away."""
    u = union.mount(B0={}, B1={"big": File(os.urandom(50 << 20), 0o640, (1, 2))})
    before = _written(u.pid)
    (u / "big").open("w").close()
    status = (u.branch(0) / "big").stat()
    assert (status.st_size, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0, 0o640, 1, 2)
    assert _written(u.pid) - before < 1 << 20


def _written(pid: int) -> int:
    counters = Path(f"/proc/{pid}/io").read_text()
    return int(counters.split("wchar: ")[1].split()[0])


def test_truncate_lower_file_keeps_prefix_only(union: Workshop) -> None:
    """Case 7: truncate(4096) copies the first 4096 bytes."""
    content = os.urandom(5 << 20)
    u = union.mount(B0={}, B1={"big": content})
    os.truncate(u / "big", 4096)
    assert (u.branch(0) / "big").read_bytes() == content[:4096]
    assert (u / "big").read_bytes() == content[:4096]


def test_chmod_lower_directory_copies_the_node_only(union: Workshop) -> None:
    """Case 8: B0/d is empty and not opaque; the children still come from below."""
    u = union.mount(B0={}, B1={"d": Dir(0o700), "d/c": "c"})
    (u / "d").chmod(0o755)
    assert stat.S_IMODE((u.branch(0) / "d").stat().st_mode) == 0o755
    assert tree.names(u.branch(0)) == {"d"}
    assert os.listdir(u / "d") == ["c"]


def test_mkdir_fresh_name_is_not_opaque(union: Workshop) -> None:
    """Case 15: with the default diropq=w a new directory carries no mark."""
    u = union.mount(B0={}, B1={})
    (u / "new").mkdir()
    assert tree.names(u.branch(0)) == {"new"}


def test_mkdir_with_diropq_always_is_opaque(union: Workshop) -> None:
    """Case 15: diropq=a marks every new directory."""
    u = union.mount("diropq=a", B0={}, B1={})
    (u / "new").mkdir()
    assert tree.names(u.branch(0)) == {"new", "new/.wh..wh..opq"}
    assert os.listdir(u / "new") == []


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq", ".wh..wh.aufs", ".wh..wh.plnk"])
def test_reserved_name_every_call_is_eperm(union: Workshop, name: str) -> None:
    """Case 16: touch, mkdir, stat, ln, symlink, mknod and mv-to report EPERM, and B0 does not change."""
    u = union.mount(B0={"f": "f"}, B1={})
    before = tree.snapshot(u.branch(0), all_entries=True)
    calls: list[Callable[[], object]] = [
        lambda: (u / name).touch(),
        lambda: (u / name).mkdir(),
        lambda: (u / name).stat(),
        lambda: (u / name).unlink(),
        lambda: (u / name).hardlink_to(u / "f"),
        lambda: (u / name).symlink_to("f"),
        lambda: os.mkfifo(u / name),
        lambda: (u / "f").rename(u / name),
        lambda: syscalls.renameat2(str(u / "f"), str(u / name), syscalls.RENAME_EXCHANGE),
    ]
    for call in calls:
        with refused("EPERM"):
            call()
    assert tree.snapshot(u.branch(0), all_entries=True) == before


def test_name_of_242_bytes_works_and_243_is_too_long(union: Workshop) -> None:
    """Case 17: the limit leaves room for the stage's prefix; statfs says so."""
    u = union.mount(B0={}, B1={"n" * 250: "x"})
    (u / ("a" * 242)).write_text("x")
    assert (u.branch(0) / ("a" * 242)).read_text() == "x"
    (u / ("a" * 242)).unlink()
    with refused("ENAMETOOLONG"):
        (u / ("a" * 243)).write_text("x")
    assert os.statvfs(u.mnt).f_namemax == 242
    assert os.listdir(u.mnt) == ["n" * 250]
    with refused("ENAMETOOLONG"):
        (u / ("n" * 250)).stat()


def test_chmod_sparse_lower_file_keeps_holes_and_times(union: Workshop) -> None:
    """Case 33: the copy has few blocks and the old times; the parent's mtime moves only when a name is added."""
    lower: Tree = {"d": Dir(mtime=OLD), "d/s": File("x", mtime=OLD, hole=1 << 28)}
    u = union.mount(B0={}, B1=lower)
    accessed = (u.branch(1) / "d/s").stat().st_atime  # the workshop has read it
    (u / "d/s").chmod(0o600)
    status = (u.branch(0) / "d/s").stat()
    assert status.st_size == (1 << 28) + 1
    assert status.st_blocks < 64
    assert (status.st_mtime, status.st_atime) == (OLD, accessed)
    assert (u / "d").stat().st_mtime == OLD
    (u / "d/new").touch()
    assert (u / "d").stat().st_mtime > OLD


def test_copy_up_refused_xattr_fails_and_leaves_nothing(union: Workshop) -> None:
    """Case 34: an xattr that B0's filesystem refuses fails the write, with nothing left in B0."""
    u = union.mount(B0={}, B1=_branch_with_big_xattr(union))
    with refused("ENOTSUP", "ENOSPC"), (u / "f").open("a") as file:
        file.write("x")
    assert tree.names(u.branch(0)) == set()
    assert (u / "f").read_text() == "old"


def test_copy_up_refused_xattr_with_icexusr_succeeds(union: Workshop) -> None:
    """Case 34: with +icexusr on the destination the attribute is left out and the write works."""
    u = union.mount("br:{B0}=rw+icexusr:{B1}", B0={}, B1=_branch_with_big_xattr(union))
    with (u / "f").open("a") as file:
        file.write("x")
    assert (u.branch(0) / "f").read_text() == "oldx"
    assert "user.big" not in os.listxattr(u.branch(0) / "f")


def _branch_with_big_xattr(union: Workshop) -> Path:
    """Make a branch on tmpfs with an attribute that is too large for ext4."""
    path = union.filesystem("B1", {"f": File("old", xattrs={"user.a": b"1"})})
    value = b"v" * 10_000
    probe = union.directory("probe")
    try:
        os.setxattr(probe, "user.big", value)
        pytest.skip("the filesystem of the writable branch takes any attribute")
    except OSError:
        pass
    try:
        os.setxattr(path / "f", "user.big", value)
    except OSError:
        pytest.skip("tmpfs has no user attributes here")
    return path


def test_sync_of_files_and_directories(union: Workshop) -> None:
    """fsync and fdatasync succeed on files and on merged, upper and lower directories: package managers insist on it."""
    u = union.mount(B0={"both/a": "x", "upper/d": "w"}, B1={"both/b": "y", "lower/c": "z"})
    for name in (".", "both", "upper", "lower", "both/a", "both/b"):
        fd = os.open(u / name, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.fdatasync(fd)
        finally:
            os.close(fd)
