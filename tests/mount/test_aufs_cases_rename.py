# SPDX-License-Identifier: Apache-2.0
"""AUFS' acceptance cases 26–29 and the rename flags: what moves, what is EXDEV, what becomes opaque."""

import os
import shutil
import subprocess

import pytest

from tests.support import syscalls, tree
from tests.support.errnos import refused
from tests.support.tree import Dir, Tree
from tests.support.union import Workshop


def test_rename_lower_file_copies_up_and_whites_out(union: Workshop) -> None:
    """Case 26: B0 has the new name and the old one's whiteout; the inode number stays."""
    u = union.mount(B0={}, B1={"a": "a"})
    before = (u / "a").stat().st_ino
    (u / "a").rename(u / "b")
    assert (u.branch(0) / "b").read_text() == "a"
    assert tree.names(u.branch(0)) == {"b", ".wh.a"}
    assert (u / "b").stat().st_ino == before


def test_rename_onto_lower_file_replaces_it(union: Workshop) -> None:
    """Case 27: the target's lower copy is covered by the new file."""
    u = union.mount(B0={}, B1={"a": "a", "b": "b"})
    (u / "a").rename(u / "b")
    assert (u / "b").read_text() == "a"
    assert os.listdir(u.mnt) == ["b"]
    assert tree.names(u.branch(0)) == {"b", ".wh.a"}


def test_rename_onto_whiteout_removes_it(union: Workshop) -> None:
    """Case 27: the same result when the target was deleted before."""
    u = union.mount(B0={}, B1={"a": "a", "b": "b"})
    (u / "b").unlink()
    (u / "a").rename(u / "b")
    assert (u / "b").read_text() == "a"
    assert tree.names(u.branch(0)) == {"b", ".wh.a"}


def test_rename_upper_only_directory_needs_no_whiteout(union: Workshop) -> None:
    """Case 28: a directory that is only on B0 just moves."""
    u = union.mount(B0={"d/x": "x"}, B1={})
    (u / "d").rename(u / "e")
    assert tree.names(u.branch(0)) == {"e", "e/x"}


def test_rename_lower_directory_with_children_is_exdev_and_mv_copies(union: Workshop) -> None:
    """Case 28: rename(2) gives EXDEV, mv(1) then does it by copying."""
    u = union.mount(B0={}, B1={"d/x": "x"})
    with refused("EXDEV"):
        (u / "d").rename(u / "e")
    assert tree.names(u.branch(0)) <= {"d"}
    subprocess.run(["mv", u / "d", u / "e"], check=True)
    assert (u.branch(0) / "e/x").read_text() == "x"
    assert os.listdir(u.mnt) == ["e"]


def test_rename_empty_lower_directory_moves(union: Workshop) -> None:
    """Case 28: an empty lower directory is copied up and moved."""
    u = union.mount(B0={}, B1={"d": Dir()})
    (u / "d").rename(u / "e")
    assert {n for n in tree.names(u.branch(0)) if not n.endswith("opq")} == {"e", ".wh.d"}
    assert os.listdir(u.mnt) == ["e"]


def test_rename_directory_whose_lower_children_are_whited_out_moves(union: Workshop) -> None:
    """Case 28: every lower child whited out by the top copy: allowed, and the old name is whited out."""
    u = union.mount(B0={"d/.wh.x": "", "d/y": "y"}, B1={"d/x": "x"})
    (u / "d").rename(u / "e")
    assert (u.branch(0) / ".wh.d").exists()
    assert os.listdir(u.mnt) == ["e"]
    assert os.listdir(u / "e") == ["y"]


def test_rename_directory_with_overridden_lower_child_is_exdev(union: Workshop) -> None:
    """Case 28: a same-named child above is not enough."""
    u = union.mount(B0={"d/x": "new"}, B1={"d/x": "old"})
    with refused("EXDEV"):
        (u / "d").rename(u / "e")
    assert (u / "d/x").read_text() == "new"
    assert tree.names(u.branch(0)) == {"d", "d/x"}


def test_rename_directory_onto_whited_out_name_is_opaque(union: Workshop) -> None:
    """Case 29: the new directory hides what the old name held."""
    u = union.mount(B0={}, B1={"e/old": "old"})
    shutil.rmtree(u / "e")
    (u / "d").mkdir()
    (u / "d/f").write_text("f")
    (u / "d").rename(u / "e")
    assert os.listdir(u / "e") == ["f"]
    assert tree.names(u.branch(0)) == {"e", "e/f", "e/.wh..wh..opq"}


