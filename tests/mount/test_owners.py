# SPDX-License-Identifier: Apache-2.0
"""Changes of owner, with and without others who may change the branches: what they reach, and what they leave alone."""

import os
from pathlib import Path

import pytest

from tests.support.tree import Dir, File
from tests.support.union import Workshop


def _owner(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


@pytest.mark.parametrize("options", ["udba=none", "udba=reval", "udba=none,nopassthrough"])
def test_chown_of_upper_entries_changes_them_alone(union: Workshop, options: str) -> None:
    """A file loses its set-id bits, a link is changed itself, either id may stay; the same by both names of a hard link."""
    u = union.mount(options, B0={"d/f": File("f", mode=0o6755), "d/g": "g", "e": Dir()}, B1={"d/low": "low"})
    os.symlink("g", u / "d/l")
    (u / "d/hard").hardlink_to(u / "d/f")
    os.lstat(u / "d/f")
    os.chown(u / "d/f", 7, 8)
    os.chown(u / "d/hard", -1, 9)
    os.chown(u / "d/l", 5, -1, follow_symlinks=False)
    os.chown(u / "d/g", -1, 6)
    os.chown(u / "e", 3, 4)
    expected = {"d/f": (7, 9), "d/hard": (7, 9), "d/l": (5, 0), "d/g": (0, 6), "e": (3, 4), "d/low": (0, 0)}
    assert {name: _owner(u / name) for name in expected} == expected
    del expected["d/low"]
    assert {name: _owner(u.branch(0) / name) for name in expected} == expected
    assert (u.branch(0) / "d/f").stat().st_mode & 0o7777 == 0o755 == (u / "d/f").stat().st_mode & 0o7777


def test_chown_of_an_open_or_moved_file_changes_its_copy(union: Workshop) -> None:
    """The branch's name is the present one: after a rename, and not where the name is another file's by now."""
    u = union.mount("udba=none", B0={"d/f": "f", "d/g": "g"}, B1={})
    with open(u / "d/f", encoding="ascii") as stream:
        (u / "d/f").rename(u / "d/moved")
        (u / "d/f").touch()
        os.fchown(stream.fileno(), 7, 7)
        (u / "d/moved").unlink()
        os.fchown(stream.fileno(), 8, 8)
        assert os.fstat(stream.fileno()).st_uid == 8
    assert _owner(u.branch(0) / "d/f") == (0, 0) == _owner(u / "d/f")
