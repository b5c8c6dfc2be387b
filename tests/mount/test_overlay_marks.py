# SPDX-License-Identifier: Apache-2.0
"""Layers that a kernel's overlay wrote with redirect_dir=on and metacopy=on: the union shows what the kernel shows."""

import contextlib
import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import syscalls, tree
from tests.support.tree import Dir, File, Special, Tree
from tests.support.union import Union, Workshop, is_mounted, program

KIB10 = bytes(range(256)) * 40
REFUSED = (
    r"branch .*: (refusing to follow|unknown mark|a metacopy whose data|invalid redirect|trusted.overlay)"
)
BASE: Tree = {
    "dir/x": "x of the base",
    "dir/sub/deep/y": "y of the base",
    "dir/file": KIB10,
    "other/dir2/z": "z",
    "file": KIB10,
    "big": os.urandom(300_000),
    "linked": File(b"L" * 9000, mode=0o600),
}


@contextlib.contextmanager
def kernel_overlay(
    root: Path, lower: list[Path], upper: Path | None = None, words: str = ""
) -> Iterator[Path]:
    """Mount a kernel's overlay that follows and writes both marks; skip where it cannot."""
    merged = root / "merged"
    merged.mkdir(exist_ok=True)
    data = f"lowerdir={':'.join(map(str, lower))}{words}"
    if upper is not None:
        work = root / f"work-{upper.name}"
        work.mkdir(exist_ok=True)
        data += f",upperdir={upper},workdir={work}"
    try:
        syscalls.mount("overlay", str(merged), "overlay", 0, data)
    except OSError as error:
        pytest.skip(f"no kernel overlay with these options here: {error}")
    try:
        yield merged
    finally:
        syscalls.umount2(str(merged))


def layer(union: Workshop, name: str, lower: list[Path], change: Callable[[Path], None]) -> Path:
    """Let the kernel write a layer over others."""
    upper = union.directory(name)
    with kernel_overlay(union.root, lower, upper, ",redirect_dir=on,metacopy=on") as merged:
        change(merged)
    return upper


def seen(root: Path) -> dict[str, tree.Entry]:
    return tree.snapshot(root)


def mounted(union: Workshop, layers: list[Path], options: str = "", *, changing: str = "") -> Union:
    """Mount layers, top first, below an empty writable branch."""
    names = {f"L{number}": path for number, path in enumerate(layers)}
    text = ":".join(["{top}=rw", *(f"{{{name}}}=ro+wh+ovl" for name in names)])
    return union.mount(
        ",".join(filter(None, [options, f"br:{text}"])), changing=changing, top={}, branches=names
    )


def rename_things(merged: Path) -> None:
    (merged / "dir").rename(merged / "dir2")  # a redirect to a sibling
    (merged / "other/dir2").rename(merged / "moved")  # an absolute one
    (merged / "file").chmod(0o600)  # a metacopy
    (merged / "dir2/file").rename(merged / "renamed")  # one with a redirect
    (merged / "renamed").chmod(0o640)


def rename_again(merged: Path) -> None:
    (merged / "dir2/sub").rename(merged / "sub2")
    (merged / "dir2").rename(merged / "other/dir3")
    (merged / "file").rename(merged / "other/file")
    (merged / "other/file").chmod(0o604)
    (merged / "dir").mkdir()  # opaque: not the one of the base
    (merged / "dir/new").write_text("new")
    os.setxattr(merged / "renamed", "user.note", b"n")


def rename_third(merged: Path) -> None:
    (merged / "sub2/deep").rename(merged / "dir/deep3")
    (merged / "other/dir3/x").chmod(0o600)
    (merged / "other/dir3").rename(merged / "dir9")
    (merged / "renamed").rename(merged / "dir9/renamed")
    (merged / "moved").chmod(0o700)


CHANGES = (rename_things, rename_again, rename_third)


def stack(union: Workshop, count: int = len(CHANGES)) -> list[Path]:
    layers = [union.directory("base", BASE)]
    for number, change in enumerate(CHANGES[:count]):
        layers.insert(0, layer(union, f"layer{number}", layers, change))
    return layers


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("options", ["", "udba=none", "udba=none,nopassthrough"])
def test_layers_of_a_kernel_overlay_show_as_in_the_kernel(union: Workshop, count: int, options: str) -> None:
    """Renamed directories and metacopies, over one to three layers, have the kernel's names, data and attributes."""
    layers = stack(union, count)
    with kernel_overlay(union.root, layers, words=",redirect_dir=follow,metacopy=on") as merged:
        expected = seen(merged)
        blocks = {
            name: (merged / name).lstat().st_blocks
            for name, entry in expected.items()
            if entry.kind == "file"
        }
    u = mounted(union, layers, options)
    assert seen(u.mnt) == expected
    assert {name: (u / name).lstat().st_blocks for name in blocks} == blocks
    kinds = {"dir": "d", "file": "f"}
    listed = {entry.name: "d" if entry.is_dir(follow_symlinks=False) else "f" for entry in os.scandir(u.mnt)}
    assert listed == {
        name: kinds[entry.kind] for name, entry in expected.items() if "/" not in name and name != "."
    }


