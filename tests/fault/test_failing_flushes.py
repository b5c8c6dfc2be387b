# SPDX-License-Identifier: Apache-2.0
"""A flush of pseudo-links that fails on its way: nothing is kept in memory by that, and no name is lost."""

import os
import shutil

import pytest

from tests.support.strace import traced
from tests.support.tree import HardLink, Tree
from tests.support.union import SESSIONS, Union, Workshop, unionfs

pytestmark = pytest.mark.parametrize("union", SESSIONS, indirect=True)

LOWER: Tree = {
    "a": "old",
    **{f"d{number}/e/f": "f" for number in range(8)},
    "d4/b": HardLink("a"),
    "d5/e/c": HardLink("a"),
}
NAMES = ("a", "d4/b", "d5/e/c")


def _nodes(u: Union) -> int:
    return int(u.status()["counters"]["nodes"])


def _write(u: Union) -> None:
    (u / "a").write_text("new")


@pytest.mark.parametrize("call", ["getdents64", "newfstatat", "linkat"])
def test_flush_that_fails_in_the_middle_keeps_no_node(union: Workshop, call: str) -> None:
    """Wherever a listing, a lookup or a link fails: as many nodes as before, no busy branch, and the next one does it."""
    u = union.mount("udba=none", changing="B2", B0={}, B1=dict(LOWER), B2={"g": "g"})
    _write(u)
    before = _nodes(u)
    failed = 0
    for which in (1, 2, 9, 14, 23):
        with traced(u.pid, call, f"error=EIO:when={which}") as trace:
            done = unionfs("flush", u.mnt, check=False)
        failed += trace.was_injected and done.returncode != 0
        assert _nodes(u) == before, which
    assert failed
    unionfs("branch", "del", u.mnt, u.branch(2))
    unionfs("flush", u.mnt)
    assert _nodes(u) == before
    assert {(u.branch(0) / name).read_text() for name in NAMES} == {"new"}
    assert os.stat(u.branch(0) / "a").st_nlink == 3


@pytest.mark.parametrize("udba", ["none", "reval"])
def test_flush_beside_a_directory_removed_directly_loses_no_name(union: Workshop, udba: str) -> None:
    """The upper copy of a merged directory was taken away: the lower names in it still become names of the copy."""
    u = union.mount(f"udba={udba}", B0={"d4/own": "own"}, B1=dict(LOWER))
    u.allowed_log = ["pseudo-link"]
    assert sorted(os.listdir(u / "d4")) == ["b", "e", "own"]
    _write(u)
    shutil.rmtree(u.branch(0) / "d4")
    unionfs("flush", u.mnt, check=False)
    u.remount()
    assert {(u / name).read_text() for name in NAMES} == {"new"}
