# SPDX-License-Identifier: Apache-2.0
"""Hard links that are copied up and removed directly below: a lower file that gets their inode number is no name of the copy."""

import os
from pathlib import Path

import pytest

from tests.support.union import Union, Workshop, few_descriptors
from unionfs.tree.plink_table import birth_of

pytestmark = pytest.mark.parametrize("udba", ["reval", "notify", "none"])

MOST = 200  # files are made until one has the number; ext4 takes the lowest that is free
LIMIT = 256  # descriptors of a server that keeps few lower files open
MANY = 60  # more than those


def _prepare(shop: Workshop, options: str, *mkfs: str, few: bool = False) -> Union:
    """Describe a union of two branches on one ext4, with a lower file "old" that has the names a and b."""
    disk = shop.block_device("disk", 16, "ext4", *mkfs)
    for name in ("upper", "lower"):
        (disk / name).mkdir()
    (disk / "lower/a").write_text("old")
    (disk / "lower/b").hardlink_to(disk / "lower/a")
    u = shop.prepare(options, "B1", {"B0": disk / "upper", "B1": disk / "lower"})
    if few:
        u.launcher = few_descriptors(LIMIT)
        for number in range(MANY):
            (disk / f"lower/p{number}").write_text("p")
            (disk / f"lower/q{number}").hardlink_to(disk / f"lower/p{number}")
    u.start()
    return u


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("+")


def _copy_up(u: Union) -> int:
    """Append to one name of the lower file; return its inode number on the lower branch."""
    _append(u / "a")  # the first name that is looked up is the copy's
    assert (u / "a").samefile(u / "b")
    return (u.branch(1) / "a").stat().st_ino


def _replace(lower: Path, ino: int, name: str) -> bool:
    """Remove both lower names and give `name` to a new file, of the same number if possible; tell whether it was."""
    for old in ("a", "b"):
        (lower / old).unlink(missing_ok=True)
    made = [lower / f"new{number}" for number in range(MOST)]
    path = made[0]
    for path in made:
        path.write_text("another")
        if path.stat().st_ino == ino:
            break
    path.rename(lower / name)
    for other in made:
        other.unlink(missing_ok=True)
    return (lower / name).stat().st_ino == ino


def _assert_apart(u: Union, name: str, *, content: str = "old+") -> None:
    """Assert that the new file and the copy are two: for readers and writers, after a flush and a remount, on the branches."""
    assert (
        u.change(u.options.split(",")[-1]).returncode == 0
    )  # the kernel asks anew for the names that it knows
    for _ in range(2):
        assert ((u / name).read_text(), (u / "a").read_text()) == ("another", content)
        assert not (u / name).samefile(u / "a")
    _append(u / name)
    assert ((u / name).read_text(), (u / "a").read_text()) == ("another+", content)
    _append(u / "a")
    u.flush()
    for again in (False, True):
        if again:
            u.remount()
        assert ((u / name).read_text(), (u / "a").read_text()) == ("another+", f"{content}+")
        assert not (u / name).samefile(u / "a")
        assert ((u / name).stat().st_nlink, (u.branch(0) / name).stat().st_nlink) == (1, 1)
    assert (u.branch(0) / name).read_text() == "another+"
    assert (u.branch(0) / "a").read_text() == f"{content}+"
    assert (u.branch(1) / name).read_text() == "another"
    assert not list((u.branch(0) / ".wh..wh.plnk").glob("*"))


@pytest.mark.parametrize("form", ["aufs", "overlay"])
@pytest.mark.parametrize("name", ["b", "other"])
def test_new_lower_file_does_not_get_the_number_of_a_copied_link(
    union: Workshop, udba: str, name: str, form: str
) -> None:
    """The file that was copied is kept open: while the union lives its inode number is nobody else's."""
    u = _prepare(union, f"whiteout={form},udba={udba}")
    ino = _copy_up(u)
    assert not _replace(u.branch(1), ino, name)
    _assert_apart(u, name)


def test_new_lower_file_without_a_birth_time_does_not_get_the_number_of_a_copied_link(
    union: Workshop, udba: str
) -> None:
    """The file is kept open on any filesystem."""
    u = _prepare(union, f"udba={udba}", "-I", "128")
    ino = _copy_up(u)
    (record,) = (u.branch(0) / ".wh..wh.plnk").iterdir()
    assert record.name.count(".") == 2
    assert not _replace(u.branch(1), ino, "other")
    _assert_apart(u, "other")


