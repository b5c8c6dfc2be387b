# SPDX-License-Identifier: Apache-2.0
"""What stat shows of directories right after a change is what it shows later: tar(1) fails when a ctime moves by itself."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.syscalls import RENAME_EXCHANGE, renameat2, true_times
from tests.support.tree import Dir, HardLink, Node, Symlink
from tests.support.union import Workshop


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("+")


CHANGES: dict[str, Callable[[Path], object]] = {
    "chmod": lambda d: (d / "x").chmod(0o600),
    "chown": lambda d: os.chown(d / "x", 1, 1),
    "utime": lambda d: os.utime(d / "x", (1, 1)),
    "truncate": lambda d: os.truncate(d / "x", 0),
    "append": lambda d: _append(d / "x"),
    "open for writing": lambda d: os.close(os.open(d / "x", os.O_RDWR)),
    "setxattr": lambda d: os.setxattr(d / "x", "trusted.x", b"y"),
    "change of a hard link": lambda d: (d / "h").chmod(0o600),
    "change of a symlink": lambda d: os.chown(d / "s", 1, 1, follow_symlinks=False),
    "change of a directory": lambda d: (d / "sub").chmod(0o700),
    "unlink": lambda d: (d / "x").unlink(),
    "rename": lambda d: (d / "x").rename(d / "new"),
    "rename away": lambda d: (d / "x").rename(d / "sub/new"),
    "exchange": lambda d: renameat2(str(d / "x"), str(d / "sub/z"), RENAME_EXCHANGE),
    "link": lambda d: (d / "sub/new").hardlink_to(d / "x"),
    "mkdir": lambda d: (d / "new").mkdir(),
    "create": lambda d: (d / "new").touch(),
    "symlink": lambda d: (d / "new").symlink_to("x"),
    "rmdir": lambda d: (d / "empty").rmdir(),
    "replace": lambda d: (d / "x").replace(d / "y"),
}


def _remove_copy(d: Path) -> None:
    (d / "x").chmod(0o600)
    (d / "x").unlink()


def _remove_directory_copy(d: Path) -> None:
    (d / "empty").chmod(0o700)
    (d / "empty").rmdir()


CHANGES |= {"unlink of a copy": _remove_copy, "rmdir of a copy": _remove_directory_copy}


def _paths(top: Path) -> list[Path]:
    return [
        top,
        *(Path(directory) / name for directory, dirs, files in os.walk(top) for name in dirs + files),
    ]


@pytest.mark.parametrize("options", ["", "udba=none", "whiteout=overlay", "udba=notify,coherence=aufs"])
def test_times_do_not_move_by_themselves(union: Workshop, options: str) -> None:
    """After each kind of change, with and without a copy-up of directories, stat shows the times that the branch has."""
    lower: dict[str, Node] = {}
    for d in (f"{change}/{part}/b" for change in CHANGES for part in ("first", "again")):
        lower |= {f"{d}/{name}": name for name in ("x", "y", "h", "sub/z")}
        lower |= {f"{d}/h2": HardLink(f"{d}/h"), f"{d}/s": Symlink("x"), f"{d}/empty": Dir()}
    u = union.mount(options, B0={}, B1=lower)
    wrong = []
    for change, make in CHANGES.items():
        (u / change / "again/b/y").chmod(0o640)  # brings its directories up before
        root = u.mnt.stat().st_mtime_ns
        for part in ("first", "again"):
            for path in _paths(u / change):
                path.lstat()
            make(u / change / part / "b")
            shown = {path: path.lstat() for path in (u.mnt, *_paths(u / change))}
            for path, status in shown.items():
                if (status.st_mtime_ns, status.st_ctime_ns) != true_times(path):
                    wrong.append(f"{change}: {path.relative_to(u.mnt)}")
            if shown[u.mnt].st_mtime_ns != root:
                wrong.append(f"{change}: mtime of the root")
    assert not wrong


NEW_NAMES: dict[str, Callable[[Path], object]] = {
    "link": lambda d: (d / "new").hardlink_to(d / "x"),
    "link of a symlink": lambda d: os.link(d / "s", d / "new", follow_symlinks=False),
    "link of a hard link": lambda d: (d / "new").hardlink_to(d / "h"),
    "rename": lambda d: (d / "x").rename(d / "new"),
    "rename of a hard link": lambda d: (d / "h").rename(d / "new"),
    "exchange": lambda d: renameat2(str(d / "x"), str(d / "y"), RENAME_EXCHANGE),
    "create": lambda d: (d / "new").touch(),
    "symlink": lambda d: (d / "new").symlink_to("x"),
    "mkfifo": lambda d: os.mkfifo(d / "new"),
    "mkdir": lambda d: (d / "new").mkdir(),
    "unlink": lambda d: (d / "x").unlink(),
}


@pytest.mark.parametrize("options", ["", "udba=none", "whiteout=overlay"])
def test_change_of_names_moves_the_time_of_its_directory(union: Workshop, options: str) -> None:
    """POSIX: whatever enters, removes or replaces a name marks the directory's mtime, a copy under a new name as well."""
    old = 1_600_000_000
    lower: dict[str, Node] = {}
    for d in NEW_NAMES:
        lower |= {f"{d}/{name}": name for name in ("x", "y", "h")}
        lower |= {f"{d}/h2": HardLink(f"{d}/h"), f"{d}/s": Symlink("x")}
    u = union.mount(options, B0={}, B1=lower)
    still = []
    for change, make in NEW_NAMES.items():
        os.utime(u / change, (old, old))
        make(u / change)
        if (u / change).stat().st_mtime == old or (u.branch(0) / change).stat().st_mtime == old:
            still.append(change)
    assert not still
