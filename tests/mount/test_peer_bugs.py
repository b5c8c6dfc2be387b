# SPDX-License-Identifier: Apache-2.0
"""Bugs that other union filesystems in user space have, B1–B13 of our survey: none of them is to be ours."""

import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import syscalls, tree
from tests.support.errnos import refused
from tests.support.tree import Dir, File, HardLink, Symlink
from tests.support.union import Workshop

STRANGER = 12345


def test_b1_mknod_of_device_0_0_leaves_the_directory_readable(union: Workshop) -> None:
    """B1: a user's char 0:0 device must not make its directory unreadable, in any form of whiteouts."""
    for options in ("br:{T}=rw:{B}=ro", "whiteout=overlay,br:{T}=rw:{B}=ro"):
        number = len(union.unions)
        top, lower = union.directory(f"T{number}"), union.directory(f"B{number}", {"d/f": "f"})
        u = union.mount(options, T=top, B=lower)
        try:
            os.mknod(u / "d/dev", stat.S_IFCHR | 0o600, 0)
        except PermissionError:
            pass  # the kernel's overlay answers so
        assert "f" in os.listdir(u / "d")
        (u / "d/g").write_text("g")
        assert {"f", "g"} <= set(os.listdir(u / "d"))
        with refused("ENOTEMPTY"):
            (u / "d").rmdir()
        shutil.rmtree(u / "d")
        assert os.listdir(u.mnt) == []


def test_b2_xattr_on_symlink_never_follows_it(union: Workshop) -> None:
    """B2: neither onto a file outside the union nor back into the mount, where the server would wait for itself."""
    outside = union.directory("outside", {"victim": "v"})
    links: tree.Tree = {
        "out": Symlink(str(outside / "victim")),
        "in": Symlink(str(union.root / "U0/f")),
        "f": "f",
    }
    u = union.mount(B0={}, B1=links)
    for name in ("out", "in"):
        with refused("EPERM", "ENOTSUP"):  # user.* is not for symlinks
            os.setxattr(u / name, "user.a", b"1", follow_symlinks=False)
        os.setxattr(u / name, "trusted.a", b"1", follow_symlinks=False)
        assert os.getxattr(u / name, "trusted.a", follow_symlinks=False) == b"1"
        assert os.listxattr(u / name, follow_symlinks=False) == ["trusted.a"]
        os.removexattr(u / name, "trusted.a", follow_symlinks=False)
    assert os.listxattr(outside / "victim") == []
    assert os.listxattr(u / "f") == []


def test_b3_same_branch_numbers_become_different_ones(union: Workshop) -> None:
    """B3: two files of two filesystems with one inode number are two files to whoever compares (st_dev, st_ino)."""
    one, two = union.filesystem("T1", {"a": "a"}), union.filesystem("T2", {"b": "b"})
    assert (one / "a").stat().st_ino == (two / "b").stat().st_ino
    u = union.mount("br:{B0}:{T1}:{T2}", B0={}, T1=one, T2=two)
    assert not (u / "a").samefile(u / "b")


def test_b4_numbers_survive_copy_up_after_layer_rotation(union: Workshop) -> None:
    """B4: the upper branch goes down, a fresh one comes on top; numbers stay over copy-up, directories rename by rule."""
    first = union.mount(B0={}, B1={"f": "f"})
    (first / "f").chmod(0o600)
    (first / "mine").mkdir()
    number = (first / "f").stat().st_ino
    first.stop()
    u = union.mount("br:{N}=rw:{B0}=ro+wh:{B1}=ro", N={}, B0=first.branch(0), B1=first.branch(1))
    assert (u / "f").stat().st_ino == number
    with (u / "f").open("a") as file:
        file.write("x")
    assert (u / "f").stat().st_ino == number
    (u / "mine").rename(u / "moved")
    assert sorted(os.listdir(u.mnt)) == ["f", "moved"]


