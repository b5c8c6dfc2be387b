# SPDX-License-Identifier: Apache-2.0
"""What is remembered of names has a bound, in the server and of what the kernel was told."""

import os
from pathlib import Path

from unionfs.branches.branch import Branch
from unionfs.filesystem import UnionFilesystem
from unionfs.lookup.known_names import KnownNames
from unionfs.options.aufs import Options
from unionfs.session.cached_names import CachedName, CachedNames

FILES = 200
BUDGET = 10_000


def _look(filesystem: UnionFilesystem, directory: bytes, times: int = 64) -> None:
    """Look a name up so often that the directory's names are read."""
    node = filesystem.lookup(filesystem.node(1), directory).node
    node.lookups = 1  # as a session would count
    for _ in range(times):
        filesystem.lookup(node, b"f0")


def test_known_names_stay_below_their_budget_and_the_least_used_go(tmp_path: Path) -> None:
    """Many directories are looked into: their names take no more than the budget, and those in use stay."""
    (tmp_path / "B0").mkdir()
    for number in range(30):
        (tmp_path / f"B1/d{number}").mkdir(parents=True)
        for file in range(FILES):
            (tmp_path / f"B1/d{number}/f{file}").touch()
    filesystem = UnionFilesystem.open(
        [Branch(str(tmp_path / "B0"), "rw"), Branch(str(tmp_path / "B1"), "rr")], Options(udba="none")
    )
    try:
        union = filesystem._union
        union.known.budget = BUDGET
        for number in range(30):
            _look(filesystem, b"d%d" % number)
            _look(filesystem, b"d0", 1)
            assert union.known.bytes <= BUDGET
        known = {node.name for node in union.nodes if node.contents and any(node.contents)}
        assert {b"d0", b"d29"} <= known
        assert 2 <= len(known) <= BUDGET // (FILES * 4)
        assert union.known.bytes > 0
        union.directories.close_all()
        union.known.forget(union.root)
        assert union.known.bytes == 0
    finally:
        filesystem.close()


def test_default_budget_holds_the_names_of_one_big_directory() -> None:
    """The biggest directory whose names are read fits, so that one is never dropped for itself."""
    assert KnownNames().budget > (1 << 16) * 8


def test_absent_names_beyond_the_bound_are_doubted() -> None:
    """The kernel is asked to look the oldest up again, so that none is believed that nobody remembers."""
    cached = CachedNames(100)
    doubted: list[CachedName] = []
    cached.on_overflow = doubted.extend
    given = [(directory, b"n%d" % number) for directory in range(2, 42) for number in range(10)]
    for directory, name in given:
        cached.absent(directory, name)
        cached.absent(directory, name)
    left = cached.take_all([])
    assert len(left) <= 100
    assert sorted(doubted + left) == given
    assert cached.take_all([]) == []


def test_names_that_were_made_count_as_absent_no_more() -> None:
    """Programs look up each name before they make it: nobody is to doubt what exists for that."""
    cached = CachedNames(100)
    doubted: list[CachedName] = []
    cached.on_overflow = doubted.extend
    for number in range(1000):
        cached.absent(2 + number % 7, b"n%d" % number)
        cached.present(2 + number % 7, b"n%d" % number)
        cached.present(2, b"never absent")
    cached.absent(2, b"absent")
    assert not doubted
    assert cached.take_all([]) == [(2, b"absent")]


def test_absent_names_below_a_directory_are_found(tmp_path: Path) -> None:
    """A directory's absent names are told with its own, and no others."""
    (tmp_path / "B0/d/e").mkdir(parents=True)
    filesystem = UnionFilesystem.open([Branch(str(tmp_path / "B0"), "rw")], Options())
    try:
        directory = filesystem.lookup(filesystem.node(1), b"d").node
        below = filesystem.lookup(directory, b"e").node
        cached = CachedNames()
        for node in (filesystem._union.root, directory, below):
            cached.absent(node.nodeid, b"absent")
        assert set(cached.take_below(directory)) == {
            (directory.nodeid, b"absent"), (directory.nodeid, b"e"), (below.nodeid, b"absent")
        }  # fmt: skip
        assert cached.take_all([]) == [(filesystem._union.root.nodeid, b"absent")]
    finally:
        filesystem.close()
    assert os.listdir(tmp_path / "B0/d/e") == []
