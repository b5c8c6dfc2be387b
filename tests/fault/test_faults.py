# SPDX-License-Identifier: Apache-2.0
"""Faults: full filesystems, vanished and hostile branches, odd names, many files, deep trees, corrupt marks."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tree
from tests.support.errnos import refused
from tests.support.tree import Dir, File, Symlink
from tests.support.union import Workshop, eventually, is_mounted, unionfs

MEGABYTE = 1 << 20


def _assert_unharmed(top: Path, shown: Path, content: bytes) -> None:
    """The lower file is what the union shows, and the writable branch holds no part of it."""
    assert shown.read_bytes() == content
    assert tree.names(top) == set()


def test_copy_up_to_full_branch_is_enospc_and_leaves_nothing(union: Workshop) -> None:
    """ENOSPC in mid copy-up reaches the writer; the file is the lower one; with room it works later."""
    content = os.urandom(8 * MEGABYTE)
    u = union.mount(B0=union.filesystem("B0", data="mode=755,size=4m"), B1={"f": content, "small": "s"})
    with refused("ENOSPC"), (u / "f").open("r+b") as file:
        file.write(b"x")
    _assert_unharmed(u.branch(0), u / "f", content)
    with (u / "small").open("a") as file:
        file.write("+")
    assert (u.branch(0) / "small").read_text() == "s+"


def test_copy_up_without_inodes_is_enospc_and_leaves_nothing(union: Workshop) -> None:
    """No inode for the copy or its parents: ENOSPC, nothing half made."""
    u = union.mount(
        B0=union.filesystem("B0", data="mode=755,nr_inodes=6"), B1={"a/b/c/f": "f", "a/b/c/g": "g"}
    )
    with refused("ENOSPC"):
        (u / "a/b/c/f").chmod(0o600)
    assert (u / "a/b/c/f").read_text() == "f"
    assert not any(n.endswith(("f", "g")) or ".wh." in n for n in tree.names(u.branch(0)))


def test_write_over_the_limit_of_an_ext4_branch_is_enospc(union: Workshop) -> None:
    """The same on a block filesystem, where the stage is an O_TMPFILE."""
    content = os.urandom(12 * MEGABYTE)
    u = union.mount(B0=union.block_device("B0", 8), B1={"f": content})
    with refused("ENOSPC"), (u / "f").open("r+b") as file:
        file.write(b"x")
    _assert_unharmed(u.branch(0), u / "f", content)


@pytest.mark.skipif(shutil.which("btrfs") is None, reason="a quota that binds root too needs btrfs-progs")
def test_copy_up_over_a_quota_is_edquot_and_leaves_nothing(union: Workshop) -> None:
    """EDQUOT in mid copy-up: a btrfs subvolume with a limit of 4 MB."""
    content = os.urandom(12 * MEGABYTE)
    top = union.block_device("B0", 256, "btrfs")
    for command in (
        ["subvolume", "create", str(top / "sub")],
        ["quota", "enable", str(top)],
        ["qgroup", "limit", "4M", str(top / "sub")],
    ):
        done = subprocess.run(["btrfs", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no btrfs quota here: {done.stderr.strip()}")
    u = union.mount(B0=top / "sub", B1={"f": content})
    with refused("EDQUOT"), (u / "f").open("r+b") as file:
        file.write(b"x")
    _assert_unharmed(u.branch(0), u / "f", content)


def test_unlink_on_full_branch_fails_and_keeps_the_file(union: Workshop) -> None:
    """A whiteout that cannot be made: the file stays visible."""
    u = union.mount("nowarn_perm", B0=union.filesystem("B0", data="mode=755,nr_inodes=5"), B1={"d/f": "f"})
    with refused("ENOSPC"):
        (u / "d/f").unlink()
    assert (u / "d/f").read_text() == "f"


def test_read_error_of_the_lower_branch_is_eio_and_leaves_nothing(union: Workshop) -> None:
    """EIO in mid copy-up: the lower filesystem's image is cut under it."""
    lower = union.block_device("B1", 24)
    (lower / "f").write_bytes(os.urandom(16 * MEGABYTE))
    os.sync()
    u = union.mount("nowarn_perm", changing="B1", B0={}, B1=lower)
    with (union.root / "B1.image").open("r+b") as image:
        image.truncate(6 * MEGABYTE)
    subprocess.run(["dd", f"if={lower / 'f'}", "iflag=nocache", "count=0"], capture_output=True, check=True)
    try:
        (lower / "f").read_bytes()
        pytest.skip("the lower file is still cached")
    except OSError:
        pass
    with refused("EIO"), (u / "f").open("r+b") as file:
        file.write(b"x")
    assert tree.names(u.branch(0)) == set()
    assert sorted(os.listdir(u.mnt)) == ["f"]


