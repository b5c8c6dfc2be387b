# SPDX-License-Identifier: Apache-2.0
"""Nodes: what the kernel knows of the union, with the numbers that it sees, and the table that holds them.

A node is a file or directory of the union, not of a branch: names of one file share a node, and copy-up changes a node's
branch but neither its number nor its handles. Owns numbers, names and lookup counts; knows nothing of branches' content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from unionfs.branch import OpenBranch
from unionfs.identity import Identity

if TYPE_CHECKING:
    from unionfs.contents import Contents
    from unionfs.handles import Backing, FileHandle

ROOT_NODEID = 1  # FUSE_ROOT_ID
ROOT_INO = 2  # what AUFS shows for its root

# What may be known of a file's extended attributes (`Node.bare`), if nobody else changes the branches.
UNKNOWN, NO_CAPABILITIES, NO_XATTRS, SOME_XATTRS = range(4)

# So many nodes are worth giving their memory back.
_MANY = 256

# By mode >> 12: the same objects for all nodes. An int of its own for each would take 32 bytes.
KINDS = tuple(kind << 12 for kind in range(16))


class Attributes(NamedTuple):
    """A node with the stat of its visible copy; st_nlink comes from `nlink` and st_ino from the node."""

    node: Node
    status: os.stat_result
    nlink: int


# Named here and not in the class: type checkers then allow the attributes that only directories have on any `Node`.
_SLOTS = (
    "aliases",
    "backing",
    "bare",
    "branch",
    "dead_fd",
    "generation",
    "handles",
    "hidden_links",
    "identity",
    "ino",
    "kind",
    "lookups",
    "name",
    "nodeid",
    "parent",
)


class Node:
    """A file or directory of the union.

    `parent` and `name` are one name that exists physically on `branch` (the home); further names of a hard-linked file
    are in `aliases`. A node without a parent is removed: `dead_fd` keeps its last copy reachable until the kernel forgets it.
    """

    __slots__ = _SLOTS

    # What only a `Directory` can set; a file shows these and has no room for them.
    opens: int = 0
    children: dict[bytes, Node] | None = None
    layers: tuple[OpenBranch, ...] = ()
    dirs: tuple[tuple[OpenBranch, int], ...] | None = None
    impure: dict[int, bool] | None = None
    epoch: int = 0
    contents: tuple[Contents | None, ...] = ()
    finds: int = 0
    links: int = -1

    def __init__(self, nodeid: int, ino: int, kind: int) -> None:
        self.nodeid = nodeid
        self.ino = ino
        self.generation = 0
        self.kind = kind  # S_IFMT of the mode
        self.parent: Node | None = None
        self.name = b""
        self.aliases: dict[tuple[Node, bytes], None] | None = None
        self.lookups = 0  # of `nodeid`
        self.backing: Backing | None = None  # what opens of `nodeid` pass through to while there are any
        self.branch: OpenBranch | None = None
        self.identity: Identity = 0
        self.handles: set[FileHandle] | None = None
        self.bare = UNKNOWN
        self.dead_fd = -1
        self.hidden_links = 0  # names removed by whiteouts, which the branch still counts in st_nlink

    def __repr__(self) -> str:
        return f"<Node {self.nodeid} {self.path()!r}>"

    @property
    def is_directory(self) -> bool:
        """Tell whether this is a directory."""
        return self.kind == stat.S_IFDIR

    @property
    def removed(self) -> bool:
        """Tell whether the node has no name any more (the root has none either, but is not removed)."""
        return self.parent is None and self.nodeid != ROOT_NODEID

    def path(self) -> bytes:
        """Return one path from the union's root, for people and for the control commands."""
        if self.removed:
            return b"(removed)"
        parts: list[bytes] = []
        node: Node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/" + b"/".join(reversed(parts))

    def names(self) -> Iterator[tuple[Node, bytes]]:
        """Yield every known (parent, name), the home first."""
        if self.parent is not None:
            yield self.parent, self.name
        if self.aliases:
            yield from list(self.aliases)

    def add_name(self, parent: Node, name: bytes) -> None:
        """Record a name."""
        assert parent.children is not None
        parent.children[name] = self
        if self.parent is None:
            self.parent, self.name = parent, name
        elif self.parent is not parent or self.name != name:
            if self.aliases is None:
                self.aliases = {}
            self.aliases[parent, name] = None

    def remove_name(self, parent: Node, name: bytes) -> None:
        """Forget a name; if it was the home, another known name takes its place."""
        if parent.children is not None and parent.children.get(name) is self:
            del parent.children[name]
        if self.aliases:
            self.aliases.pop((parent, name), None)
        if self.parent is parent and self.name == name:
            self.parent = None
            if self.aliases:
                self.parent, self.name = next(iter(self.aliases))
                del self.aliases[self.parent, self.name]

    def make_home(self, parent: Node, name: bytes) -> None:
        """Make a known or new name the one that is physically on the branch."""
        if self.parent is parent and self.name == name:
            return
        if self.aliases:
            self.aliases.pop((parent, name), None)
        if self.parent is not None:
            if self.aliases is None:
                self.aliases = {}
            self.aliases[self.parent, self.name] = None
        self.parent, self.name = parent, name
        assert parent.children is not None
        parent.children[name] = self


