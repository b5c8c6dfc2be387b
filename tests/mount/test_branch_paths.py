# SPDX-License-Identifier: Apache-2.0
"""Paths of branches mean what the kernel takes them for, in every program."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.union import Workshop, program, unionfs


@pytest.fixture
def crossing(union: Workshop) -> Iterator[Path]:
    """Give a path that goes up behind a symbolic link; cut as text it would be another directory."""
    right = union.directory("a/b/right", {"f": "right"})
    (right.parent / "diff").mkdir()
    wrong = union.directory("l/right", {"f": "wrong"})
    (wrong.parent / "X").symlink_to("../a/b/diff")
    yield union.root / "l/X/../right"


def test_mount_takes_parents_behind_links_as_the_kernel(union: Workshop, crossing: Path) -> None:
    """Mounting, adding and removing such a branch is about the directory that the kernel finds."""
    u = union.mount("br:{top}=rw:{low}=ro", top={}, branches={"low": crossing})
    assert (u / "f").read_text() == "right"
    unionfs("branch", "del", u.mnt, crossing)
    assert not (u / "f").exists()
    unionfs("branch", "append", u.mnt, f"{crossing}=ro")
    assert (u / "f").read_text() == "right"
    unionfs("branch", "del", u.mnt, union.root / "a/b/right")
    assert not (u / "f").exists()


def test_overlay_takes_parents_behind_links_as_the_kernel(union: Workshop, crossing: Path) -> None:
    """unionfs-overlay finds the layer that containers-storage names so, also relative to the working directory."""
    mnt = union.root / "mnt"
    mnt.mkdir()
    command = program("unionfs-overlay", "unionfs.cli.overlay")
    for lower in (crossing, crossing.relative_to(union.root)):
        subprocess.run([*command, "-o", f"lowerdir={lower}", mnt], check=True, timeout=60, cwd=union.root)
        try:
            assert (mnt / "f").read_text() == "right"
        finally:
            subprocess.run(["umount", mnt], check=True)


def test_commands_take_parents_behind_links_as_the_kernel(union: Workshop, crossing: Path) -> None:
    """check looks at that directory, and a mount point may be named so."""
    (union.root / "a/b/right/.wh.f").touch()
    assert "f" in unionfs("check", crossing, check=False).stdout
    u = union.mount("br:{top}=rw", top={"g": "g"})
    (union.root / "l/Y").symlink_to(union.root / "a/b/diff")
    named = union.root / "l/Y/../../../U0"
    assert unionfs("status", named).stdout == unionfs("status", u.mnt).stdout