def test_kill_in_mid_rename_and_removal_leaves_old_or_new(union: Workshop) -> None:
    """kill -9 at some moment of a busy loop: after the next mount each file is whole and no mark is visible.

    The one operation that the kill hit may leave an entry beside its whiteout (AUFS' form has no single step for both,
    docs/concurrency.md): then the name says EIO, and `unionfs check -r` brings the old state back.
    """
    names = [f"f{n}" for n in range(40)]
    u = union.prepare("", "", {"B0": {}, "B1": dict.fromkeys(names, "content")})
    u.start()
    loop = "while :; do for n in $(seq 0 39); do echo x >> f$n; mv f$n g$n; rm -f g$n; echo new > f$n; done; done"
    busy = subprocess.Popen(["sh", "-c", loop], cwd=u.mnt, stderr=subprocess.DEVNULL)
    eventually(lambda: (u.branch(0) / "f30").exists(), "thirty rounds")
    u.kill()
    busy.kill()
    busy.wait()
    report = json.loads(unionfs("check", "--json", u.branch(0), check=False).stdout)
    kinds = [problem["kind"] for problem in report]
    assert kinds.count("pair") <= 1
    assert set(kinds) <= {"pair", "stage", "orphan"}
    if "pair" in kinds:  # everything else is the next mount's to sweep
        unionfs("check", "-r", u.branch(0), check=False)
    u.start()
    for name, _ in tree.walk(u.mnt):
        assert name[0] in "fg"
        assert ".wh." not in name
        text = (u / name).read_text()
        assert text in ("content", "contentx\n", "contentx", "new\n", "new\nx\n", "", "newx\n"), (name, text)
    u.stop()
    assert unionfs("check", u.branch(0), check=False).returncode == 0


def test_branch_directory_removed_behind_the_mount_gives_errors_only(union: Workshop) -> None:
    """A removed lower branch: its names go or err; the writable branch goes on working."""
    u = union.mount(changing="B1", B0={"top": "t"}, B1={"d/f": "f"})
    assert (u / "d/f").read_text() == "f"
    shutil.rmtree(u.branch(1))
    assert (u / "top").read_text() == "t"
    eventually(lambda: not (u / "d/f").exists(), "the file to go")
    (u / "new").write_text("n")
    assert sorted(os.listdir(u.mnt)) == ["new", "top"]