def test_flush_lets_the_lower_file_go(union: Workshop, udba: str) -> None:
    """Once all names are real links the lower file is not kept from being removed, and its number may be another's."""
    u = _prepare(union, f"udba={udba}")
    ino = _copy_up(u)
    u.flush()
    assert _replace(u.branch(1), ino, "other")
    assert u.change(f"udba={udba}").returncode == 0
    assert (u / "other").read_text() == "another"
    assert (u / "a").read_text() == (u / "b").read_text() == "old+"
    assert not (u / "other").samefile(u / "a")


def test_new_lower_file_does_not_get_the_number_of_a_linked_one(union: Workshop, udba: str) -> None:
    """The same where link(2) made the copy of a file that had one name."""
    u = _prepare(union, f"udba={udba}")
    (u.branch(1) / "b").unlink()
    assert u.change(f"udba={udba}").returncode == 0
    (u / "a2").hardlink_to(u / "a")
    ino = (u.branch(1) / "a").stat().st_ino
    assert not _replace(u.branch(1), ino, "b")
    assert u.change(f"udba={udba}").returncode == 0
    assert (u / "b").read_text() == "another"
    assert not (u / "b").samefile(u / "a2")
    _append(u / "b")
    u.remount()
    assert ((u / "b").read_text(), (u / "a2").read_text()) == ("another+", "old")
    assert ((u.branch(0) / "b").read_text(), (u.branch(0) / "a2").read_text()) == ("another+", "old")


@pytest.mark.parametrize("name", ["b", "other"])
def test_new_lower_file_with_the_number_of_a_link_that_was_not_held_is_another_file(
    union: Workshop, udba: str, name: str
) -> None:
    """A server of few descriptors does not keep all such files open, and tells them by their birth times."""
    if (name, udba) == ("other", "none"):
        pytest.skip("the names in lower directories are remembered")
    u = _prepare(union, f"udba={udba}", few=True)
    for number in range(MANY):
        _append(u / f"p{number}")
    ino = _copy_up(u)
    assert _replace(u.branch(1), ino, name)
    _assert_apart(u, name)
    assert (u / "q7").samefile(u / "p7")


@pytest.mark.parametrize("name", ["b", "other"])
def test_new_lower_file_with_the_number_of_a_link_after_a_kill_is_another_file(
    union: Workshop, udba: str, name: str
) -> None:
    """The birth time is part of a pseudo-link on disk: the next mount tells a file made meanwhile from the copied one."""
    u = _prepare(union, f"udba={udba}")
    ino = _copy_up(u)
    u.kill()
    assert _replace(u.branch(1), ino, name)
    u.start()
    _assert_apart(u, name)


def test_new_lower_file_does_not_get_the_number_of_a_link_found_after_a_kill(
    union: Workshop, udba: str
) -> None:
    """A pseudo-link that was taken up holds its lower file from the moment that a name of it is seen."""
    u = _prepare(union, f"udba={udba}")
    ino = _copy_up(u)
    u.kill()
    u.start()
    assert (u / "b").read_text() == "old+"
    assert (u / "b").samefile(u / "a")
    assert not _replace(u.branch(1), ino, "other")
    _assert_apart(u, "other")


def test_pseudo_link_without_a_birth_time_is_taken_up(union: Workshop, udba: str) -> None:
    """One that an older version or a filesystem without birth times left has all its names."""
    u = _prepare(union, f"udba={udba}")
    _copy_up(u)
    u.kill()
    (record,) = (u.branch(0) / ".wh..wh.plnk").iterdir()
    number, copy, count, birth = record.name.split(".")
    assert (count, birth) == ("2", str(_birth(u.branch(1) / "a")))
    record.rename(record.with_name(f"{number}.{copy}.{count}"))
    u.start()
    assert (u / "b").read_text() == "old+"
    _append(u / "b")
    u.flush()
    assert (u.branch(0) / "b").samefile(u.branch(0) / "a")
    assert (u.branch(0) / "a").read_text() == "old++"


def _birth(path: Path) -> int:
    fd = os.open(path, os.O_PATH)
    try:
        return birth_of(fd) or 0
    finally:
        os.close(fd)
