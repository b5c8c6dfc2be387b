# SPDX-License-Identifier: Apache-2.0
"""A union whose branch is a union itself, as podman's image mounts are: it answers EPERM for names that begin with `.wh.`."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.place import refused
from tests.support.tree import Dir, File, Tree
from tests.support.union import Union, Workshop, eventually, program, unionfs

BELOW: Tree = {
    "d/one": File("one"),
    "d/sub/deep": File("deep"),
    "gone": File("gone"),
    "e": Dir(),
    "file": File("file"),
}
FORMS = ["whiteout=aufs", "whiteout=overlay"]


def inner(union: Workshop, form: str) -> Union:
    """Mount a union in which a lower name is deleted and a directory is merged."""
    u = union.mount(f"{form},udba=none,br:{{T}}=rw:{{B}}=ro+wh", T={"d/two": File("two")}, B=dict(BELOW))
    (u / "gone").unlink()
    return u


def names(path: Path) -> dict[str, list[str]]:
    return {place: sorted(os.listdir(path / place)) for place in (".", "d", "d/sub", "e")}


@pytest.mark.parametrize("outer", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_union_over_a_union_shows_and_changes_its_files(union: Workshop, form: str, outer: str) -> None:
    """Everything in the lower union is reached, merged, deleted, renamed and copied up; the lower union stays as it is."""
    low = inner(union, form)
    before = names(low.mnt)
    above = union.directory("above", {"d/three": File("three")})
    middle = union.directory("middle", {"d/four": File("four")})
    u = union.mount(f"{outer},br:{above}=rw:{low.mnt}=ro+wh+ovl:{middle}=ro+wh+ovl")
    assert names(u.mnt) == before | {"d": ["four", "one", "sub", "three", "two"]}
    assert (u / "d/sub/deep").read_text() == "deep"
    (u / "d/one").unlink()
    (u / "d/four").unlink()
    (u / "e").rmdir()
    (u / "e").mkdir()
    (u / "d/two").rename(u / "d/sub/two")
    with (u / "file").open("a") as file:
        file.write("d")
    assert names(u.mnt) == before | {"d": ["sub", "three"], "d/sub": ["deep", "two"]}
    assert (u / "file").read_text() == "filed"
    assert (names(low.mnt), (low / "file").read_text()) == (before, "file")


@pytest.mark.parametrize("form", FORMS)
def test_directory_of_a_union_as_writable_branch_is_refused_in_one_line(
    union: Workshop, form: str, tmp_path: Path
) -> None:
    """The message names the directory and says what to do, in both forms, also for one that is appended or becomes writable."""
    low = inner(union, form)
    upper, mnt = low / "d", tmp_path / "mnt"
    mnt.mkdir()
    argv = [
        *program("unionfs-overlay", "unionfs.cli.overlay"),
        "-o",
        f"lowerdir=/mnt,upperdir={upper}",
        str(mnt),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    refused(done, f"branch {upper}: it lies on a union")
    refused(
        unionfs("mount", "-o", f"br:{upper}=rw:/mnt", mnt, check=False), f"branch {upper}: it lies on a union"
    )
    u = union.mount("br:{A}=rw", A={})
    eventually(lambda: unionfs("status", u.mnt, check=False).returncode == 0, "an answer")
    refused(unionfs("branch", "append", u.mnt, f"{upper}=rw", check=False), "it lies on a union")
