# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told to look at again is seen anew, and what people have put on it stays."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.tree import Dir
from tests.support.union import Union, Workshop, eventually

KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])
needs_expiry = pytest.mark.skipif(
    KERNEL < (6, 2), reason="kernels before 6.2 drop a name that is to be looked up again"
)
each_way = pytest.mark.parametrize("udba", ["none", "reval", "notify"])


@contextmanager
def _mounted_on(u: Union, shop: Workshop) -> Iterator[None]:
    """Mount a directory on `d` and a file on `f` of a union."""
    directory = shop.directory("mounted", {"inside": ""})
    file = shop.root / "mounted.txt"
    file.write_text("mounted")
    targets = [str(u / "d"), str(u / "f")]
    syscalls.mount(str(directory), targets[0], None, syscalls.MS_BIND)
    syscalls.mount(str(file), targets[1], None, syscalls.MS_BIND)
    try:
        yield
    finally:
        for target in targets:
            syscalls.umount2(target, syscalls.MNT_DETACH)


def _is_covered(u: Union) -> bool:
    return os.listdir(u / "d") == ["inside"] and (u / "f").read_text() == "mounted"


@needs_expiry
@each_way
def test_mounts_inside_a_union_survive_changes_of_branches(union: Workshop, udba: str) -> None:
    """A branch is added and options change: what is mounted in the union stays."""
    u = union.mount(f"udba={udba}", B0={}, B1={"d/below": "", "f": "f"})
    with _mounted_on(u, union):
        assert _is_covered(u)
        more = union.directory("B2", {"new": "new", "d/more": ""})
        assert u.change(f"append:{more}").returncode == 0
        assert _is_covered(u)
        assert (u / "new").read_text() == "new"
        assert u.change(f"del:{more}").returncode == 0
        assert _is_covered(u)
    assert os.listdir(u / "d") == ["below"]
    assert (u / "f").read_text() == "f"


@needs_expiry
def test_working_directory_keeps_its_name_when_branches_change(union: Workshop) -> None:
    """A process goes on knowing where it is."""
    u = union.mount(B0={}, B1={"d/e/f": ""})
    before = os.getcwd()
    os.chdir(u / "d/e")
    try:
        assert u.change(f"append:{union.directory('B2', {'d/e/more': ''})}").returncode == 0
        assert sorted(os.listdir(u / "d/e")) == ["f", "more"]
        assert os.getcwd() == str(u / "d/e")
        assert Path("f").exists()
    finally:
        os.chdir(before)


@each_way
def test_every_cached_name_is_seen_anew_after_a_change_of_branches(union: Workshop, udba: str) -> None:
    """Names that were there, that were absent and that were listed, at the top and below."""
    u = union.mount(f"udba={udba}", B0={"d": Dir()}, B1={"f": "low", "d/f": "low", "d/e/f": "low"})
    names = ("f", "absent", "d/f", "d/absent", "d/e/f", "d/e/absent")
    assert [(u / name).exists() for name in names] == [True, False] * 3
    lists = [sorted(os.listdir(u / name)) for name in (".", "d", "d/e")]
    added = union.directory("B2", dict.fromkeys(names, "top"))
    assert u.change(f"add:0:{added}=ro").returncode == 0
    assert [(u / name).read_text() for name in names] == ["top"] * 6
    assert sorted(os.listdir(u / "d/e")) == ["absent", "f"]
    assert u.change(f"del:{added}").returncode == 0
    assert [(u / name).exists() for name in names] == [True, False] * 3
    assert [(u / name).read_text() for name in names[::2]] == ["low"] * 3
    assert [sorted(os.listdir(u / name)) for name in (".", "d", "d/e")] == lists


@needs_expiry
def test_notify_leaves_mounts_on_names_that_come_back(union: Workshop) -> None:
    """udba=notify: a file and a directory are renamed on the branch and back; what is mounted on them stays."""
    u = union.mount("udba=notify", changing="B1", B0={}, B1={"d/below": "", "f": "f"})
    with _mounted_on(u, union):
        for name in ("d", "f"):
            (u.branch(1) / name).rename(u.branch(1) / "away")
            (u.branch(1) / "away").rename(u.branch(1) / name)
        assert not (u / "marker").exists()
        (u.branch(1) / "marker").write_text("")
        eventually((u / "marker").exists, "the event after the renames")
        assert _is_covered(u)


def test_notify_shows_what_a_directory_brings(union: Workshop) -> None:
    """udba=notify: a directory moved over a cached one shows its files, also where a name was absent, at any depth."""
    u = union.mount("udba=notify", B0={"d": Dir()}, B1={"d/e/f": "low"})
    new = union.directory("new", {"f": "top", "absent": "top"})
    assert (u / "d/e/f").read_text() == "low"
    assert not (u / "d/e/absent").exists()
    new.rename(u.branch(0) / "d/e")
    eventually((u / "d/e/absent").exists, "the absent name")
    assert (u / "d/e/f").read_text() == "top"
