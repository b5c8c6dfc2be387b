# SPDX-License-Identifier: Apache-2.0
"""The core without a mount: branches written as words, and read back as words.

A branch is "PERM: ENTRY…": `f` is a file that holds its own place ("B1/f"), `d/` a directory, `n!` overlayfs' whiteout (a 0:0
device), `d/@redirect=/x` a directory with that mark of overlayfs. Parents need no entry of their own.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support import tree
from unionfs.branches.branch import Branch, OpenBranch, open_branch
from unionfs.filesystem import UnionFilesystem
from unionfs.operations.create import Caller
from unionfs.options.aufs import parse
from unionfs.tree.nodes import Node

ME = Caller(os.geteuid(), os.getegid(), os.getpid())
Words = Sequence[str]


def build(root: Path, layout: Words) -> list[Branch]:
    """Make the branches B0, B1 … below `root`."""
    branches = []
    for index, text in enumerate(layout):
        permission, _, entries = text.partition(":")
        path = root / f"B{index}"
        path.mkdir()
        for entry in entries.split():
            _make(path, entry)
        branches.append(Branch.parse(f"{path}={permission}"))
    return branches


def _make(branch: Path, entry: str) -> None:
    name, _, mark = entry.partition("@")
    path = branch / name.rstrip("/!")
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir(exist_ok=True)
        if mark:
            key, _, value = mark.partition("=")
            os.setxattr(path, f"trusted.overlay.{key}", value.encode())
    elif name.endswith("!"):
        os.mknod(path, stat.S_IFCHR, 0)
    else:
        path.write_text("" if path.name.startswith(".wh.") else f"{branch.name}/{name}")


def state(branch: Path) -> set[str]:
    """Return what is on a branch in the words of a layout; `n=B1/f` holds what another place held at first."""
    return {word for name, entry in tree.walk(branch) if (word := _word(branch, name, entry))}


def _word(branch: Path, name: str, entry: os.DirEntry[bytes]) -> str:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return f"{name}/"
    if stat.S_ISCHR(status.st_mode):
        return f"{name}!"
    holds = Path(os.fsdecode(entry.path)).read_text()
    return name if holds in ("", f"{branch.name}/{name}") else f"{name}={holds}"


@contextlib.contextmanager
def opened(root: Path, layout: Words) -> Iterator[list[OpenBranch]]:
    """Make branches and open them, without a union."""
    with contextlib.ExitStack() as stack:
        branches = []
        for index, branch in enumerate(build(root, layout)):
            branches.append(open_branch(branch, index=index, id=index))
            stack.callback(branches[-1].close)
        yield branches


@contextlib.contextmanager
def layers(branches: Sequence[OpenBranch], path: str) -> Iterator[list[tuple[OpenBranch, int]]]:
    """Open the copies of a directory: those branches that have one."""
    with contextlib.ExitStack() as stack:
        found = []
        for branch in branches:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=branch.root)
                stack.callback(os.close, fd)
                found.append((branch, fd))
        yield found


@contextlib.contextmanager
def union(root: Path, layout: Words, options: str = "") -> Iterator[UnionFilesystem]:
    """Make branches and put a union on them that nobody mounts; close it."""
    filesystem = UnionFilesystem.open(build(root, layout), parse(f"nofsync,{options}".strip(",")).options)
    try:
        yield filesystem
    finally:
        filesystem.close()


def walk_to(filesystem: UnionFilesystem, path: str) -> tuple[Node, bytes]:
    """Return the parent's node and the last name of a path, as the kernel asks for them."""
    node = filesystem.node(1)
    *parents, name = path.encode().split(b"/")
    for parent in parents:
        node = filesystem.lookup(node, parent).node
    return node, name


def outcome(act: Callable[[], object]) -> str:
    """Return "" or the name of the errno."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""
