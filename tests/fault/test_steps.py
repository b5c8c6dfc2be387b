# SPDX-License-Identifier: Apache-2.0
"""Every change happens or does not: each system call by which it is made fails in turn, or is the server's last.

The branches hold the same tree once for each try. What is seen afterwards, at once, after a new mount and by `check`, must be
what a change that succeeded left, or what was there before, as the change said.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import tree
from tests.support.strace import traced
from tests.support.tree import Dir, File, Special, Tree
from tests.support.union import Union, Workshop, unionfs

_WHITEOUT = Special(0o020000)
_OLD = 1_600_000_000.0
_CHANGING = (
    "rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,mknod,mknodat,mkdir,mkdirat,symlinkat,"
    "utimensat,truncate,ftruncate,chmod,fchmod,fchmodat,setxattr"
)
# What is logged of what could not be tidied up, or of what an injected error was told about.
_LOG = ["cannot remove|hides nothing, stays|times moved|does not show|miscounted|after an error"]


@dataclass(frozen=True)
class Case:
    """A change, in a directory that both branches have; the names in `hidden` are those of whiteouts on the upper one."""

    change: Callable[[Path], object]
    upper: Tree
    lower: Tree
    hidden: tuple[str, ...] = ()


def _truncate_at_open(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _file(content: str) -> File:
    return File(content, mode=0o640, owner=(1000, 1000), mtime=_OLD)


_EMPTIED: Tree = {"e/l": "deleted", "e/m": "deleted"}
CASES = {
    "rename over a whiteout": Case(lambda d: (d / "u").rename(d / "w"), {"u": "u"}, {"w": "deleted"}, ("w",)),
    "rename over a lower file": Case(lambda d: (d / "u").rename(d / "f"), {"u": "u"}, {"f": "f"}),
    "rename of a lower file over a whiteout": Case(
        lambda d: (d / "f").rename(d / "w"), {}, {"f": _file("f"), "w": "deleted"}, ("w",)
    ),
    "rename of what a lower file is below": Case(
        lambda d: (d / "b").rename(d / "new"), {"b": "upper"}, {"b": "lower"}
    ),
    "rename of a directory over an emptied one": Case(
        lambda d: (d / "u").rename(d / "e"), {"u/x": "x"}, _EMPTIED, ("e/l", "e/m")
    ),
    "rename of a directory over a whiteout": Case(
        lambda d: (d / "u").rename(d / "w"), {"u/x": "x"}, {"w/in": "deleted"}, ("w",)
    ),
    "link over a whiteout": Case(
        lambda d: (d / "w").hardlink_to(d / "u"), {"u": "u"}, {"w": "deleted"}, ("w",)
    ),
    "link of a lower file over a whiteout": Case(
        lambda d: (d / "w").hardlink_to(d / "f"), {}, {"f": _file("f"), "w": "deleted"}, ("w",)
    ),
    "create over a whiteout": Case(lambda d: (d / "w").touch(exist_ok=False), {}, {"w": "deleted"}, ("w",)),
    "mkdir over a whiteout": Case(lambda d: (d / "w").mkdir(), {}, {"w/in": "deleted"}, ("w",)),
    "symlink over a whiteout": Case(lambda d: (d / "w").symlink_to("to"), {}, {"w": "deleted"}, ("w",)),
    "rmdir of an emptied directory": Case(lambda d: (d / "e").rmdir(), {}, _EMPTIED, ("e/l", "e/m")),
    "unlink of what a lower file is below": Case(
        lambda d: (d / "b").unlink(), {"b": "upper"}, {"b": "lower"}
    ),
    "truncate of a lower file": Case(lambda d: os.truncate(d / "f", 3), {}, {"f": _file("content")}),
    "open of a lower file that truncates": Case(
        lambda d: _truncate_at_open(d / "f"), {}, {"f": _file("content")}
    ),
    "chmod of a lower file": Case(lambda d: (d / "f").chmod(0o604), {}, {"f": _file("content")}),
    "chmod deep in lower directories": Case(
        lambda d: (d / "p/q/f").chmod(0o604), {}, {"p": Dir(mtime=_OLD), "p/q": Dir(), "p/q/f": _file("f")}
    ),
}
_IN_BOTH_FORMS = [
    *(name for name, case in CASES.items() if case.hidden),
    "rename of what a lower file is below",
    "unlink of what a lower file is below",
]
_KILLED = {
    "aufs": [
        "rename over a whiteout",
        "rename of what a lower file is below",
        "rename of a directory over an emptied one",
        "rename of a directory over a whiteout",
        "truncate of a lower file",
    ],
    "overlay": [
        "rename of what a lower file is below",
        "rename of a directory over an emptied one",
        "rename of a directory over a whiteout",
        "link over a whiteout",
        "create over a whiteout",
        "mkdir over a whiteout",
        "rmdir of an emptied directory",
    ],
}

# Tracing is slow on a busy machine, and each test has some ten system calls to do it for.
pytestmark = pytest.mark.timeout(900)


def _world(union: Workshop, name: str, form: str, count: int) -> Union:
    """Prepare a union whose branches hold a case's trees `count` times."""
    case = CASES[name]
    upper: dict[str, Any] = {}
    lower: dict[str, Any] = {}
    for number in range(count):
        top, below = f"d{number}", f"d{number}"
        upper[top], lower[below] = Dir(), Dir()
        upper |= {f"{top}/{path}": node for path, node in case.upper.items()}
        lower |= {f"{below}/{path}": node for path, node in case.lower.items()}
        for path in case.hidden:
            directory, _, entry = path.rpartition("/")
            mark = path if form == "overlay" else f"{directory}/.wh.{entry}".lstrip("/")
            upper[f"{top}/{mark}"] = _WHITEOUT if form == "overlay" else File("", mode=0o444)
    options = f"br:{{B0}}=rw:{{B1}}=ro+wh+ovl,udba=none,whiteout={form}"
    u = union.prepare(options, "", {"B0": upper, "B1": lower})
    u.allowed_log = _LOG
    return u


