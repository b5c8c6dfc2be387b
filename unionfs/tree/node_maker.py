# SPDX-License-Identifier: Apache-2.0
"""Which node a file that was found at a name has: the known one, that of another of its names, or a new one, and its number."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identities, Identity, number_of
from unionfs.lookup.find import Found
from unionfs.tree.copies import Copies
from unionfs.tree.directories import Directories
from unionfs.tree.node_table import NodeTable
from unionfs.tree.nodes import Node, new_node, other_number
from unionfs.tree.numbers import Numbers
from unionfs.tree.plink_table import Plink, PlinkTable


class NodeMaker:
    """Gives what is found in one union its nodes."""

    def __init__(
        self,
        nodes: NodeTable,
        identities: Identities,
        directories: Directories,
        copies: Copies,
        numbers: Numbers,
        plinks: PlinkTable,
        plink_dir: Callable[[OpenBranch], int],
        index: Callable[[OpenBranch], int],
    ) -> None:
        """`plink_dir` opens a branch's directory of pseudo-links; `index` tells its position, 0 being the top."""
        self._nodes = nodes
        self._identities = identities
        self._directories = directories
        self._copies = copies
        self._numbers = numbers
        self._plinks = plinks
        self._plink_dir = plink_dir
        self._index = index

    def node_for(self, parent: Node, name: bytes, found: Found, *, made: bool = False) -> Node:
        """Return the node of what was found at a name: the known one, another name's one (hard link), or a new one.

        What was `made` just now has no recorded number.
        """
        branch, status = found.entries[0]
        identity = self._identities.of_inode(status.st_dev, status.st_ino)
        kind = stat.S_IFMT(status.st_mode)
        assert parent.children is not None
        child = parent.children.get(name)
        if child is None:
            return self._enter(parent, name, found, identity, kind, made)
        if child.traits.kind == kind:
            if kind == stat.S_IFDIR:
                self._directories.set_layers(child, found)
                return child
            if child.identity == identity:
                child.branch = branch
                return child
            if self._plinks and self._is_name_of_copy(child, parent, name, branch, identity):
                return child
        child.remove_name(parent, name)
        self._nodes.release(child)
        return self._enter(parent, name, found, identity, kind, made)

    def _enter(
        self, parent: Node, name: bytes, found: Found, identity: Identity, kind: int, made: bool
    ) -> Node:
        branch = found.entries[0][0]
        if made:
            self._numbers.origins.pop(identity, None)  # of a copy that had this inode
            ino = number_of(identity)
        else:
            ino = self._numbers.of_entry(parent, branch, name, identity)
        if not self._plinks and self._nodes.get(ino) is None:  # nearly always
            fresh = new_node(ino, kind)
            fresh.parent, fresh.name, fresh.identity, fresh.branch = parent, name, identity, branch
            parent.children[name] = fresh  # type: ignore[index]  # a directory
            self._nodes.add(fresh)
            if kind == stat.S_IFDIR:
                self._directories.set_first_layers(fresh, found)
            return fresh
        plink = None
        if made:
            self._plinks.lose_origin(identity)
        elif self._plinks and kind != stat.S_IFDIR:
            plink = self.plink_of(ino, found, identity, parent, name)
        if plink is not None:
            ino = plink.ino
            node = self._nodes.of_number(ino)
            same = node is not None and node.traits.kind == kind
        else:
            ino, same = self._number_for(ino, kind, found.status, made=made)
            node = self._nodes.of_number(ino)
        if node is not None and same:
            if node.removed:
                # Every name was gone but the file is held open; a direct change gave it a name again.
                self._copies.held.let_go(node)
            elif plink is None and found.status.st_nlink == 1:
                self.drop_names(node, parent)
                node.branch = found.branch
            node.add_name(parent, name)
            return node
        if node is not None:
            self._nodes.displace(node)
        fresh = new_node(ino, kind)
        self._nodes.add(fresh)
        if plink is not None:
            fresh.identity, fresh.branch = plink.copy, plink.branch
        else:
            fresh.identity, fresh.branch = identity, found.branch
        fresh.add_name(parent, name)
        if kind == stat.S_IFDIR:
            self._directories.set_layers(fresh, found)
        return fresh

    def _is_name_of_copy(
        self, node: Node, parent: Node, name: bytes, branch: OpenBranch, identity: Identity
    ) -> bool:
        plink = self._plinks.of_file(identity)
        if plink is None or plink.ino != node.ino:
            return False
        return self._plinks.is_name(plink, identity, self._directories.fd_on(parent, branch), name)

    def leads_to(self, node: Node, parent: Node, name: bytes, found: Found) -> bool:
        """Tell whether what was found at a name is a file's copy, or a lower file that was copied."""
        identity = self._identities.of(found.status)
        return node.identity == identity or self._is_name_of_copy(node, parent, name, found.branch, identity)

    def plink_of(self, ino: int, found: Found, identity: Identity, parent: Node, name: bytes) -> Plink | None:
        """Return the pseudo-link that what was found at a name, of number `ino`, is a name of, if its copy is where it was."""
        plink = self._plinks.of_file(identity) or self._claimed(ino, found)
        if plink is None or not self._plinks.is_name(
            plink, identity, self._directories.fd_on(parent, found.branch), name
        ):
            return None
        copy = whiteout.exists(self._plink_dir(plink.branch), plink.name)
        if copy is None or self._identities.of(copy) != plink.copy:
            self._plinks.remove(plink.ino)
            return None
        return plink

    def _claimed(self, ino: int, found: Found) -> Plink | None:
        """Return the pseudo-link found after a crash that a file of its number may be a name of, if it lies below the copy."""
        plink = self._plinks.get(ino)
        if plink is None or not plink.recovered or self._index(found.branch) <= self._index(plink.branch):
            return None
        copy = whiteout.exists(self._plink_dir(plink.branch), plink.name)
        if copy is None or stat.S_IFMT(copy.st_mode) != stat.S_IFMT(found.status.st_mode):
            return None
        if not plink.counted:
            plink.nlink = max(plink.nlink, found.status.st_nlink)
        return plink

    def _number_for(self, ino: int, kind: int, status: os.stat_result, *, made: bool) -> tuple[int, bool]:
        """Return the number to show for a file that would have `ino`, and whether the node that has it is the same file."""
        while True:
            node = self._nodes.of_number(ino)
            if (
                node is not None
                and not made
                and kind != stat.S_IFDIR
                and self._copies.is_same(node, kind, status)
            ):
                return ino, True
            taken = (
                ino in self._plinks
                or self._nodes.is_bound(ino)
                or (node is not None and self._copies.is_live(node))
            )
            if not taken:
                return ino, False
            ino = other_number(ino)

    def drop_stale_child(self, parent: Node, name: bytes) -> None:
        """Forget a name that disappeared from the branches behind our back."""
        child = parent.children.get(name) if parent.children else None
        if child is not None and not child.is_directory:
            child.remove_name(parent, name)
            self._nodes.release(child)

    def drop_names(self, node: Node, keep: Node | None = None) -> None:
        """Forget names that a direct change took from a file; the directory `keep` is needed for another one."""
        for directory, name in list(node.names()):
            node.remove_name(directory, name)
            if directory is not keep:
                self._nodes.release(directory)