def test_b5_default_acl_and_setgid_are_inherited(union: Workshop) -> None:
    """B5: a lower directory's default ACL and setgid bit act on what is made in its copy."""
    lower = union.directory("B1", {"acl": Dir(), "group": Dir(0o2775, (0, 4321))})
    done = subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", lower / "acl"], capture_output=True)
    u = union.mount(B0={}, B1=lower)
    (u / "group/f").touch()
    (u / "group/d").mkdir()
    assert (u / "group/f").stat().st_gid == 4321
    status = (u / "group/d").stat()
    assert (status.st_gid, status.st_mode & stat.S_ISGID) == (4321, stat.S_ISGID)
    if done.returncode:
        pytest.skip("no ACLs here")
    (u / "acl/f").touch()
    shown = subprocess.run(["getfacl", "-cpn", u / "acl/f"], capture_output=True, text=True, check=True)
    assert "user:1000:rwx" in shown.stdout


def test_b5_unlinked_open_file_has_no_links(union: Workshop) -> None:
    """B5: fstat of an open file that was removed says nlink 0, on either branch."""
    u = union.mount(B0={"upper": "u"}, B1={"lower": "l"})
    for name in ("upper", "lower"):
        with (u / name).open() as file:
            (u / name).unlink()
            assert os.fstat(file.fileno()).st_nlink == 0


def test_b5_mkdir_attributes_are_final(union: Workshop) -> None:
    """B5: the first stat after mkdir, opaque mark included, shows the same ctime as the second."""
    u = union.mount("diropq=a", B0={}, B1={})
    (u / "d").mkdir()
    first = (u / "d").stat()
    os.sync()
    assert (u / "d").stat().st_ctime_ns == first.st_ctime_ns


def test_b6_long_names_in_deep_directories_do_not_kill_the_server(union: Workshop) -> None:
    """B6: an unprivileged user asking for long names gets errors, and the server lives."""
    deep = "/".join("d" * 200 for _ in range(4))
    u = union.mount(B0={}, B1={f"{deep}/f": "f"})
    script = "import os,sys\nfor n in range(60):\n try: os.stat(sys.argv[1]+'/'+chr(97+n%26)*240)\n except OSError: pass"
    argv: list[str | Path] = ["python3", "-c", script, u / deep]
    subprocess.run(argv, user=STRANGER, group=STRANGER, extra_groups=[], check=True)
    for length in (240, 242, 243, 255, 256):
        with refused("ENOENT", "ENAMETOOLONG"):
            (u / deep / ("n" * length)).stat()
    assert (u / deep / "f").read_text() == "f"


def test_b7_mv_of_partly_copied_directory_loses_nothing(union: Workshop) -> None:
    """B7: rename(2) is EXDEV and mv(1) then moves upper and lower entries alike."""
    u = union.mount(B0={}, B1={"d/one": "1", "d/two": "2", "d/sub/three": "3"})
    (u / "d/one").chmod(0o600)
    subprocess.run(["mv", u / "d", u / "e"], check=True)
    assert tree.names(u.mnt) == {"e", "e/one", "e/two", "e/sub", "e/sub/three"}
    assert (u / "e/sub/three").read_text() == "3"


def test_b8_removed_open_file_leaves_no_name_behind(union: Workshop) -> None:
    """B8: no hidden file stays in the directory; rmdir works while the file is open; tempfile is content."""
    u = union.mount(B0={}, B1={"d/f": "f"})
    with (u / "d/f").open() as file:
        (u / "d/f").unlink()
        assert os.listdir(u / "d") == []
        (u / "d").rmdir()
        assert file.read() == "f"
    with tempfile.TemporaryDirectory(dir=u.mnt) as name, tempfile.TemporaryFile(dir=name) as scratch:
        scratch.write(b"x")
    assert os.listdir(u.mnt) == []


def test_b8_utime_omit_and_link_ctime(union: Workshop) -> None:
    """B8: touch -a leaves mtime; link(2) moves ctime; the inode number stays over copy-up."""
    u = union.mount(B0={}, B1={"f": File("f", mtime=1e9)})
    number = (u / "f").stat().st_ino
    subprocess.run(["touch", "-a", u / "f"], check=True)
    status = (u / "f").stat()
    assert status.st_mtime == 1e9
    assert status.st_atime > 1e9
    (u / "g").hardlink_to(u / "f")
    assert (u / "g").stat().st_ctime_ns > status.st_ctime_ns
    assert (u / "g").stat().st_ino == number


