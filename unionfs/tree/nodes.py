# SPDX-License-Identifier: Apache-2.0
"""Nodes: what the kernel knows of the union, with the numbers that it sees, and its names.

A node is a file or directory of the union, not of a branch: names of one file share a node, and copy-up changes a node's
branch but neither its number nor its handles. Owns numbers, names and lookup counts; knows nothing of branches' content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
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