def test_layers_of_a_kernel_overlay_after_a_remount_show_the_same(union: Workshop) -> None:
    """Changed and unchanged parts of redirected directories are the same after the union is mounted again."""
    u = mounted(union, stack(union))
    (u / "dir9/x").write_text("changed")
    (u / "dir/deep3/new").write_text("new")
    (u / "dir9/renamed").chmod(0o611)
    before = seen(u.mnt)
    u.remount()
    assert seen(u.mnt) == before
    assert (u / "dir9/renamed").read_bytes() == KIB10


def test_write_metacopy_copies_the_data_and_no_mark(union: Workshop) -> None:
    """Writing to a metacopy, changing its mode, linking and renaming it give the branch the whole data without marks."""
    layers = stack(union, 1)
    (layers[0] / "link1").hardlink_to(layers[0] / "renamed")
    u = mounted(union, layers)
    with (u / "file").open("r+b") as file:
        file.seek(5000)
        file.write(b"!")
    (u / "renamed").chmod(0o611)
    assert (u / "file").read_bytes() == KIB10[:5000] + b"!" + KIB10[5001:]
    assert (u / "link1").read_bytes() == KIB10
    (u / "link1").rename(u / "link2")
    top = u.branches["top"]
    u.stop()
    for name in ("file", "renamed", "link2"):
        copy = top / name
        assert copy.stat().st_size == len(KIB10)
        assert not [name for name in os.listxattr(copy) if "overlay" in name]
    assert (top / "renamed").read_bytes() == (top / "link2").read_bytes() == KIB10


def test_truncate_metacopy_keeps_what_survives(union: Workshop) -> None:
    """A truncation copies the beginning of the lower file's data."""
    u = mounted(union, stack(union, 1))
    os.truncate(u / "file", 3000)
    assert (u / "file").read_bytes() == KIB10[:3000]
    assert (u.branches["top"] / "file").read_bytes() == KIB10[:3000]


def test_read_metacopy_after_unlink_goes_on(union: Workshop) -> None:
    """Who has a metacopy open reads its data after the name went, also through /proc, and writes to a copy of it."""
    u = mounted(union, stack(union, 1), "coherence=aufs,nopassthrough")
    with (u / "file").open("rb") as reader, (u / "renamed").open("r+b") as writer:
        (u / "file").unlink()
        (u / "renamed").unlink()
        assert reader.read() == KIB10
        writer.write(b"?")
        writer.flush()
        writer.seek(0)
        assert writer.read() == b"?" + KIB10[1:]
        assert os.fstat(writer.fileno()).st_size == len(KIB10)
    assert not (u / "file").exists()