def test_b8_fallocate_allocates_or_says_no(union: Workshop) -> None:
    """B8: fallocate works, or is EOPNOTSUPP so that programs fall back; never silent, never EINVAL."""
    u = union.mount(B0={}, B1={"f": "f"})
    with (u / "f").open("r+b") as file:
        try:
            syscalls.fallocate(file.fileno(), 0, 0, 8192)
        except OSError as error:
            assert error.errno == 95
        else:
            assert os.fstat(file.fileno()).st_size == 8192
        os.posix_fallocate(file.fileno(), 0, 8192)
        assert os.fstat(file.fileno()).st_size == 8192


def test_b9_hard_links_share_attributes_at_once(union: Workshop) -> None:
    """B9: a change through one name shows through the other without waiting for a timeout."""
    u = union.mount(B0={}, B1={"a": "a", "b": HardLink("a")})
    assert (u / "b").stat().st_size == 1
    with (u / "a").open("a") as file:
        file.write("bc")
    (u / "a").chmod(0o600)
    os.chown(u / "a", 7, 8)
    status = (u / "b").stat()
    assert (status.st_size, status.st_mode & 0o777, status.st_uid, status.st_gid) == (3, 0o600, 7, 8)
    assert (u / "b").read_text() == "abc"
    (u / "b").unlink()
    assert (u / "a").stat().st_nlink == 1


def test_b10_direct_io_works(union: Workshop) -> None:
    """B10: O_DIRECT reads and writes, on upper and lower files."""
    u = union.mount(B0={}, B1={"f": b"o" * 8192})
    buffer = mmap.mmap(-1, 4096)
    buffer.write(b"n" * 4096)
    fd = os.open(u / "f", os.O_RDWR | os.O_DIRECT)
    try:
        assert os.pwrite(fd, buffer, 4096) == 4096
        assert os.preadv(fd, [buffer], 0) == 4096
        assert buffer[:] == b"o" * 4096
    finally:
        os.close(fd)
    assert (u / "f").read_bytes() == b"o" * 4096 + b"n" * 4096


def test_b11_name_over_name_max_is_too_long(union: Workshop) -> None:
    """B11: ENAMETOOLONG and not ENOENT, for every call."""
    u = union.mount(B0={}, B1={"f": "f"})
    name = u / ("n" * 256)
    for call in (name.stat, name.touch, name.mkdir, name.unlink, lambda: (u / "f").rename(name)):
        with refused("ENAMETOOLONG"):
            call()


def test_b11_paths_near_path_max_can_be_used(union: Workshop) -> None:
    """B11: a path of PATH_MAX − 1 bytes, relative to the mount, can be made, reached, copied up and removed."""
    u = union.mount(B0={}, B1={})
    script = """
import os, sys
os.chdir(sys.argv[1])
path = "/".join(["d" * 199] * 20)
os.makedirs(path)
name = path + "/" + "f" * (4095 - len(path) - 1)
assert len(name) == 4095
open(name, "w").write("x")
assert open(name).read() == "x"
os.rename(name, name[:-1] + "g")
os.unlink(name[:-1] + "g")
"""
    subprocess.run(["python3", "-c", script, u.mnt], check=True)


def test_b12_owner_may_chgrp_to_a_supplementary_group(union: Workshop) -> None:
    """B12: chgrp to one of the caller's other groups works, to a foreign one does not."""
    u = union.mount(B0={}, B1={"f": File("f", 0o644, (STRANGER, STRANGER))})
    for group, expected in ((777, 0), (778, 1)):
        done = subprocess.run(
            ["chgrp", str(group), u / "f"],
            user=STRANGER,
            group=STRANGER,
            extra_groups=[777],
            capture_output=True,
        )
        assert done.returncode == expected
    assert (u / "f").stat().st_gid == 777


