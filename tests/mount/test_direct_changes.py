# SPDX-License-Identifier: Apache-2.0
"""Names taken away directly on a branch: what was copied up before and is copied up again must not be mixed up."""

import os
from pathlib import Path

from tests.support.tree import HardLink
from tests.support.union import Union, Workshop


def _forget_names(u: Union) -> None:
    """Let the kernel look every name up again, as it does by itself after a second."""
    assert u.change("udba=reval").returncode == 0


def _uncover(u: Union, name: str) -> None:
    """Take the whiteout of a lower file away directly: the file shows again."""
    (u.branch(0) / f".wh.{name}").unlink()
    _forget_names(u)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_nlink


def test_file_uncovered_beside_its_copy_is_linked_again(union: Workshop) -> None:
    """A lower file whose copy has another name and its number is a file of its own, and its new link is the same file."""
    u = union.mount(B0={}, B1={"f": "old"})
    (u / "f").rename(u / "moved")
    with (u / "moved").open("r+") as moved:
        moved.write("MOVED")
        moved.flush()
        _uncover(u, "f")
        (u / "n").hardlink_to(u / "f")
        _forget_names(u)
        assert _identity(u / "f") == _identity(u / "n")
        assert _identity(u / "f")[1] == 2
        assert _identity(u / "moved") == (os.fstat(moved.fileno()).st_ino, 1)
        assert _identity(u / "moved")[0] != _identity(u / "f")[0]
    (u / "n").write_text("new")
    assert ((u / "f").read_text(), (u / "moved").read_text()) == ("new", "MOVED")
    u.flush()
    assert (u.branch(0) / "f").samefile(u.branch(0) / "n")
    for name in ("f", "n", "moved"):
        (u / name).unlink()
    assert os.listdir(u.mnt) == []


def test_hard_links_uncovered_beside_their_copy_stay_one_file(union: Workshop) -> None:
    """Two names of a lower file are one file also while another one has the number that they would have."""
    u = union.mount(B0={}, B1={"f": "old", "g": HardLink("f")})
    (u / "f").rename(u / "moved")
    u.flush()
    with (u / "moved").open("r+"):
        (u.branch(0) / "g").unlink()
        _uncover(u, "f")
        assert _identity(u / "f") == _identity(u / "g")
        (u / "f").write_text("new")
        _forget_names(u)
        assert _identity(u / "f") == _identity(u / "g")
        assert (u / "g").read_text() == "new"


def test_copy_outlives_names_that_were_uncovered_and_removed_again(union: Workshop) -> None:
    """Removing an uncovered name once more counts one name too little; the others go on being the file."""
    u = union.mount(B0={}, B1={"f": "old"})
    (u / "n").hardlink_to(u / "f")
    for _ in range(2):
        (u / "f").unlink()
        _uncover(u, "f")
    _forget_names(u)
    assert (u / "f").read_text() == "old"
    assert (u / "n").read_text() == "old"
    (u / "n").write_text("new")
    (u / "f").unlink()
    assert (u / "n").read_text() == "new"
    (u / "n").unlink()
    assert os.listdir(u.mnt) == []
