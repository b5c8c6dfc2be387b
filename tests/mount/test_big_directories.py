# SPDX-License-Identifier: Apache-2.0
"""Directories with many entries: every name once, whatever the copies hide, and stable positions."""

import os
from pathlib import Path

import pytest

from tests.support.union import Workshop

MANY = 40_000
MORE = 270_000  # than are remembered by name while copies are merged


def _fill(directory: Path, first: int, last: int, prefix: str = "name") -> None:
    directory.mkdir(exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    try:
        for number in range(first, last):
            os.close(os.open(f"{prefix}{number:07}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    finally:
        os.close(fd)


def test_list_many_entries_of_one_copy_shows_each_once(union: Workshop) -> None:
    """A directory that only one branch has is streamed: each name once, and again when it is listed anew."""
    lower = union.directory("lower")
    _fill(lower / "d", 0, MANY)
    u = union.mount(changing="B1", B0={}, B1=lower)
    for _ in range(2):
        names = os.listdir(u / "d")
        assert len(names) == len(set(names)) == MANY


def test_list_many_entries_of_merged_copies_shows_each_once(union: Workshop) -> None:
    """Upper entries win, whiteouts hide, the rest of the lower copy shows; a new file is seen by the next listing."""
    upper, lower = union.directory("upper"), union.directory("lower")
    _fill(lower / "d", 0, MANY)
    _fill(upper / "d", MANY - 100, MANY + 100)
    _fill(upper / "d", 0, 50, prefix=".wh.name")
    u = union.mount(changing="B1", B0=upper, B1=lower)
    names = os.listdir(u / "d")
    assert len(names) == len(set(names)) == MANY + 100 - 50
    assert "name0000000" not in names
    (u / "d/new").touch()
    assert "new" in os.listdir(u / "d")


def test_list_more_entries_than_are_remembered_shows_each_once(union: Workshop) -> None:
    """What an upper copy has or hides stays hidden below, also beyond the names that are kept in memory."""
    if union.session != "direct":
        pytest.skip("merging is the same for both sessions, and pyfuse3 must look every entry up")
    upper, lower = union.directory("upper"), union.directory("lower")
    _fill(upper / "d", 0, MORE)
    _fill(upper / "d", MORE, MORE + 50, prefix=".wh.name")
    _fill(lower / "d", MORE - 2000, MORE + 100)
    u = union.mount(changing="B1", B0=upper, B1=lower)
    names = os.listdir(u / "d")
    assert len(names) == len(set(names)) == MORE + 50


def test_remove_many_entries_while_listing_leaves_an_empty_directory(union: Workshop) -> None:
    """rm -r of a directory lists and removes by turns; nothing is skipped."""
    lower = union.directory("lower")
    _fill(lower / "d", 0, 3000)
    u = union.mount(changing="B1", B0={}, B1=lower)
    with os.scandir(u / "d") as entries:
        for entry in entries:
            os.unlink(entry.path)
    (u / "d").rmdir()
    assert (u.branch(0) / ".wh.d").exists()
    assert len(os.listdir(lower / "d")) == 3000


@pytest.mark.parametrize("copies", [1, 2])
def test_listing_goes_on_when_the_kernel_loses_what_it_cached_of_it(union: Workshop, copies: int) -> None:
    """With udba=none the kernel keeps listings: one that began there and lost it goes on at the server, in the middle."""
    branches = {f"B{number}": union.directory(f"b{number}") for number in range(1, copies + 1)}
    for number, branch in enumerate(branches.values()):
        _fill(branch / "d", number * 1500, (number + 1) * 1500)
    u = union.mount("udba=none", branches=branches, B0={})
    assert len(os.listdir(u / "d")) == copies * 1500
    with os.scandir(u / "d") as entries:
        names = [next(entries).name]
        fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        names += [entry.name for entry in entries]
    assert len(names) == len(set(names)) == copies * 1500