def test_b12_new_directory_cannot_replace_a_full_lower_one(union: Workshop) -> None:
    """B12: rename of a new directory over a non-empty lower directory is ENOTEMPTY."""
    u = union.mount(B0={}, B1={"full/f": "f"})
    (u / "new").mkdir()
    with refused("ENOTEMPTY"):
        (u / "new").rename(u / "full")


def test_b13_far_offsets_and_lengths_are_refused_by_the_branch(union: Workshop) -> None:
    """B13: the branch's errno reaches the caller, and the file is what it was."""
    u = union.mount(B0={}, B1={"f": "f"})
    fd = os.open(u / "f", os.O_RDWR)
    try:
        with refused("EFBIG", "EINVAL"):
            os.pwrite(fd, b"x", (1 << 63) - 2)
        with refused("EFBIG", "EINVAL"):
            os.ftruncate(fd, (1 << 63) - 1)
    finally:
        os.close(fd)
    assert (u / "f").read_text() == "f"


def test_b13_errors_of_the_branch_reach_the_caller_and_the_server_lives(union: Workshop) -> None:
    """B13: vanished files give errnos; modes and owners of new files are the caller's."""
    u = union.mount("udba=none", changing="B1", B0={}, B1={"f": "f", "g": "g"})
    (u / "g").stat()
    (u.branch(1) / "g").unlink()
    try:
        (u / "g").read_text()
    except OSError:
        pass
    assert (u / "f").read_text() == "f"
    (u / "open").mkdir()
    (u / "open").chmod(0o777)
    command = f"umask 027; echo x > {u / 'open/new'}; mkdir {u / 'open/dir'}"
    subprocess.run(["sh", "-c", command], user=STRANGER, group=STRANGER, extra_groups=[], check=True)
    status, directory = (u / "open/new").stat(), (u / "open/dir").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, STRANGER, STRANGER)
    assert (directory.st_mode & 0o7777, directory.st_uid) == (0o750, STRANGER)


def test_user_made_reserved_names_are_refused_in_every_way(union: Workshop) -> None:
    """The same care for our own marks: no call makes a `.wh.` name, whatever its type."""
    u = union.mount(B0={"f": "f", "d": Dir()}, B1={})
    target: Path = u / ".wh.f"
    with refused("EPERM"):
        os.mknod(target, stat.S_IFCHR | 0o600, 0)
    with refused("EPERM"):
        (u / "d").rename(target)
    assert tree.names(u.branch(0)) == {"f", "d"}


@pytest.mark.parametrize("length", [251, 252, 255])
@pytest.mark.parametrize("lower", [False, True])
def test_long_names_in_overlay_form_are_made_linked_and_removed(
    union: Workshop, length: int, lower: bool
) -> None:
    """A name that AUFS' prefix would make too long for the branch is like any other; over a whiteout of its own too."""
    name, other = "n" * length, "o" * length
    u = union.mount(
        "whiteout=overlay", B0={}, B1={f"d/{name}": "lower", f"d/{other}/x": "x"} if lower else {"d/x": ""}
    )
    if lower:
        (u / "d" / name).unlink()
        shutil.rmtree(u / "d" / other)
    makers: list[Callable[[Path], object]] = [
        Path.touch,
        lambda path: path.symlink_to("x"),
        lambda path: os.mkfifo(path),
        lambda path: (u / "d/a").rename(path),
        lambda path: path.hardlink_to(u / "d/a"),
    ]
    for make in makers:
        (u / "d/a").touch()
        make(u / "d" / name)
        assert name in os.listdir(u / "d")
        (u / "d" / name).unlink()
        assert name not in os.listdir(u / "d")
    (u / "d" / other).mkdir()
    (u / "d" / other).rmdir()
    (u / "d/a").unlink(missing_ok=True)
    (u / "d/x").unlink(missing_ok=True)
    (u / "d").rmdir()
    assert os.listdir(u.mnt) == []
