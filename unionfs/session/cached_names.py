# SPDX-License-Identifier: Apache-2.0
"""What the kernel may believe of names: those of nodes, and absent ones, which it keeps without telling anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from unionfs.tree.nodes import Node

CachedName = tuple[int, bytes]  # (nodeid of the directory, name)

_MOST_ABSENT = 16384


class CachedNames:
    """The names of one mount. Of absent ones a number is remembered; the kernel is asked to doubt those beyond it."""

    def __init__(self, most_absent: int = _MOST_ABSENT) -> None:
        self._most = most_absent
        self._absent: dict[int, set[bytes]] = {}  # by directory
        self._count = 0
        self.on_overflow: Callable[[list[CachedName]], None] = lambda names: None

    def absent(self, parent: int, name: bytes) -> None:
        """Remember that the kernel is told that there is no such name."""
        names = self._absent.get(parent)
        if names is None:
            names = self._absent[parent] = set()
        if name not in names:
            names.add(name)
            self._count += 1
            if self._count > self._most:
                self._overflow()

    def present(self, parent: int, name: bytes) -> None:
        """Note that the kernel is told of a name that was just made: it has no absent one any more that could be doubted."""
        names = self._absent.get(parent)
        if names is not None and name in names:
            names.remove(name)
            self._count -= 1
            if not names:
                del self._absent[parent]

    def _overflow(self) -> None:
        doubted: list[CachedName] = []
        while self._count > self._most // 2:
            doubted += self._take_absent(next(iter(self._absent)))
        self.on_overflow(doubted)

    def _take_absent(self, parent: int) -> list[CachedName]:
        names = self._absent.pop(parent, set())
        self._count -= len(names)
        return [(parent, name) for name in names]

    def take_all(self, nodes: Iterable[Node]) -> list[CachedName]:
        """Return every name, to be told to the kernel; absent ones are forgotten."""
        doubted = [(parent.nodeid, name) for node in nodes for parent, name in node.names()]
        for parent in list(self._absent):
            doubted += self._take_absent(parent)
        return doubted

    def take_below(self, directory: Node) -> list[CachedName]:
        """Return every name in a directory and in those below it likewise."""
        doubted: list[CachedName] = []
        pending = [directory]
        while pending:
            parent = pending.pop()
            doubted += self._take_absent(parent.nodeid)
            for name, child in (parent.children or {}).items():
                doubted.append((parent.nodeid, name))
                if child.is_directory:
                    pending.append(child)
        return doubted