def test_rename_directory_over_emptied_lower_directory_is_opaque(union: Workshop) -> None:
    """Rule 7 of renaming: a lower branch has an entry at the new name, so the moved directory is opaque."""
    u = union.mount(B0={}, B1={"e/old": "old"})
    (u / "e/old").unlink()
    (u / "d").mkdir()
    (u / "d/f").write_text("f")
    (u / "d").rename(u / "e")
    assert os.listdir(u / "e") == ["f"]
    assert os.listdir(u.mnt) == ["e"]


def test_rename_directory_over_non_empty_is_enotempty(union: Workshop) -> None:
    """Rule 1: an existing target directory must be logically empty."""
    u = union.mount(B0={"d/f": "f"}, B1={"e/old": "old"})
    with refused("ENOTEMPTY"):
        (u / "d").rename(u / "e")
    assert os.listdir(u / "e") == ["old"]


PLACES: dict[str, tuple[Tree, Tree]] = {
    "upper-upper": ({"a": "a", "b": "b"}, {}),
    "lower-lower": ({}, {"a": "a", "b": "b"}),
    "upper-lower": ({"a": "a"}, {"b": "b"}),
    "lower-upper": ({"b": "b"}, {"a": "a"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_rename_noreplace_existing_target_is_eexist(union: Workshop, place: str) -> None:
    """RENAME_NOREPLACE refuses an existing name on whatever branch, and works on a free one."""
    top, lower = PLACES[place]
    u = union.mount(B0=top, B1=lower)
    with refused("EEXIST"):
        syscalls.renameat2(str(u / "a"), str(u / "b"), syscalls.RENAME_NOREPLACE)
    syscalls.renameat2(str(u / "a"), str(u / "c"), syscalls.RENAME_NOREPLACE)
    assert (u / "c").read_text() == "a"
    assert sorted(os.listdir(u.mnt)) == ["b", "c"]


@pytest.mark.parametrize("place", PLACES)
def test_rename_exchange_swaps_files_of_any_branch(union: Workshop, place: str) -> None:
    """RENAME_EXCHANGE brings both sides to one branch and swaps them; numbers go with the files."""
    top, lower = PLACES[place]
    u = union.mount(B0=top, B1=lower)
    numbers = (u / "a").stat().st_ino, (u / "b").stat().st_ino
    syscalls.renameat2(str(u / "a"), str(u / "b"), syscalls.RENAME_EXCHANGE)
    assert ((u / "a").read_text(), (u / "b").read_text()) == ("b", "a")
    assert ((u / "b").stat().st_ino, (u / "a").stat().st_ino) == numbers
    u.remount()
    assert ((u / "a").read_text(), (u / "b").read_text()) == ("b", "a")


def test_rename_exchange_file_and_directory_swaps(union: Workshop) -> None:
    """Exchange of a file with a directory of B0 works."""
    u = union.mount(B0={"d/x": "x", "f": "f"}, B1={})
    syscalls.renameat2(str(u / "d"), str(u / "f"), syscalls.RENAME_EXCHANGE)
    assert (u / "d").read_text() == "f"
    assert (u / "f/x").read_text() == "x"


def test_rename_whiteout_flag_is_einval(union: Workshop) -> None:
    """RENAME_WHITEOUT is refused as AUFS refuses it."""
    u = union.mount(B0={"a": "a"}, B1={})
    with refused("EINVAL"):
        syscalls.renameat2(str(u / "a"), str(u / "b"), syscalls.RENAME_WHITEOUT)


def test_rename_file_over_directory_and_back_has_posix_errnos(union: Workshop) -> None:
    """Rule 1: EISDIR and ENOTDIR, whatever branches the two are on."""
    u = union.mount(B0={}, B1={"f": "f", "d": Dir()})
    with refused("EISDIR"):
        (u / "f").rename(u / "d")
    with refused("ENOTDIR"):
        (u / "d").rename(u / "f")


def test_rename_directory_into_itself_is_einval(union: Workshop) -> None:
    """The kernel's rule, kept."""
    u = union.mount(B0={}, B1={"d/e": Dir()})
    with refused("EINVAL"):
        (u / "d").rename(u / "d/e/x")