class Directory(Node):
    """A directory of the union: its copies, the nodes below it, and what was learnt about its copies' names."""

    __slots__ = ("children", "contents", "dirs", "epoch", "finds", "impure", "layers", "links", "opens")

    def __init__(self, nodeid: int, ino: int) -> None:
        super().__init__(nodeid, ino, stat.S_IFDIR)
        self.opens = 0
        self.children = {}
        self.layers = ()  # the branches that contribute, top first
        self.dirs = None  # the same with descriptors, while they are open
        self.impure = None  # branch id -> some child there carries a number of its own
        self.epoch = 0
        self.contents = ()  # for each of `dirs` what is known of its names
        self.finds = 0  # names looked for since `dirs` were opened
        self.links = -1  # what read-only lower copies add to st_nlink; -1: not known


def new_node(nodeid: int, ino: int, kind: int) -> Node:
    """Return a fresh node of a kind (S_IFMT of the mode)."""
    return Directory(nodeid, ino) if kind == stat.S_IFDIR else Node(nodeid, ino, kind)


def other_number(ino: int) -> int:
    """Return the number to try for a file that cannot have the number `ino`; repeated, it reaches every number."""
    while True:
        ino = (ino * 0x9E3779B97F4A7C15 + 1) & ((1 << 63) - 1)
        if ino > ROOT_INO:
            return ino


def stale(node: Node) -> OSError:
    """Return ESTALE: a branch was changed behind our back and the kernel should look the name up again."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fsdecode(node.path()))


class NodeTable:
    """Nodes by nodeid, with lookup counts. A node's first nodeid is its number; `renumber` gives later ones."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._nodes: dict[int, Node] = {root.nodeid: root}  # by first nodeid
        self._renumbered: dict[int, Node] = {}  # by later nodeids, which no number of a file reaches
        self._former: dict[
            Node, dict[int, int]
        ] = {}  # nodeids that the kernel may still use -> their lookups
        self._next = 1 << 63
        self._peak = _MANY
        self.on_shrunk: Callable[[], None] = lambda: None  # most nodes went: a time to give memory back

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def get(self, nodeid: int) -> Node | None:
        """Return the node of a nodeid, or None."""
        node = self._nodes.get(nodeid)
        return self._renumbered.get(nodeid) if node is None else node

    def __getitem__(self, nodeid: int) -> Node:
        return self._nodes[nodeid]

    def add(self, node: Node) -> None:
        """Enter a node."""
        self._nodes[node.nodeid] = node
        if len(self._nodes) > self._peak:
            self._peak = len(self._nodes)

    def compact(self) -> None:
        """Give back what the table itself does not need any more: deleting never makes a dict smaller."""
        self._nodes = dict(self._nodes)

    def renumber(self, node: Node) -> int:
        """Give a node a fresh nodeid and return the former one, which goes on meaning it until the kernel forgets it."""
        former = node.nodeid
        if node.lookups:
            self._former.setdefault(node, {})[former] = node.lookups
        node.nodeid, node.lookups = self._next, 0
        self._next += 1
        self._renumbered[node.nodeid] = node
        return former

    def replace(self, stale: Node, node: Node) -> None:
        """Let `node` take the nodeid of one whose file was replaced behind our back; the generation tells them apart."""
        node.generation = stale.generation + 1
        if stale.nodeid == node.nodeid:
            node.lookups, stale.lookups = stale.lookups, 0
        else:
            node.lookups = self._take_former(stale, node.nodeid)
        self._nodes[node.nodeid] = node

    def forget(self, node: Node, count: int) -> None:
        """Take back `count` lookups and drop the node, and parents that were only held by it, when nothing needs it."""
        node.lookups = max(0, node.lookups - count)
        self.release(node)

    def forget_nodeid(self, nodeid: int, count: int) -> None:
        """Take back `count` lookups of a nodeid, be it a node's present or a former one; unknown ones are ignored."""
        node = self.get(nodeid)
        if node is None:
            return
        if nodeid == node.nodeid:
            self.forget(node, count)
            return
        left = self._take_former(node, nodeid) - count
        if left > 0:
            self._former.setdefault(node, {})[nodeid] = left
        else:
            self._renumbered.pop(nodeid, None)
            self.release(node)

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
            names = list(current.names())
            for parent, name in names:
                current.remove_name(parent, name)
            self._discard(current)
            for parent, _ in names[1:]:
                self.release(parent)
            current = names[0][0] if names else None

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
        if self._nodes.get(node.ino) is node:  # the number is the first nodeid
            del self._nodes[node.ino]
        self._renumbered.pop(node.nodeid, None)
        if node.dead_fd >= 0:
            os.close(node.dead_fd)
            node.dead_fd = -1
        self.on_discard(node)
        if len(self._nodes) * 4 < self._peak and self._peak > _MANY:
            self._peak = max(len(self._nodes), _MANY)
            self.on_shrunk()

    def on_discard(self, node: Node) -> None:
        """Release what the union holds for the node; set by the union."""