def _seen(directory: Path) -> dict[str, tree.Entry]:
    return tree.snapshot(directory)


def _points(u: Union, name: str) -> list[tuple[str, int]]:
    """Make the change in the next-to-last directory and return each system call of it as (name, number)."""
    with traced(u.pid, _CHANGING) as trace:
        CASES[name].change(u / "d1")
    known = _CHANGING.split(",")
    return [
        (call, nth) for call, count in trace.calls.items() if call in known for nth in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("union", "form", "name"),
    [("direct", "aufs", name) for name in CASES]
    + [("direct", "overlay", name) for name in _IN_BOTH_FORMS]
    + [
        ("pyfuse3", "aufs", name)
        for name in ("rename over a lower file", "mkdir over a whiteout", "truncate of a lower file")
    ],
    indirect=["union"],
)
def test_change_with_a_failing_call_is_done_or_not(union: Workshop, name: str, form: str) -> None:
    """Whatever call fails: what the change said, by its result, is what is seen, in memory, on disk and by a second try."""
    u = _world(union, name, form, 30)
    u.start()
    old = _seen(u / "d0")
    points = _points(u, name)
    assert points
    new = _seen(u / "d1")
    outcome = {}
    for number, (call, nth) in enumerate(points, 2):
        directory = u / f"d{number}"
        assert _seen(directory) == old  # the kernel and the server know the names
        with traced(u.pid, call, f"error=EIO:when={nth}") as trace:
            try:
                CASES[name].change(directory)
                done = True
            except OSError:
                done = False
        where = f"{call} #{nth}: {[line for line in trace.lines if 'INJECTED' in line]}, done: {done}"
        assert _seen(directory) == (new if done else old), where
        if not done and number % 2:
            CASES[name].change(directory)
            done = True
            assert _seen(directory) == new, where
        outcome[directory.name] = (new if done else old, where)
    u.stop()
    assert unionfs("check", u.branch(0)).stdout == ""
    u.start()
    for directory_name, (expected, where) in outcome.items():
        assert _seen(u / directory_name) == expected, where


@pytest.mark.parametrize(
    ("union", "form", "name"),
    [("direct", form, name) for form, names in _KILLED.items() for name in names],
    indirect=["union"],
)
def test_change_with_a_killed_server_is_done_or_not(union: Workshop, name: str, form: str) -> None:
    """Killed at any call: the next mount shows what was before or what was to be, and no stage is left that was listed."""
    u = _world(union, name, form, 30)
    u.start()
    old = _seen(u / "d0")
    points = _points(u, name)
    new = _seen(u / "d1")
    for number, (call, nth) in enumerate(points, 2):
        directory = u / f"d{number}"
        # What only the first change after a mount does, or a thread in its own time, may not come to pass.
        with traced(u.pid, call, f"signal=KILL:when={nth}"), contextlib.suppress(OSError):
            CASES[name].change(directory)
        u.kill()
        u.start()
        assert _seen(directory) in (old, new), f"{call} #{nth}"
    u.stop()
    found = unionfs("check", u.branch(0), check=False).stdout.splitlines()
    assert [line for line in found if "leftover" in line or "orphan" in line] == []


_MAKERS: dict[str, Callable[[int], object]] = {
    "file": lambda fd: os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)),
    "directory": lambda fd: os.mkdir("new", dir_fd=fd),
    "link": lambda fd: os.symlink("to", "new", dir_fd=fd),
    "fifo": lambda fd: os.mkfifo("new", dir_fd=fd),
}


@pytest.mark.parametrize("kind", _MAKERS)
def test_creation_by_a_user_whose_owner_cannot_be_set_leaves_nothing(union: Workshop, kind: str) -> None:
    """Neither an entry of the server's, nor another time of the directory."""
    u = union.mount("udba=none", B0={"d": Dir(mode=0o777, mtime=_OLD)}, B1={"d/low": "low"})
    u.allowed_log = _LOG
    directory = os.open(u / "d", os.O_RDONLY)
    try:
        with (
            traced(u.pid, "chown,fchownat,lchown", "error=EIO") as trace,
            _as_user(1000),
            pytest.raises(OSError, match="Input/output"),
        ):
            _MAKERS[kind](directory)
        assert trace.was_injected
        assert os.listdir(directory) == ["low"]
        assert os.stat(u / "d").st_mtime == _OLD == os.stat(u.branch(0) / "d").st_mtime
        with _as_user(1000):
            _MAKERS[kind](directory)
        assert os.lstat(u.branch(0) / "d/new").st_uid == 1000
    finally:
        os.close(directory)


@contextlib.contextmanager
def _as_user(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
