# SPDX-License-Identifier: Apache-2.0
"""Inode numbers that a branch filesystem gives to another file: a known name never leads to that one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.union import Union, Workshop

pytestmark = pytest.mark.parametrize("udba", ["reval", "notify", "none"])

MOST = 500  # files are made until one has the number; ext4 takes the lowest that is free


def _mount(shop: Workshop, udba: str, names: list[str]) -> Union:
    """Mount two branches on one ext4: the lower one has files with the content "old", known to the kernel and opened before."""
    disk = shop.block_device("disk", 16)
    for name in ("upper", "lower"):
        (disk / name).mkdir()
    for name in names:
        (disk / "lower" / name).write_text("old")
    u = shop.mount(f"udba={udba}", changing="B1", B0=disk / "upper", B1=disk / "lower")
    for name in names:
        assert (u / name).read_text() == "old"
    return u


def _make_with_number(directory: Path, ino: int, branch: Path, content: str) -> str:
    """Make files until one has an inode number on its branch; return its name."""
    for number in range(MOST):
        name = f"own{number}"
        (directory / name).write_text(content)
        if (branch / name).stat().st_ino == ino:
            return name
    pytest.skip("the filesystem does not use that number again")


def _replace(path: Path) -> int:
    """Put another file in a file's place directly, by a rename; return the number that is free now."""
    ino = path.stat().st_ino
    other = path.parent.parent / "replacement"
    other.write_text("new")
    other.rename(path)
    return ino


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("+")


CHANGES: dict[str, Callable[[Path], object]] = {
    "append": _append,
    "truncate": lambda path: os.truncate(path, 0),
    "chmod": lambda path: path.chmod(0o777),
    "utime": lambda path: os.utime(path, (1, 1)),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"y"),
    "link": lambda path: path.with_name("link").hardlink_to(path),
    "rename": lambda path: path.rename(path.with_name("moved")),
    "unlink": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_a_replaced_file_reaches_no_new_one(union: Workshop, udba: str, change: str) -> None:
    """A lower file is replaced directly and a new file of the union gets its inode number: the old name is not that file."""
    u = _mount(union, udba, ["s"])
    own = _make_with_number(u.mnt, _replace(u.branch(1) / "s"), u.branch(0), "own")
    before = (u.branch(0) / own).stat()
    CHANGES[change](u / "s")
    after = (u.branch(0) / own).stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 1)
    assert (u / own).read_text() == (u.branch(0) / own).read_text() == "own"
    assert not os.listxattr(u.branch(0) / own, follow_symlinks=False) or change != "setxattr"
    assert (u.branch(1) / "s").read_text() == "new"


def test_read_of_a_replaced_file_shows_no_new_one(union: Workshop, udba: str) -> None:
    """Its old name shows what is there or was there, whoever looked at the new file before, and never has its number."""
    u = _mount(union, udba, ["s"])
    own = _make_with_number(u.mnt, _replace(u.branch(1) / "s"), u.branch(0), "own")
    assert (u / own).read_text() == "own"
    assert (u / "s").read_text() in ("old", "new")
    assert not (u / "s").samefile(u / own)
    assert (u / own).read_text() == "own"


def test_file_made_directly_with_a_known_number_is_another_file(union: Workshop, udba: str) -> None:
    """A lower file is removed directly and another one gets its number: the removed name does not lead there."""
    u = _mount(union, udba, ["s"])
    lower = u.branch(1)
    ino = (lower / "s").stat().st_ino
    (lower / "s").unlink()
    own = _make_with_number(lower, ino, lower, "own")
    assert (u / own).read_text() == "own"
    attempts: list[Callable[[Path], object]] = [Path.read_text, _append_to_what_is_there]
    for attempt in (*attempts, CHANGES["truncate"], CHANGES["chmod"]):
        try:
            found = attempt(u / "s")
        except OSError:
            continue
        assert found == "old"
    assert (u / own).read_text() == (lower / own).read_text() == "own"
    assert not (u.branch(0) / own).exists()


def _append_to_what_is_there(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b"+")
    finally:
        os.close(fd)


def test_file_renamed_directly_while_open_stays_the_same_file(union: Workshop, udba: str) -> None:
    """An open descriptor keeps a file from being mixed up with another one: its new name is the same file."""
    u = _mount(union, udba, ["s"])
    with (u / "s").open() as opened:
        (u.branch(1) / "s").rename(u.branch(1) / "t")
        assert os.path.samestat((u / "t").stat(), os.fstat(opened.fileno()))
        assert opened.read() == "old"


def test_name_of_a_link_whose_other_name_was_removed_directly_works(union: Workshop, udba: str) -> None:
    """A file is found by the names that it still has: opened, asked, changed, linked."""
    disk = union.block_device("disk", 16)
    for name in ("upper", "lower"):
        (disk / name).mkdir()
    (disk / "lower/a").write_text("old")
    (disk / "lower/b").hardlink_to(disk / "lower/a")
    u = union.mount(f"udba={udba}", changing="B1", B0=disk / "upper", B1=disk / "lower")
    assert (u / "a").samefile(u / "b")
    (u.branch(1) / "a").unlink()
    assert (u / "b").read_text() == "old"
    assert (u / "b").stat().st_size == 3
    (u / "c").hardlink_to(u / "b")
    with (u / "b").open("a") as file:
        file.write("+")
    assert (u / "b").read_text() == (u / "c").read_text() == "old+"


def test_open_file_that_was_replaced_directly_keeps_its_size(union: Workshop, udba: str) -> None:
    """Who has the old file open reads and sees that one, all of it, also after the name was looked up anew."""
    u = _mount(union, udba, ["s"])
    (u.branch(1) / "s").write_text("old " * 1000)
    assert u.change(f"udba={udba}").returncode == 0
    with (u / "s").open() as opened:
        _replace(u.branch(1) / "s")
        assert u.change(f"udba={udba}").returncode == 0
        assert (u / "s").read_text() == "new"
        assert os.fstat(opened.fileno()).st_size == 4000
        assert opened.read() == "old " * 1000