def test_ten_thousand_files_open_at_once(union: Workshop) -> None:
    """10,000 descriptors, upper and lower, each reads its own content."""
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 100:
        pytest.skip(f"this process may open {hard} files only")
    u = union.mount(B0={}, B1={f"d{n % 10}/f{n}": str(n) for n in range(count)})
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    fds: list[int] = []
    try:
        for n in range(count):
            fds.append(os.open(u / f"d{n % 10}/f{n}", os.O_RDWR if n % 5 == 0 else os.O_RDONLY))
        for n in range(0, count, 100):
            os.pwrite(fds[n], b"!", 0)
        for n in range(0, count, 37):
            first = b"!" if n % 100 == 0 else str(n).encode()[:1]
            assert os.pread(fds[n], 1, 0) == first
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", [b"\xff\xfe-not-utf8", b"new\nline", b"\x01\x7f", b"a" * 242, b" ", b"-rf"])
def test_any_bytes_are_a_name(union: Workshop, name: bytes) -> None:
    """Names are bytes: they are listed, copied up, renamed, whited out and made again."""
    u = union.mount(B0={}, B1={os.fsdecode(name): "old"})
    mounted, top = os.fsencode(u.mnt) + b"/", os.fsencode(u.branch(0)) + b"/"
    assert os.listdir(os.fsencode(u.mnt)) == [name]
    with open(mounted + name, "ab") as file:
        file.write(b"+")
    assert Path(os.fsdecode(top + name)).read_bytes() == b"old+"
    os.unlink(mounted + name)
    assert os.path.lexists(top + b".wh." + name)
    os.mkdir(mounted + name)
    os.rename(mounted + name, mounted + b"other")
    assert os.listdir(os.fsencode(u.mnt)) == [b"other"]


