# SPDX-License-Identifier: Apache-2.0
"""The directory that operations are tried in, as the upper and the lower branch have it.

Every combination that a rule of the union tells apart has a name in it: only above, only below, both, whited out, opaque, merged,
hard-linked above and below, logically empty, with extended attributes, special.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.faults.view import OLD
from tests.support.tree import Dir, File, HardLink, Special, Symlink, Tree, build

_OWNER = (1000, 1000)
_MARK = File("", 0o444)


def _file(content: str | bytes, mode: int = 0o640, **xattrs: bytes) -> File:
    return File(content, mode, _OWNER, xattrs={f"user.{name}": value for name, value in xattrs.items()})


UPPER: Tree = {
    "uf": _file("upper " * 700, u=b"uf"),
    "both": _file("both-upper"),
    "ud/x": _file("ux"),
    "ue": Dir(),
    "uh1": _file("uh"),
    "uh2": HardLink("uh1"),
    "m/u": _file("mu"),
    "me/.wh.l": _MARK,
    ".wh.w": _MARK,
    ".wh.wd": _MARK,
    "uo/k": _file("k"),
    "uo/.wh..wh..opq": _MARK,
    "uw/.wh.a": _MARK,
    "uw/.wh.b": _MARK,
}
LOWER: Tree = {
    "f": _file("lower file " * 400, a=b"1", b=b"22"),
    "big": _file(bytes(range(256)) * 2400),
    "h1": _file("linked " * 100),
    "h2": HardLink("h1"),
    "suid": _file("s" * 100, 0o4755),
    "s": Symlink("target"),
    "p": Special(stat.S_IFIFO),
    "both": _file("both-lower"),
    "n": Dir(0o750),
    "n/n2": Dir(0o2775, _OWNER, xattrs={"user.d": b"dir"}),
    "n/n2/f": _file("deep " * 300, a=b"1"),
    "n/n2/g0": _file("g0"),
    "e": Dir(),
    "m/l": _file("ml"),
    "me/l": _file("mel"),
    "w": _file("hidden"),
    "wd/in": _file("hidden"),
    "uo/low": _file("hidden"),
    "uw/a": _file("a"),
    "uw/b": _file("b"),
}
BELOW: Tree = {"from2": _file("2"), "f": _file("below")}


def make(root: Path, tree: Tree, form: str) -> None:
    """Build one of the trees with old times, its marks in the form `aufs` or `overlay`."""
    build(root, tree)
    if form == "overlay":
        for path in list(root.rglob(".wh.*")):
            _translate(path)
    for path in sorted(root.rglob("*"), reverse=True):
        is_directory = path.is_dir() and not path.is_symlink()
        os.utime(path, (OLD + is_directory, OLD + is_directory), follow_symlinks=False)
    os.utime(root, (OLD + 1, OLD + 1))


def _translate(mark: Path) -> None:
    mark.unlink()
    if mark.name == ".wh..wh..opq":
        os.setxattr(mark.parent, "trusted.overlay.opaque", b"y")
    else:
        os.mknod(mark.with_name(mark.name.removeprefix(".wh.")), stat.S_IFCHR | 0o600, 0)
