# SPDX-License-Identifier: Apache-2.0
"""What a listing shows of several copies (docs/aufs.md §2.4): a table over a union that nobody mounts."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.core import ME, union, walk_to
from unionfs.filesystem import UnionFilesystem

# Branches, and what `d` lists; a directory with a slash.
ROWS = [
    (("rw: d/f", "ro: d/g"), "f g"),
    (("rw: d/f", "ro: d/f"), "f"),
    (("rw: d/.wh.f", "ro: d/f d/g"), "g"),
    (("rw: d/f d/.wh.f", "ro: d/f"), "f"),
    (("rw: d/", "ro: d/.wh.f", "ro: d/f"), "f"),  # not whable: neither hides nor shows
    (("rw: d/", "ro+wh: d/.wh.f", "ro: d/f"), ""),
    (("rw: d/f", "ro+wh: d/.wh.f", "ro: d/f"), "f"),
    (("rw: d/", "ro: d/f", "ro+wh: d/.wh.f"), "f"),  # it hides what is below, not above
    (("rw: d/.wh..wh..opq d/f", "ro: d/g"), "f"),
    (("ro: d/.wh..wh..opq d/f", "ro: d/g"), "f g"),
    (("rw: d/s/", "ro: d/s"), "s/"),
    (("rw: d/s", "ro: d/s/"), "s"),
    (("rw: d/s/", "ro: d/s/ d/f"), "f s/"),
    (("rw: d/f", "ro: d", "ro: d/g"), "f g"),
    (("rw: d/.wh.", "ro: d/f"), "f"),
    (("rw: d/", "ro+ovl: d/f!", "ro: d/f d/g"), "g"),
    (("rw: d/", "ro: d/f!", "ro: d/f d/g"), "f g"),
    (("rw: d/", "ro: d/a d/b", "ro+wh: d/.wh.c d/a", "rw: d/c d/e"), "a b e"),
    (("rw: d/f",), "f"),
    (("rw: d/f d/.wh.g",), "f"),
]


def _list(filesystem: UnionFilesystem, path: str) -> list[str]:
    """Return the names of a listing in its order, but for the dots, which are there once each."""
    node = filesystem.lookup(*walk_to(filesystem, path)).node
    handle = filesystem.open_directory(node, ME)
    entries = [entry for entry, _ in filesystem.read_directory(handle, 0)]
    names = [os.fsdecode(entry.name) + "/" * (entry.kind == stat.S_IFDIR >> 12) for entry in entries]
    assert sorted(names)[:2] == ["../", "./"] and len({entry.offset for entry in entries}) == len(names)
    for entry in entries:
        if entry.name not in (b".", b".."):
            assert filesystem.lookup(node, entry.name).node.ino == entry.ino, entry.name
    filesystem.release(handle)
    return [name for name in names if name not in ("./", "../")]


@pytest.mark.parametrize("options", ["udba=reval", "udba=none"])
@pytest.mark.parametrize(("layout", "wanted"), ROWS)
def test_listing_shows_each_name_once_as_its_highest_copy(
    layout: Sequence[str], wanted: str, options: str, tmp_path: Path
) -> None:
    """The table; each entry is one that a lookup finds, with the number that it has."""
    with union(tmp_path, layout, options) as filesystem:
        assert sorted(_list(filesystem, "d")) == wanted.split()
        assert sorted(_list(filesystem, "d")) == wanted.split()


def test_listing_with_shwh_shows_the_whiteouts(tmp_path: Path) -> None:
    """`shwh` shows names that hide others, and they go on hiding."""
    layout = ("ro+wh: d/.wh.f d/g", "ro: d/f d/h")
    with union(tmp_path, layout, "shwh,ro") as filesystem:
        assert sorted(_list(filesystem, "d")) == [".wh.f", "g", "h"]


@pytest.mark.parametrize("permission", ["rw", "ro"])
def test_listing_in_pieces_is_the_listing_at_once(permission: str, tmp_path: Path) -> None:
    """From each offset on exactly what follows is listed, whether the lowest copy is streamed or sorted."""
    layout = (
        "rw: " + " ".join(f"d/u{at}" for at in range(30)) + " d/.wh.l7 d/l3",
        f"{permission}: " + " ".join(f"d/l{at}" for at in range(30)),
    )
    with union(tmp_path, layout, "udba=none") as filesystem:
        node = filesystem.lookup(*walk_to(filesystem, "d")).node
        handle = filesystem.open_directory(node, ME)
        whole = [(entry.offset, entry.name) for entry, _ in filesystem.read_directory(handle, 0)]
        assert len({name for _, name in whole}) == len(whole) == 30 + 29 + 2
        for at, (offset, _) in enumerate(whole):
            rest = [(entry.offset, entry.name) for entry, _ in filesystem.read_directory(handle, offset)]
            assert rest == whole[at + 1 :]
        filesystem.release(handle)