def test_tree_beyond_path_max_is_walked_changed_and_removed(union: Workshop) -> None:
    """A lower tree 60 × 200 bytes deep: reached by hops, copied up at the bottom, listed, removed."""
    depth, name = 60, "d" * 200
    lower = union.directory("B1")
    _by_hops(lower, name, depth, _plant)
    u = union.mount(changing="B1", B0={}, B1=lower)
    _by_hops(u.mnt, name, depth, _change)
    _by_hops(u.branch(0), name, depth, _look)
    done = subprocess.run(["rm", "-rf", name], cwd=u.mnt, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.listdir(u.mnt) == []
    assert tree.names(u.branch(0)) == {f".wh.{name}"}


def _by_hops(root: Path, name: str, depth: int, act: Callable[[int], None]) -> None:
    """Go down, making what is missing, and call `act` with the deepest directory."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(depth):
            try:
                os.mkdir(name, dir_fd=fd)
            except FileExistsError:
                pass
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = child
        act(fd)
    finally:
        os.close(fd)


def _plant(fd: int) -> None:
    file = os.open("f", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
    os.write(file, b"deep")
    os.close(file)


def _change(fd: int) -> None:
    file = os.open("f", os.O_RDWR | os.O_APPEND, dir_fd=fd)
    os.write(file, b"er")
    os.close(file)
    assert os.listdir(fd) == ["f"]
    os.rename("f", "g", src_dir_fd=fd, dst_dir_fd=fd)


def _look(fd: int) -> None:
    file = os.open("g", os.O_RDONLY, dir_fd=fd)
    assert os.read(file, 100) == b"deeper"
    os.close(file)


CORRUPT: dict[str, tree.Tree] = {
    "opaque mark is a directory": {"d/.wh..wh..opq": Dir(), "d/x": "x"},
    "base is a directory": {".wh..wh.aufs": Dir()},
    "plnk is a file": {".wh..wh.plnk": "x"},
    "whiteout is a symlink": {".wh.f": Symlink("nowhere")},
    "whiteout of nothing": {".wh.": ""},
    "stale stage": {".wh..wh.f.abcd": "partial", "d/.wh..wh.x.0001": Dir()},
    "plink of nothing": {".wh..wh.plnk/1.2": "x", ".wh..wh.plnk/junk": "y"},
}


@pytest.mark.parametrize("marks", CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_marks_give_one_line_or_an_errno(union: Workshop, marks: tree.Tree) -> None:
    """Either the mount is refused in one line, or it works and whatever it cannot read is EIO; never a crash."""
    u = union.prepare("", "", {"B0": marks, "B1": {"f": "f", "d/y": "y", "ok": "ok"}})
    u.allowed_log = ["."]
    try:
        u.start()
    except AssertionError:
        lines = u.log.read_text().splitlines()
        assert len(lines) <= 3
        assert "Traceback" not in "".join(lines)
        assert not is_mounted(u.mnt)
        return
    for name in ("f", "d", "d/x", "d/y"):
        try:
            (u / name).stat()
        except OSError as error:
            assert error.errno in (2, 5), name
    assert (u / "ok").read_text() == "ok"
    (u / "ok").write_text("new")
    assert "ok" in os.listdir(u.mnt)
    assert not [name for name in os.listdir(u.mnt) if name.startswith(".wh..wh.")]
    assert "Traceback" not in u.log.read_text()


def test_directory_swapped_for_symlink_never_leads_outside(union: Workshop) -> None:
    """A hostile branch: a directory becomes a symlink to a place outside, under our feet."""
    outside = union.directory("outside", {"secret": "secret", "f": "outside"})
    u = union.mount("udba=none", changing="B1", B0={}, B1={"d/f": "f", "d/sub/g": "g"})
    assert (u / "d/f").read_text() == "f"
    shutil.rmtree(u.branch(1) / "d")
    (u.branch(1) / "d").symlink_to(outside)
    before = tree.snapshot(outside, times=True)
    attempts: list[Callable[[], object]] = [
        lambda: (u / "d/secret").read_text(),
        lambda: (u / "d/f").write_text("x"),
        lambda: (u / "d/new").write_text("x"),
        lambda: (u / "d/secret").chmod(0o777),
        lambda: (u / "d/secret").unlink(),
    ]
    for attempt in attempts:
        try:
            value = attempt()
        except OSError:
            continue
        assert value != "secret"
    assert tree.snapshot(outside, times=True) == before


def test_upper_directory_swapped_for_symlink_never_leads_outside(union: Workshop) -> None:
    """The same in the writable branch, where a careless server would write."""
    outside = union.directory("outside", {"f": "outside"})
    u = union.mount("udba=none", B0={"d/f": "f"}, B1={})
    assert (u / "d/f").read_text() == "f"
    (u.branch(0) / "d").rename(u.branch(0) / "old")
    (u.branch(0) / "d").symlink_to(outside)
    for name in ("d/f", "d/new"):
        try:
            (u / name).write_text("x")
        except OSError:
            pass
    assert tree.snapshot(outside).keys() == {".", "f"}
    assert (outside / "f").read_text() == "outside"


def test_lower_fifo_and_device_are_never_opened_by_the_server(union: Workshop) -> None:
    """stat, chmod and rename of a FIFO that nobody reads do not hang, and it works as one."""
    u = union.mount(B0={}, B1={"p": tree.Special(0o010000, mode=0o666), "n": File("n")})
    assert (u / "p").is_fifo()
    (u / "p").chmod(0o600)
    (u / "p").rename(u / "q")
    reader = subprocess.Popen(["cat", u / "q"], stdout=subprocess.PIPE)
    (u / "q").write_text("through")
    assert reader.communicate(timeout=20)[0] == b"through"


def test_dead_mount_is_replaced_or_named_in_one_line(union: Workshop) -> None:
    """Mounting over the mount of a killed server either works or says what to do; umount --lazy clears it."""
    u = union.mount(B0={}, B1={"f": "f"})
    assert u.process is not None
    u.process.kill()
    u.process.wait()
    with refused("ENOTCONN", "ECONNABORTED"):  # the latter if it was asked before its device was closed
        (u / "f").read_text()
    done = unionfs("umount", "--lazy", u.mnt, check=False)
    assert done.returncode == 0, done.stderr
    assert not is_mounted(u.mnt)
    u.process = None
    u.start()
    assert (u / "f").read_text() == "f"


def test_umount_of_busy_mount_keeps_it(union: Workshop) -> None:
    """A plain umount of a mount in use fails with one line; the union goes on."""
    u = union.mount(B0={}, B1={"f": "f"})
    with (u / "f").open() as file:
        done = unionfs("umount", u.mnt, check=False)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert file.read() == "f"
