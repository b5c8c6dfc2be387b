# SPDX-License-Identifier: Apache-2.0
"""The nodes of a union by number and by nodeid, with what the kernel has looked up of each; drops those that nothing needs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from unionfs.tree.nodes import GONE, Node

# So many nodes are worth giving their memory back.
_MANY = 256


class NodeTable:
    """Nodes by number and by nodeid, with lookup counts.

    A node's first nodeid is its number, unless the kernel still means a file by that which is gone; `renumber` gives later ones.
    """

    def __init__(self, root: Node, on_discard: Callable[[Node], None], on_shrunk: Callable[[], None]) -> None:
        """`on_discard` releases what is held for a node that goes; `on_shrunk` is told that most nodes went."""
        self.root = root
        self._on_discard = on_discard
        self._on_shrunk = on_shrunk
        self._nodes: dict[int, Node] = {root.nodeid: root}  # by number
        self._renumbered: dict[int, Node] = {}  # by other nodeids, which no number of a file reaches
        self._displaced: dict[int, Node] = {}  # by nodeid: those whose number another node has
        self._former: dict[
            Node, dict[int, int]
        ] = {}  # nodeids that the kernel may still use -> their lookups
        self._next = 1 << 63
        self._peak = _MANY
        self.nodeids_are_numbers = False  # set by a session that cannot tell the kernel both

    def __len__(self) -> int:
        return len(self._nodes) + len(self._displaced)

    def __iter__(self) -> Iterator[Node]:
        return iter([*self._nodes.values(), *dict.fromkeys(self._displaced.values())])

    def get(self, nodeid: int) -> Node | None:
        """Return the node of a nodeid, or None."""
        if self._displaced and nodeid in self._displaced:
            return self._displaced[nodeid]
        node = self._nodes.get(nodeid)
        return self._renumbered.get(nodeid) if node is None else node

    def known(self, nodeid: int) -> Node:
        """Return the node of a nodeid; ESTALE if there is none."""
        node = None if self._displaced else self._nodes.get(nodeid)
        if node is None and (node := self.get(nodeid)) is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def of_number(self, ino: int) -> Node | None:
        """Return the node that has a number, or None."""
        return self._nodes.get(ino)

    def is_bound(self, ino: int) -> bool:
        """Tell whether a number cannot go to another file, as the kernel means the node that has it by the number alone."""
        node = self._nodes.get(ino) if self.nodeids_are_numbers else None
        return node is not None and node.lookups > 0

    def add(self, node: Node) -> None:
        """Enter a node."""
        self._nodes[node.ino] = node
        if self._displaced and node.ino in self._displaced:
            self._give_nodeid(node)
        if len(self._nodes) > self._peak:
            self._peak = len(self._nodes)

    def _give_nodeid(self, node: Node) -> None:
        node.traits = node.traits._replace(nodeid=self._next)
        self._renumbered[self._next] = node
        self._next += 1

    def renew_unopened(self) -> None:
        """Give files that nobody has open a new generation: to the kernel they are others, at their next lookup."""
        for node in self:
            if stat.S_ISREG(node.kind) and not node.handles:
                node.traits = node.traits._replace(generation=node.traits.generation + 1)

    def compact(self) -> None:
        """Give back what the table itself does not need any more: deleting never makes a dict smaller."""
        self._nodes = dict(self._nodes)

    def renumber(self, node: Node) -> int:
        """Give a node a fresh nodeid and return the former one, which goes on meaning it until the kernel forgets it."""
        former = node.nodeid
        if node.lookups:
            self._former.setdefault(node, {})[former] = node.lookups
        node.lookups = 0
        self._give_nodeid(node)
        return former

    def displace(self, stale: Node) -> None:
        """Take its number from a node whose file is gone, for another file's.

        Its nodeids go on meaning it, and nothing can be done with it any more: requests that were made for its name while the
        number changed hands may be on their way, and a generation, which would tell the two apart, is not part of them.
        """
        stale.identity = GONE
        if self._nodes.get(stale.ino) is stale:
            del self._nodes[stale.ino]
        for nodeid in (stale.nodeid, *self._former.get(stale, ())):
            self._renumbered.pop(nodeid, None)
            self._displaced[nodeid] = stale
        self.release(stale)

    def forget(self, node: Node, count: int) -> None:
        """Take back `count` lookups and drop the node, and parents that were only held by it, when nothing needs it."""
        node.lookups = max(0, node.lookups - count)
        self.release(node)

    def forget_nodeid(self, nodeid: int, count: int) -> None:
        """Take back `count` lookups of a nodeid, be it a node's present or a former one; unknown ones are ignored."""
        node = self.get(nodeid)
        if node is None:
            return
        if nodeid == (node.traits.nodeid or node.ino):
            self.forget(node, count)
            return
        left = self._take_former(node, nodeid) - count
        if left > 0:
            self._former.setdefault(node, {})[nodeid] = left
        else:
            self._drop_nodeid(nodeid)
            self.release(node)

    def _drop_nodeid(self, nodeid: int) -> None:
        self._renumbered.pop(nodeid, None)
        if self._displaced:
            self._displaced.pop(nodeid, None)

    def _take_former(self, node: Node, nodeid: int) -> int:
        """Take a former nodeid off a node and return its lookups."""
        former = self._former.get(node, {})
        lookups = former.pop(nodeid, 0)
        if not former:
            self._former.pop(node, None)
        return lookups

    def release(self, node: Node) -> None:
        """Drop the node if it has no lookups, children or handles left; then its parents likewise."""
        current: Node | None = node
        while current is not None and not self._in_use(current):
            home, others = current.parent, [parent for parent, _ in current.traits.aliases or ()]
            while current.parent is not None:
                current.remove_name(current.parent, current.name)
            self._discard(current)
            for parent in others:
                self.release(parent)
            current = home

    def _in_use(self, node: Node) -> bool:
        return bool(
            node.lookups
            or node.children
            or node.handles
            or node.opens
            or node is self.root
            or node in self._former
        )

    def _discard(self, node: Node) -> None:
        if self._nodes.get(node.ino) is node:
            del self._nodes[node.ino]
        self._drop_nodeid(node.traits.nodeid or (node.ino if node.identity == GONE else 0))
        self._on_discard(node)
        if len(self._nodes) * 4 < self._peak and self._peak > _MANY:
            self._peak = max(len(self._nodes), _MANY)
            self._on_shrunk()