def test_getattr_of_open_metacopy_shows_its_own_attributes(union: Workshop) -> None:
    """fstat of an open metacopy tells its mode and number, not those of the file that has the data."""
    u = mounted(union, stack(union, 1))
    by_name = (u / "file").stat()
    with (u / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read(10)
        opened = os.fstat(file.fileno())
    assert (opened.st_mode, opened.st_ino, opened.st_size) == (by_name.st_mode, by_name.st_ino, len(KIB10))
    assert opened.st_mode & 0o777 == 0o600


def test_rename_redirected_directory_says_exdev(union: Workshop) -> None:
    """A directory whose content lies in several layers is not renamed, in both forms; mv(1) copies it."""
    layers = stack(union, 1)
    u = mounted(union, layers)
    with pytest.raises(OSError) as caught:
        (u / "dir2").rename(u / "dir3")
    assert caught.value.errno == errno.EXDEV
    subprocess.run(["mv", u / "dir2", u / "dir3"], check=True)
    assert (u / "dir3/sub/deep/y").read_text() == "y of the base"
    assert not (u / "dir2").exists()
    u.remount()
    assert not (u / "dir2").exists() and not (u / "dir").exists()
    assert (u / "dir3/x").read_text() == "x of the base"


def test_remove_redirected_directory_hides_all_of_it(union: Workshop) -> None:
    """Removing a redirected directory and making one of its name shows nothing of the lower layers."""
    u = mounted(union, stack(union, 1), "whiteout=overlay")
    subprocess.run(["rm", "-r", u / "dir2"], check=True)
    assert not (u / "dir2").exists()
    (u / "dir2").mkdir()
    assert os.listdir(u / "dir2") == []
    u.remount()
    assert os.listdir(u / "dir2") == []
    assert (u / "moved/z").read_text() == "z"


def upper_with_marks(union: Workshop) -> tuple[Path, Path]:
    """Return a branch that was a kernel overlay's upper one, and its lower one."""
    base = union.directory("base", BASE)
    return layer(union, "upper", [base], rename_things), base


@pytest.mark.parametrize("options", ["", "udba=none,whiteout=overlay"])
def test_metacopy_on_writable_branch_gets_its_data(union: Workshop, options: str) -> None:
    """A former upper branch is taken over: opening a metacopy brings its data in and takes its marks off."""
    upper, base = upper_with_marks(union)
    os.setxattr(upper / "renamed", "security.capability", b"\1\0\0\2\0\4\0\0" + bytes(12))
    before = (upper / "renamed").stat()
    text = ",".join(filter(None, [options, "br:{upper}=rw+ovl:{base}=ro+wh+ovl"]))
    u = union.mount(text, changing="upper", upper=upper, base=base)
    assert (u / "renamed").read_bytes() == KIB10
    assert (upper / "renamed").read_bytes() == KIB10
    after = (upper / "renamed").stat()
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
    assert os.getxattr(upper / "renamed", "security.capability")[:4] == b"\1\0\0\2"
    assert (u / "dir2/x").read_text() == "x of the base"
    (u / "file").rename(u / "file3")
    assert (u / "file3").read_bytes() == (upper / "file3").read_bytes() == KIB10
    for name in ("renamed", "file3"):
        assert not {"trusted.overlay.metacopy", "trusted.overlay.redirect"} & set(os.listxattr(upper / name))


@pytest.mark.parametrize("size", [0, 100])
def test_truncate_metacopy_on_writable_branch_ends_the_mark(union: Workshop, size: int) -> None:
    """What grows again after a truncation is zeros, not the lower file's data."""
    upper, base = upper_with_marks(union)
    u = union.mount("br:{upper}=rw+ovl:{base}=ro+wh+ovl", changing="upper", upper=upper, base=base)
    os.truncate(u / "file", size)
    os.truncate(u / "file", 8000)
    assert (u / "file").read_bytes() == KIB10[:size] + bytes(8000 - size)
    u.remount()
    assert (upper / "file").read_bytes() == (u / "file").read_bytes() == KIB10[:size] + bytes(8000 - size)


def metacopy(redirect: bytes | None = None) -> File:
    more = {} if redirect is None else {"trusted.overlay.redirect": redirect}
    return File(bytes(len(KIB10)), xattrs={"trusted.overlay.metacopy": b"", **more})


HAND: dict[str, tuple[Tree, Tree, int]] = {
    "user metacopy": (
        {"f": File(bytes(9), xattrs={"user.overlay.metacopy": b""})},
        {"f": "123456789"},
        errno.EPERM,
    ),
    "no data below": ({"f": metacopy()}, {"g": KIB10}, errno.EIO),
    "a directory below": ({"f": metacopy()}, {"f/g": KIB10}, errno.EIO),
    "version": (
        {"f": File(bytes(9), xattrs={"trusted.overlay.metacopy": b"\1\4\0\0"})},
        {"f": KIB10},
        errno.EIO,
    ),
    "unknown mark": ({"f": File("x", xattrs={"trusted.overlay.future": b"y"})}, {}, errno.EPERM),
    "dots": ({"f": metacopy(b"/../f")}, {"f": KIB10}, errno.EINVAL),
    "slash": ({"f": metacopy(b"a/f")}, {"a/f": KIB10}, errno.EINVAL),
    "empty": ({"f": metacopy(b"")}, {"f": KIB10}, errno.EINVAL),
}


@pytest.mark.parametrize("case", HAND)
def test_read_refused_metacopy_fails_by_name(union: Workshop, case: str) -> None:
    """A file whose data would have to be guessed is refused with an error and a line in the log, and never copied up."""
    upper, lower, number = HAND[case]
    u = mounted(union, [union.directory("up", upper), union.directory("low", lower)])
    u.allowed_log.append(REFUSED)
    for attempt in (lambda: (u / "f").read_bytes(), lambda: (u / "f").open("r+b").close()):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == number
    if case != "unknown mark":
        with pytest.raises(OSError):
            (u / "f").chmod(0o600)
    assert not (u.branches["top"] / "f").exists()
    assert "f:" in u.log.read_text()


@pytest.mark.parametrize("mark", [".wh.f", "f"])
def test_read_metacopy_above_a_whiteout_finds_no_data(union: Workshop, mark: str) -> None:
    """A whiteout of either form between a metacopy and its data ends the search: EIO."""
    between = Special(stat.S_IFCHR) if mark == "f" else ""
    trees: list[Tree] = [{"f": metacopy()}, {mark: between}, {"f": KIB10}]
    u = mounted(union, [union.directory(f"layer{n}", content) for n, content in enumerate(trees)])
    u.allowed_log.append(REFUSED)
    with pytest.raises(OSError) as caught:
        (u / "f").read_bytes()
    assert caught.value.errno == errno.EIO


DIRECTORIES: dict[str, tuple[dict[str, bytes], int]] = {
    "user redirect": ({"user.overlay.redirect": b"/a"}, errno.EPERM),
    "unknown mark": ({"trusted.overlay.future": b"y"}, errno.EPERM),
    "dots": ({"trusted.overlay.redirect": b"/../a"}, errno.EINVAL),
    "a path": ({"trusted.overlay.redirect": b"a/b"}, errno.EINVAL),
    "double slash": ({"trusted.overlay.redirect": b"/a//b"}, errno.EINVAL),
}


@pytest.mark.parametrize("case", DIRECTORIES)
def test_look_up_refused_directory_fails_by_name(union: Workshop, case: str) -> None:
    """A directory of which a part would be missing is refused with an error and a line in the log; others are served."""
    xattrs, number = DIRECTORIES[case]
    up = union.directory("up", {"d": Dir(xattrs=xattrs), "d/x": "x", "good": "good"})
    u = mounted(union, [up, union.directory("low", {"a/b": "b"})])
    u.allowed_log.append(REFUSED)
    with pytest.raises(OSError) as caught:
        os.listdir(u / "d")
    assert caught.value.errno == number
    assert (u / "good").read_text() == "good"
    assert "d:" in u.log.read_text()


def test_known_marks_that_change_nothing_are_passed_over(union: Workshop) -> None:
    """Origins, link counts, flags of a former upper layer and marks of an overlay inside are no reason to refuse."""
    names = ("origin", "impure", "nlink", "upper", "uuid", "protattr", "overlay.redirect", "overlay.whatever")
    xattrs = {f"trusted.overlay.{name}": b"y" for name in names}
    up = union.directory(
        "up", {"d": Dir(xattrs=xattrs), "d/x": File("x", xattrs=xattrs), "f": File("f", xattrs=xattrs)}
    )
    u = mounted(union, [up, union.directory("low", {"d/y": "y"})])
    assert sorted(os.listdir(u / "d")) == ["x", "y"]
    assert ((u / "d/x").read_text(), (u / "f").read_text()) == ("x", "f")


def test_digest_in_metacopy_is_not_compared(union: Workshop) -> None:
    """As in the kernel without verity=on, a digest of fs-verity changes nothing."""
    value = b"\0\x24\0\1" + bytes(32)
    up = union.directory("up", {"f": File(bytes(len(KIB10)), xattrs={"trusted.overlay.metacopy": value})})
    u = mounted(union, [up, union.directory("low", {"f": KIB10})])
    assert (u / "f").read_bytes() == KIB10


def test_whiteouts_by_xattr_hide_names(union: Workshop) -> None:
    """Empty files with overlay.whiteout in a directory with opaque=x hide names; the directory itself is merged."""
    up: Tree = {
        "d": Dir(xattrs={"trusted.overlay.opaque": b"x"}),
        "d/gone": File("", xattrs={"trusted.overlay.whiteout": b"y"}),
        "d/here": "here",
    }
    u = mounted(
        union, [union.directory("up", up), union.directory("low", {"d/gone": "gone", "d/low": "low"})]
    )
    assert sorted(os.listdir(u / "d")) == ["here", "low"]
    assert not (u / "d/gone").exists()


ESCAPED = {"trusted.overlay.overlay.opaque": b"y", "user.overlay.overlay.redirect": b"/x"}


@pytest.mark.parametrize("options", ["whiteout=overlay", "udba=none,whiteout=overlay"])
def test_copy_up_keeps_marks_of_an_overlay_inside(union: Workshop, options: str) -> None:
    """Escaped marks in a layer show under their own names, are copied up as they are, and mean nothing to the union."""
    low: Tree = {"f": File("f", xattrs=ESCAPED), "d": Dir(xattrs=ESCAPED), "d/x": "x"}
    u = mounted(union, [union.directory("low", low), union.directory("lower", {"d/y": "y"})], options)
    for name in ("f", "d"):
        assert set(os.listxattr(u / name)) == {"trusted.overlay.opaque", "user.overlay.redirect"}
        (u / name).chmod(0o711)
        assert os.getxattr(u / name, "trusted.overlay.opaque") == b"y"
    assert sorted(os.listdir(u / "d")) == ["x", "y"]
    u.stop()
    for name in ("f", "d"):
        copied = {mark: os.getxattr(u.branches["top"] / name, mark) for mark in ESCAPED}
        assert copied == ESCAPED
        assert not {"trusted.overlay.opaque", "user.overlay.redirect"} & set(
            os.listxattr(u.branches["top"] / name)
        )


def test_marks_set_in_the_union_are_escaped(union: Workshop) -> None:
    """What a program sets through the union is content: kept, shown, removable, without an effect on what the union shows."""
    u = mounted(union, [union.directory("low", {"d/x": "x"})], "whiteout=overlay")
    (u / "d/empty").touch()
    os.setxattr(u / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(u / "d", "trusted.overlay.overlay.opaque", b"twice")
    os.setxattr(u / "d/empty", "user.overlay.whiteout", b"y")
    u.remount()
    assert sorted(os.listdir(u / "d")) == ["empty", "x"]
    assert set(os.listxattr(u / "d")) == {"trusted.overlay.opaque", "trusted.overlay.overlay.opaque"}
    assert os.getxattr(u.branches["top"] / "d", "trusted.overlay.overlay.opaque") == b"y"
    os.removexattr(u / "d", "trusted.overlay.opaque")
    assert os.listxattr(u / "d") == ["trusted.overlay.overlay.opaque"]
    with pytest.raises(OSError) as caught:
        os.removexattr(u / "d", "trusted.overlay.opaque")
    assert caught.value.errno == errno.ENODATA


def overlay(union: Workshop, options: str) -> subprocess.CompletedProcess[str]:
    mnt = union.root / "mnt"
    mnt.mkdir(exist_ok=True)
    command = [*program("unionfs-overlay", "unionfs.cli.overlay"), "-o", options, str(mnt)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "name"),
    [("redirect_dir=nofollow", "dir2"), ("metacopy=off", "file"), ("redirect_dir=nofollow", "renamed")],
)
def test_marks_are_refused_where_an_option_says_so(union: Workshop, words: str, name: str) -> None:
    """unionfs-overlay keeps overlay's redirect_dir=nofollow and metacopy=off: EPERM, and what has no mark is served."""
    layers = stack(union, 1)
    done = overlay(union, f"lowerdir={layers[0]}:{layers[1]},{words}")
    assert done.returncode == 0, done.stderr
    mnt = union.root / "mnt"
    try:
        with pytest.raises(PermissionError):
            _ = os.listdir(mnt / name) if name == "dir2" else (mnt / name).read_bytes()
        assert (mnt / "big").read_bytes() == BASE["big"]
    finally:
        subprocess.run(["umount", mnt], check=True)


def test_unionfs_overlay_follows_both_marks_by_default(union: Workshop) -> None:
    """unionfs-overlay as root shows a kernel's layers whole, and accepts the words that ask for it."""
    layers = stack(union, 2)
    mnt = union.root / "mnt"
    for words in ("", ",redirect_dir=follow,metacopy=on", ",redirect_dir=off"):
        done = overlay(union, f"lowerdir={':'.join(map(str, layers))}{words}")
        assert done.returncode == 0, done.stderr
        try:
            assert (mnt / "other/dir3/x").read_text() == "x of the base"
            assert (mnt / "other/file").read_bytes() == KIB10
        finally:
            subprocess.run(["umount", mnt], check=True)


@pytest.mark.parametrize("words", ["lowerdir=/a::/b", "lowerdir=/a,verity=on", "lowerdir=/a,redirect_dir=on"])
def test_unionfs_overlay_refuses_what_it_does_not_keep(union: Workshop, words: str) -> None:
    """Data-only layers, verity and writing redirects are refused by name."""
    done = overlay(union, words)
    assert done.returncode != 0
    assert "not supported" in done.stderr
    assert not is_mounted(union.root / "mnt")
