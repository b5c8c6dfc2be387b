# SPDX-License-Identifier: Apache-2.0
"""Pseudo-links and a server that dies at any of its system calls, or whose branch refuses one of them."""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import tree
from tests.support.kills import is_killed
from tests.support.links import Links, Model, Step, check_and_repair, make_links
from tests.support.tree import HardLink
from tests.support.union import Workshop, unionfs
from unionfs.branches.branch import Branch
from unionfs.cli.check import check_branch
from unionfs.options.aufs import Options

NAMES = ["a", "b", "d/a", "d/b", "d/e/a", "x/a", "x/b", "new", "x/new"]
STACKS = {
    "one lower branch": "W0 L0",
    "lower branch under another": "W0 L1 L0",
    "two writable branches": "W0 W1 L0",
    "three writable branches": "W0 W1 W2 L1 L0",
}
# The file F has the names of the first word, G those of the second; then come the steps.
SCRIPTS = {
    "copy-up": "a,d/a - write:a:F1",
    "copy-up of five": "a,b,d/b,d/e/a,x/a - write:d/e/a:F1",
    "link of a lower file": "a,d/a - link:a:x/new write:d/a:F1",
    "link of a copy": "a,d/a,x/a - write:a:F1 link:d/a:new",
    "unlink of the copied name": "a,d/a,x/a - write:a:F1 unlink:a",
    "unlink of a lower name": "a,d/a,x/a - write:a:F1 unlink:d/a",
    "unlink of all": "a,d/a - write:a:F1 unlink:d/a unlink:a",
    "rename of the copied name": "a,d/a,x/a - write:a:F1 rename:a:x/new",
    "rename of a lower name": "a,d/a,x/a - write:a:F1 rename:d/a:new",
    "rename over a lower name": "a,d/a,x/a b,x/b write:a:F1 write:b:G1 rename:x/b:d/a",
    "rename over the copied name": "a,d/a,x/a b write:a:F1 rename:b:a",
    "exchange": "a,d/a b,x/b write:a:F1 exchange:x/b:d/a",
    "flush": "a,b,d/b,d/e/a,x/a - write:b:F1 flush",
    "write by another name after the kill": "a,d/a,x/a - write:a:F1 crash write:d/a:F2 unlink:x/a",
    "unlink after the kill": "a,d/a,x/a - write:a:F1 crash unlink:a",
    "flush after the kill": "a,d/a,x/a - link:x/a:new crash rename:d/a:d/b flush",
    "umount after the kill": "a,d/a,x/a b,d/b write:x/a:F1 crash write:d/b:G1 remount",
}


class _Case:
    """One script on one stack of branches."""

    def __init__(self, root: Path, stack: str, script: str, options: Options) -> None:
        first, second, *steps = script.split()
        self.root, self.stack, self.options = root, stack.split(), options
        self.names = {"F": first.split(","), "G": second.split(",") if second != "-" else []}
        self.steps: list[Step] = [tuple(step.split(":")) for step in steps]
        files = {name: file for file, names in self.names.items() for name in names}
        self.states = [Model(files, {"F": "F0", "G": "G0"})]
        for step in self.steps:
            self.states.append(self.states[-1].after(step))

    def build(self) -> None:
        """Make the branches anew; every writable one but the first has some of the directories."""
        for name in self.stack:
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(parents=True)
            if name in ("W1", "W2"):
                (self.root / name / ("d" if name == "W1" else "x")).mkdir()
        for directory in ("d/e", "x"):
            (self.root / "L0" / directory).mkdir(parents=True)
        for file, names in self.names.items():
            if names:
                make_links(self.root / "L0", names, f"{file}0")

    @property
    def branches(self) -> list[Branch]:
        """Return the branches."""
        return [
            Branch(str(self.root / name), "rw" if name[0] == "W" else "ro", frozenset({"wh"}))
            if name[0] == "L"
            else Branch(str(self.root / name), "rw")
            for name in self.stack
        ]

    def mount(self) -> Links:
        """Mount in this process."""
        return Links(self.branches, self.options, NAMES, forgets=len(self.names["F"]) % 2 == 0)

    def up_to(self, number: int) -> Callable[[], None]:
        """Do the steps before a step; return what does that one."""
        links = self.mount()

        def do(step: Step) -> None:
            nonlocal links
            if step[0] == "remount":
                links.close()
            if step[0] == "crash":
                links.die()
            if step[0] in ("remount", "crash"):
                links = self.mount()
            else:
                links.do(step)

        for position, step in enumerate(self.steps[:number], 1):
            do(step)
            assert self.states[position].agrees(links.shown()), step
        return lambda: do(self.steps[number])


