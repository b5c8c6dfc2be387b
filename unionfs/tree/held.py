# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the last copies of nodes that have no name any more but are known to the kernel."""

from __future__ import annotations

import os

from unionfs.kernel.reserve import room
from unionfs.tree.nodes import Node


class Held(dict[Node, int]):
    """By node a descriptor, which is owned here."""

    def hold(self, node: Node, fd: int) -> None:
        """Keep a node that has no name, or will have none soon, reachable by `fd`, which is the union's from now on."""
        former = self.get(node)
        self[node] = fd
        if former is None:
            room.held += 1
        else:
            os.close(former)

    def let_go(self, node: Node) -> None:
        """Close what a node was held by: it has a name again, or nobody needs it."""
        fd = self.pop(node, None)
        if fd is not None:
            room.held -= 1
            os.close(fd)

    def let_all_go(self) -> None:
        """Close what every node is held by."""
        for node in list(self):
            self.let_go(node)
