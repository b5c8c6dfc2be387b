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
from typing import NamedTuple

from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identity
from unionfs.branches.redirects import Place
from unionfs.lookup.known_names import Contents
from unionfs.tree.open_files import Backing, Handles

ROOT_NODEID = 1  # FUSE_ROOT_ID
ROOT_INO = 2  # what AUFS shows for its root

# What may be known of a file's extended attributes (`Node.bare`), if nobody else changes the branches.
UNKNOWN, NO_CAPABILITIES, NO_XATTRS, SOME_XATTRS = range(4)

# So many nodes are worth giving their memory back.
_MANY = 256

# The identity of a node whose file is gone while another one has its inode number: no file's.
GONE: Identity = -1


class Attributes(NamedTuple):
    """A node with the stat of its visible copy; st_nlink comes from `nlink` and st_ino from the node."""

    node: Node
    status: os.stat_result
    nlink: int


class Traits(NamedTuple):
    """What a node has in common with most others of its kind, which share the value; a change gives the node another one."""

    kind: int  # S_IFMT of the mode
    bare: int = UNKNOWN
    hidden_links: int = 0  # names removed by whiteouts, which the branch still counts in st_nlink
    generation: int = 0
    nodeid: int = 0  # 0: the node's number
    aliases: dict[tuple[Node, bytes], None] | None = None  # further names


# What nearly all nodes have, by mode >> 12 and `bare`.
_COMMON = tuple(tuple(Traits(kind << 12, bare) for bare in range(SOME_XATTRS + 1)) for kind in range(16))

# Named here and not in the class: type checkers then allow the attributes that only directories have on any `Node`.
# Eight take 96 bytes with what Python adds, and every inode that the kernel caches has a node.
_SLOTS = ("branch", "handles", "identity", "ino", "lookups", "name", "parent", "traits")


class Node:
    """A file or directory of the union.

    `parent` and `name` are one name that exists physically on `branch` (the home); further names of a hard-linked file
    are in `traits`. A node without a parent is removed; the union keeps its last copy reachable until the kernel forgets it.
    """

    __slots__ = _SLOTS

    # What only a `Directory` can set; a file shows these and has no room for them.
    is_directory: bool = False
    opens: int = 0
    children: dict[bytes, Node] | None = None
    layers: tuple[OpenBranch, ...] = ()
    dirs: tuple[tuple[OpenBranch, int], ...] | None = None
    impure: dict[int, bool] | None = None
    epoch: int = 0
    contents: tuple[Contents | None, ...] = ()
    finds: int = 0
    links: int = -1
    places: dict[OpenBranch, Place] | None = None
    protected: int = -1

    def __init__(self, ino: int, kind: int) -> None:
        self.ino = ino
        self.traits = _COMMON[kind >> 12][UNKNOWN]
        self.parent: Node | None = None
        self.name = b""
        self.lookups = 0  # of `nodeid`
        self.branch: OpenBranch | None = None
        self.identity: Identity = 0
        self.handles: Handles | None = None  # while it is an open file

    # What is rarely asked; the request path looks into `traits` and `handles` itself.

    @property
    def nodeid(self) -> int:
        """Return what the kernel calls the node at present."""
        return self.traits.nodeid or self.ino

    @property
    def kind(self) -> int:
        """Return the S_IFMT of the mode."""
        return self.traits.kind

    @property
    def backing(self) -> Backing | None:
        """Return what opens of `nodeid` pass through to while there are any."""
        return self.handles.backing if self.handles is not None else None

    @property
    def bare(self) -> int:
        """Return what is known of the extended attributes."""
        return self.traits.bare

    @bare.setter
    def bare(self, bare: int) -> None:
        traits = self.traits
        common = _COMMON[traits.kind >> 12]
        self.traits = common[bare] if traits is common[traits.bare] else traits._replace(bare=bare)

    def hide_link(self) -> None:
        """Count a name that a whiteout removed."""
        kind, bare, hidden, generation, nodeid, aliases = self.traits
        self.traits = Traits(kind, bare, hidden + 1, generation, nodeid, aliases)  # _replace takes 1 µs more

    def __repr__(self) -> str:
        return f"<Node {self.nodeid} {self.path()!r}>"

    @property
    def removed(self) -> bool:
        """Tell whether the node has no name any more (the root has none either, but is not removed)."""
        return self.parent is None and self.traits.nodeid != ROOT_NODEID

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
        if self.traits.aliases:
            yield from list(self.traits.aliases)

    def add_name(self, parent: Node, name: bytes) -> None:
        """Record a name."""
        assert parent.children is not None
        parent.children[name] = self
        if self.parent is None:
            self.parent, self.name = parent, name
        elif self.parent is not parent or self.name != name:
            self._add_alias(parent, name)

    def remove_name(self, parent: Node, name: bytes) -> None:
        """Forget a name; if it was the home, another known name takes its place."""
        if parent.children is not None and parent.children.get(name) is self:
            del parent.children[name]
        aliases = self.traits.aliases
        if aliases:
            aliases.pop((parent, name), None)
        if self.parent is parent and self.name == name:
            self.parent = None
            if aliases:
                self.parent, self.name = next(iter(aliases))
                del aliases[self.parent, self.name]

    def make_home(self, parent: Node, name: bytes) -> None:
        """Make a known or new name the one that is physically on the branch."""
        if self.parent is parent and self.name == name:
            return
        if self.traits.aliases:
            self.traits.aliases.pop((parent, name), None)
        if self.parent is not None:
            self._add_alias(self.parent, self.name)
        self.parent, self.name = parent, name
        assert parent.children is not None
        parent.children[name] = self

    def _add_alias(self, parent: Node, name: bytes) -> None:
        aliases = self.traits.aliases
        if aliases is None:
            aliases = {}
            self.traits = self.traits._replace(aliases=aliases)
        aliases[parent, name] = None


class Directory(Node):
    """A directory of the union: its copies, the nodes below it, and what was learnt about its copies' names."""

    __slots__ = (
        "children",
        "contents",
        "dirs",
        "epoch",
        "finds",
        "impure",
        "layers",
        "links",
        "opens",
        "places",
        "protected",
    )

    is_directory = True

    def __init__(self, ino: int) -> None:
        super().__init__(ino, stat.S_IFDIR)
        self.opens = 0
        self.children = {}
        self.layers = ()  # the branches that contribute, top first
        self.dirs = None  # the same with descriptors, while they are open
        self.impure = None  # branch id -> some child there carries a number of its own
        self.epoch = 0
        self.contents = ()  # for each of `dirs` what is known of its names
        self.finds = 0  # names looked for since `dirs` were opened
        self.links = -1  # what read-only lower copies add to st_nlink; -1: not known
        self.protected = -1  # what its copy on a writable branch has on record of flags; -1: not known
        self.places = None  # under which path branches below a redirect have the directory


def new_node(ino: int, kind: int) -> Node:
    """Return a fresh node of a kind (S_IFMT of the mode)."""
    return Directory(ino) if kind == stat.S_IFDIR else Node(ino, kind)


def new_root() -> Node:
    """Return a union's root."""
    root = Directory(ROOT_INO)
    root.traits = root.traits._replace(nodeid=ROOT_NODEID)
    root.lookups = 1
    return root


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