def _combinations() -> list[tuple[str, str, str]]:
    """Return (form, stack, script): each script once, each form and stack several times."""
    forms, stacks = itertools.cycle(["aufs", "overlay"]), itertools.cycle([*STACKS, list(STACKS)[2]])
    return [(next(forms), next(stacks), script) for script in SCRIPTS]


@pytest.mark.parametrize(("form", "stack", "script"), _combinations())
def test_kill_at_any_call_keeps_names_one_file(tmp_path: Path, form: str, stack: str, script: str) -> None:
    """Killed before each mutating call of each step: every name has what was written, link counts and numbers agree.

    Then, and after one name more was removed and the union mounted once more, also where `check -r` came in between.
    """
    case = _Case(tmp_path, STACKS[stack], SCRIPTS[script], Options(fsync=False, whiteout=form, udba="none"))
    for step in range(len(case.steps)):
        number, killed = 0, True
        while killed:
            number += 1
            case.build()
            killed = is_killed(lambda step=step: case.up_to(step), number)  # type: ignore[misc]
            outcomes = [case.states[step + 1], *([case.states[step]] if killed else [])]
            check_and_repair(case.branches, all_kinds=number % 2 == 0)
            _assert_goes_on(case, outcomes)


def _assert_goes_on(case: _Case, outcomes: list[Model]) -> None:
    links = case.mount()
    shown = links.shown()
    state = next((outcome for outcome in outcomes if outcome.agrees(shown)), None)
    assert state is not None, (shown, [outcome.shown() for outcome in outcomes])
    for _ in range(2):
        if state.files:
            step = ("unlink", min(state.files))
            links.do(step)
            state = state.after(step)
            assert state.agrees(links.shown())
        links.close()
        links = case.mount()
        assert state.agrees(links.shown())
    links.close()
    assert check_and_repair(case.branches, all_kinds=False) == []


@pytest.mark.parametrize("form", ["aufs", "overlay"])
@pytest.mark.parametrize("removal", ["unlink", "rename"])
def test_kill_then_removal_of_a_name_keeps_synced_data(union: Workshop, form: str, removal: str) -> None:
    """The other name of a lower hard link has what was synced by the first one, which goes after the next mount."""
    u = union.mount(f"whiteout={form}", B0={}, B1={"d/c": "old", "d/d": HardLink("d/c")})
    with (u / "d/c").open("r+") as file:
        file.write("NEW")
        file.flush()
        os.fsync(file.fileno())
    u.kill()
    u.start()
    assert [(u / name).stat().st_nlink for name in ("d/c", "d/d")] == [2, 2]
    if removal == "unlink":
        (u / "d/c").unlink()
    else:
        (u / "d/c").rename(u / "d/e")
    u.remount()
    assert (u / "d/d").read_text() == "NEW"
    assert (u / "d/d").stat().st_nlink == (1 if removal == "unlink" else 2)
    left = u.branch(0) / ".wh..wh.plnk"
    assert not left.exists() or os.listdir(left) == []


def test_check_repair_keeps_what_the_next_mount_recovers(union: Workshop) -> None:
    """`check -r` says that a pseudo-link is kept, and keeps it; one whose names are all real links goes."""
    u = union.mount(B0={}, B1={"a": "old", "b": HardLink("a")})
    (u / "a").write_text("new")
    u.kill()
    assert "kept" in unionfs("check", "-r", u.branch(0)).stdout
    assert unionfs("check", u.branch(0), check=False).returncode == 1
    u.start()
    assert (u / "b").read_text() == "new"
    u.kill()
    (u.branch(0) / "b").hardlink_to(u.branch(0) / "a")
    assert "kept" not in unionfs("check", "-r", u.branch(0)).stdout
    assert unionfs("check", u.branch(0)).stdout == ""
    assert (u.branch(0) / "a").samefile(u.branch(0) / "b")


def test_mount_without_the_lower_branch_keeps_pseudo_links(union: Workshop) -> None:
    """A look at the writable branch alone, after a kill, does not cost the other names what was written."""
    u = union.mount(B0={}, B1={"a": "old", "b": HardLink("a")})
    (u / "a").write_text("new")
    u.kill()
    alone = union.mount(B0=u.branch(0))
    assert (alone / "a").read_text() == "new"
    alone.stop()
    u.start()
    assert (u / "b").read_text() == "new"
    u.remount()
    assert (u / "a").stat().st_ino == (u / "b").stat().st_ino


