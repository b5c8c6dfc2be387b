# SPDX-License-Identifier: Apache-2.0
"""What a new name leaves on the branches (docs/aufs.md §3.2): tables over a union that nobody mounts."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.core import ME, outcome, state, union, walk_to
from unionfs.filesystem import UnionFilesystem

# Branches, the path, and what is on B0 after a file was made there, or the errno.
FILES = [
    (("rw:",), "n", "n=new"),
    (("rw: .wh.n", "ro: n"), "n", "n=new"),
    (("rw:", "ro: d/"), "d/n", "d/ d/n=new"),
    (("rw: d/.wh.n", "ro: d/n"), "d/n", "d/ d/n=new"),
    (("rw:", "ro: n"), "n", "EEXIST"),
    (("rw: n",), "n", "EEXIST"),
    (("ro:", "rw:"), "n", "EROFS"),  # what is below a directory's top would be no place for it
    (("rw:",), ".wh.n", "EPERM"),
]
DIRECTORIES = [
    (("rw:",), "n", "", "n/"),
    (("rw:",), "n", "diropq=a", "n/ n/.wh..wh..opq"),
    (("rw: .wh.n", "ro: n/f"), "n", "", "n/ n/.wh..wh..opq"),
    (("rw: .wh.n", "ro:"), "n", "", "n/ n/.wh..wh..opq"),
    (("rw:", "ro+wh: .wh.n", "ro: n/f"), "n", "", "n/"),  # what hides the lower one stays
    (("rw:", "ro: n/"), "n", "", "EEXIST"),
]


def _file(filesystem: UnionFilesystem, path: str) -> None:
    parent, name = walk_to(filesystem, path)
    _, handle = filesystem.create(parent, name, 0o644, os.O_WRONLY, ME)
    filesystem.write(handle, 0, b"new")
    filesystem.release(handle)


def _directory(filesystem: UnionFilesystem, path: str) -> None:
    parent, name = walk_to(filesystem, path)
    made = filesystem.mkdir(parent, name, 0o755, ME).node
    handle = filesystem.open_directory(made, ME)
    assert {entry.name for entry, _ in filesystem.read_directory(handle, 0)} == {b".", b".."}
    filesystem.release(handle)


def _check(
    make: Callable[[UnionFilesystem, str], None],
    layout: Sequence[str],
    path: str,
    options: str,
    wanted: str,
    root: Path,
) -> None:
    with union(root, layout, options) as filesystem:
        branches = [root / f"B{at}" for at in range(len(layout))]
        before = [state(branch) for branch in branches]
        failed = outcome(lambda: make(filesystem, path))
        assert failed == (wanted if wanted.startswith("E") else "")
    after = [state(branch) for branch in branches]
    assert after == (before if failed else [set(wanted.split()), *before[1:]])


@pytest.mark.parametrize("options", ["udba=reval", "udba=none"])
@pytest.mark.parametrize(("layout", "path", "wanted"), FILES)
def test_create_leaves_the_first_branch_as_the_table_says(
    layout: Sequence[str], path: str, wanted: str, options: str, tmp_path: Path
) -> None:
    """The old whiteout goes, missing parents come, nothing else changes."""
    _check(_file, layout, path, options, wanted, tmp_path)


@pytest.mark.parametrize("udba", ["udba=reval", "udba=none"])
@pytest.mark.parametrize(("layout", "path", "options", "wanted"), DIRECTORIES)
def test_mkdir_over_a_whiteout_is_opaque(
    layout: Sequence[str], path: str, options: str, wanted: str, udba: str, tmp_path: Path
) -> None:
    """So that a new directory is empty; a fresh name needs no mark."""
    _check(_directory, layout, path, f"{udba},{options}", wanted, tmp_path)
