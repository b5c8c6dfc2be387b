# SPDX-License-Identifier: Apache-2.0
"""Hard links in a union against a model of them, without a mount: what names there are, which are one file, what it holds."""

import contextlib
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from unionfs.branches.branch import Branch
from unionfs.cli.check import check_branch, put_right
from unionfs.filesystem import UnionFilesystem
from unionfs.operations.create import Caller
from unionfs.options.aufs import Options
from unionfs.tree.nodes import Node

ROOT = Caller(os.geteuid(), os.getegid(), os.getpid())
Step = tuple[str, ...]  # an operation and its operands
Shown = dict[
    str, tuple[str, int, frozenset[str]]
]  # by name: content, number of links, all names of the same file


@dataclass
class Model:
    """What a union should show: for each name a file, for each file what it holds.

    A file that lost a name before it had a pseudo-link is `miscounted` after a remount (docs/semantics.md).
    """

    files: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    linked: frozenset[str] = frozenset()  # files with a pseudo-link
    miscounted: frozenset[str] = frozenset()

    def after(self, step: Step) -> "Model":
        """Return what is shown after an operation."""
        files, contents = dict(self.files), dict(self.contents)
        kind, *operands = step
        if kind in ("flush", "remount"):
            return Model(files, contents, frozenset(), self.miscounted)
        if kind == "write":
            contents[files[operands[0]]] = operands[1]
        elif kind == "link":
            files[operands[1]] = files[operands[0]]
        elif kind == "unlink":
            del files[operands[0]]
        elif kind == "rename" and files[operands[0]] != files.get(operands[1]):
            files[operands[1]] = files.pop(operands[0])
        elif kind == "exchange":
            first, second = operands
            files[first], files[second] = files[second], files[first]
        lost = {file for name, file in self.files.items() if name not in files or files[name] != file}
        lost = {file for file in lost if self._count(files, file) < self._count(self.files, file)}
        changed = operands[:1] if kind in ("write", "link") else operands if kind == "exchange" else []
        if kind == "rename" and self.files[operands[0]] != self.files.get(operands[1]):
            changed = operands[:1]
        linked = self.linked | {self.files[name] for name in changed}
        return Model(files, contents, linked, self.miscounted | (lost - self.linked))

    @staticmethod
    def _count(files: dict[str, str], file: str) -> int:
        return sum(other == file for other in files.values())

    def shown(self) -> Shown:
        """Return what a union that is right shows."""
        names = {
            file: frozenset(name for name in self.files if self.files[name] == file)
            for file in self.files.values()
        }
        return {
            name: (self.contents[file], len(names[file]), names[file]) for name, file in self.files.items()
        }

    def agrees(self, shown: Shown) -> bool:
        """Tell whether what a union shows is this, apart from link counts of the miscounted."""
        want = self.shown()
        return shown.keys() == want.keys() and all(
            shown[name][::2] == want[name][::2]
            and (shown[name][1] == want[name][1] or self.files[name] in self.miscounted)
            for name in want
        )


class Links:
    """A union in this process whose files are small and whose names are all known."""

    def __init__(
        self, branches: list[Branch], options: Options, universe: list[str], *, forgets: bool
    ) -> None:
        self.filesystem = UnionFilesystem.open(branches, options)
        self._universe = universe
        self._forgets = forgets  # the kernel forgets every file at once

    def _node(self, path: str) -> Node:
        node = self.filesystem.node(1)
        for part in path.split("/"):
            node = self.filesystem.lookup(node, part.encode()).node
            if not self._forgets or node.is_directory:
                node.lookups = 1
        return node

    def _place(self, path: str) -> tuple[Node, bytes]:
        directory, _, name = path.rpartition("/")
        return (self._node(directory) if directory else self.filesystem.node(1)), name.encode()

    def do(self, step: Step) -> None:
        """Do one operation of the model."""
        kind, *operands = step
        if kind == "flush":
            self.filesystem.flush_plinks()
        elif kind == "write":
            self._write(*operands)
        elif kind == "link":
            self.filesystem.link(self._node(operands[0]), *self._place(operands[1]))
        elif kind == "unlink":
            self.filesystem.unlink(*self._place(operands[0]))
        else:
            flags = 2 if kind == "exchange" else 0
            self.filesystem.rename(*self._place(operands[0]), *self._place(operands[1]), flags)
        if self._forgets:
            for node in list(self.filesystem._union.nodes):
                self.filesystem._union.nodes.release(node)

    def _write(self, path: str, text: str) -> None:
        handle = self.filesystem.open_file(self._node(path), os.O_WRONLY, ROOT)
        self.filesystem.write(handle, 0, text.encode())
        self.filesystem.release(handle)

    def shown(self) -> Shown:
        """Return the same as the model's `shown`."""
        found: dict[str, tuple[str, int, int]] = {}
        for path in self._universe:
            try:
                parent, name = self._place(path)
                attributes = self.filesystem.lookup(parent, name)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    found[path] = (errno.errorcode[error.errno or 0], 0, 0)
                continue
            handle = self.filesystem.open_file(attributes.node, os.O_RDONLY, ROOT)
            text = self.filesystem.read(handle, 0, 100).decode()
            found[path] = (text, self.filesystem.getattr(attributes.node).nlink, attributes.node.ino)
            self.filesystem.release(handle)
        return {
            path: (text, nlink, frozenset(name for name in found if found[name][2] == ino))
            for path, (text, nlink, ino) in found.items()
        }

    def die(self) -> None:
        """End as a killed server does: nothing is flushed, and what the kernel held for it is free."""
        self.filesystem._copyups.close()
        self.filesystem._union.close()

    def close(self) -> None:
        """Unmount."""
        self.filesystem.close()


def check_and_repair(branches: list[Branch], *, all_kinds: bool) -> list[str]:
    """Repair writable branches as `unionfs check -r` does, or only entries beside their whiteouts; return what was found."""
    kinds = []
    for branch in branches:
        if branch.permission == "rw":
            for problem in check_branch(branch.path):
                kinds.append(problem.kind)
                if not problem.kept and (all_kinds or problem.kind == "pair"):
                    put_right(problem)  # unions of others on this machine do not matter
    return kinds


def make_links(root: Path, names: list[str], content: str) -> None:
    """Make a file with several names below `root`."""
    first = root / names[0]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name == names[0]:
            first.write_text(content)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(first, root / name)