def test_deleted_branch_with_pseudo_links_of_another_union(union: Workshop) -> None:
    """A branch goes with pseudo-links that cannot be flushed here, and brings them back when it is added again."""
    u = union.mount(B0={}, B1={"a": "old", "b": HardLink("a")})
    (u / "a").write_text("new")
    u.kill()
    other = union.mount("br:{B0}=rw:{X}=rw", changing="X", B0=u.branch(0), X={})
    unionfs("branch", "del", other.mnt, other.branch(0))
    assert os.listdir(other.mnt) == []
    unionfs("branch", "add", other.mnt, "0", f"{other.branch(0)}=rw")
    assert (other / "a").read_text() == "new"
    unionfs("branch", "append", other.mnt, f"{u.branch(1)}=ro")
    assert (other / "b").read_text() == "new"
    assert (other / "b").stat().st_nlink == 2


def test_noplink_mount_after_a_kill_keeps_names_one_file(tmp_path: Path) -> None:
    """Names that were one file with `plink` stay that, also over a copy-up to a higher branch with `noplink`."""
    case = _Case(tmp_path, "W1 L0", "a,d/a - write:a:F1", Options(fsync=False))
    case.build()
    assert not is_killed(lambda: case.up_to(0), 1000)
    case.stack = ["W0", "W1", "L0"]
    (tmp_path / "W0").mkdir()
    case.options = Options(fsync=False, plink=False)
    links = case.mount()
    assert case.states[-1].agrees(links.shown())
    (tmp_path / "W0/new").touch()  # a higher place: what is renamed over it is copied up
    links.do(("rename", "a", "new"))
    links.do(("write", "d/a", "F2"))
    assert {name: links.shown()[name][0] for name in ("new", "d/a")} == {"new": "F2", "d/a": "F2"}
    links.close()
    links = case.mount()
    assert {name: links.shown()[name][:2] for name in ("new", "d/a")} == {"new": ("F2", 2), "d/a": ("F2", 2)}
    links.close()


@contextlib.contextmanager
def _unchangeable(directory: Path) -> Iterator[None]:
    """Let nothing be made in or taken from a directory, by root neither."""
    done = subprocess.run(["chattr", "+i", directory], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no immutable directories here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", directory], check=True)


def test_flush_that_cannot_remove_a_pseudo_link_fails_until_it_can(union: Workshop) -> None:
    """The error is told by each flush, link counts stay right meanwhile, and a later flush ends it."""
    case = _Case(union.root, "W0 L0", "a,d/a - write:a:F1", Options(fsync=False))
    (union.root / "L0").mkdir()
    case.stack = ["L0"]
    case.build()
    union.block_device("W0", 16)
    case.stack = ["W0", "L0"]
    links = case.mount()
    links.do(case.steps[0])
    with _unchangeable(union.root / "W0/.wh..wh.plnk"):
        for _ in range(2):
            with pytest.raises(PermissionError):
                links.do(("flush",))
            assert case.states[-1].agrees(links.shown())
    links.do(("flush",))
    assert case.states[-1].agrees(links.shown())
    assert os.listdir(union.root / "W0/.wh..wh.plnk") == []
    links.close()


def test_mvdown_that_cannot_remove_the_upper_file_can_be_repeated(union: Workshop) -> None:
    """It leaves nothing on the lower branch, and the next one moves the file."""
    upper, lower = union.block_device("W0", 16), union.directory("W1")
    (upper / "f").write_text("data")
    links = Links(
        [Branch(str(upper), "rw"), Branch(str(lower), "rw")], Options(fsync=False), ["f"], forgets=True
    )
    with _unchangeable(upper), pytest.raises(PermissionError):
        links.filesystem.move_down(b"/f")
    assert tree.names(lower) == set()
    assert links.shown()["f"][0] == "data"
    links.filesystem.move_down(b"/f")
    assert (lower / "f").read_text() == "data"
    assert not (upper / "f").exists()
    links.close()


def test_foreign_names_among_pseudo_links_are_reported_only(tmp_path: Path) -> None:
    """AUFS' own pseudo-links and anything else are no names of ours: a mount leaves them alone, `check` tells."""
    (tmp_path / "B0/.wh..wh.plnk/dir").mkdir(parents=True)
    for name in ("137.523", "junk", "1.2.gone"):
        (tmp_path / "B0/.wh..wh.plnk" / name).write_text("x")
    links = Links([Branch(str(tmp_path / "B0"), "rw")], Options(fsync=False), [], forgets=True)
    assert links.filesystem.counters()["plinks"] == 0
    links.close()
    assert [(problem.kind, problem.kept) for problem in check_branch(str(tmp_path / "B0"))] == [
        ("plink", False)
    ] * 4
