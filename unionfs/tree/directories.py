# SPDX-License-Identifier: Apache-2.0
"""Directories of the union as descriptors of their copies on the branches, of which so many stay open at a time.

Opens them one component at a time from the parent's, never through a symbolic link, and closes those that were not used for
longest. Knows the branch list, which branches a directory is on, and which are lost; knows nothing of files.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Sequence

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import Identities, Identity
from unionfs.branches.lost import LostBranches
from unionfs.branches.redirects import Stack
from unionfs.kernel.reserve import room
from unionfs.kernel.syscalls import LIST_DIRECTORY, PATH_DIRECTORY
from unionfs.lookup.find import Found, find
from unionfs.lookup.known_names import KnownNames, empty
from unionfs.tree.nodes import UNKNOWN, Node, stale


class Directories:
    """The open directories of one union."""

    def __init__(self, root: Node, branches: Sequence[OpenBranch], identities: Identities) -> None:
        self._root = root
        self._branches = tuple(branches)
        self._identities = identities
        self.trust = False  # nobody else changes the branches
        self._epoch = 0  # how often the branch list was replaced
        self._open: OrderedDict[Node, int] = (
            OrderedDict()
        )  # with how many descriptors, least recently used first
        self._descriptors = 0
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self.known = KnownNames()
        self._watch: Callable[[Node, OpenBranch, int], None] | None = None
        self.stack = Stack(())  # what marks of overlayfs may lead to
        self.lost = LostBranches()
        self._open_root()

    def watch(self, watch: Callable[[Node, OpenBranch, int], None] | None) -> None:
        """Call `watch` with every copy of a directory that is opened from now on, and the root's; None ends that."""
        self._watch = watch
        if watch is not None:
            for branch, fd in self.dirs(self._root):
                watch(self._root, branch, fd)

    def __len__(self) -> int:
        """Return how many descriptors are open."""
        return self._descriptors + len(self._branches)

    def _open_root(self) -> None:
        root = self._root
        living = self.lost.living(self._branches)
        root.layers = living
        root.branch = living[0]
        root.dirs = tuple((branch, branch.root) for branch in living)
        self.stack = self.stack._replace(roots=root.dirs)
        self.known.forget(root)
        root.finds = 0
        root.links = -1
        root.protected = -1
        root.identity = self._identities.of_inode(living[0].device, living[0].root_ino)
        root.impure = None
        root.epoch = self._epoch

    def use_branches(self, branches: Sequence[OpenBranch]) -> None:
        """Replace the branch list; every directory is looked up again at its next use."""
        self.close_all()
        self._branches = tuple(branches)
        self.lost.keep(branches)
        self._epoch += 1
        self._open_root()

    def dirs(self, node: Node) -> tuple[tuple[OpenBranch, int], ...]:
        """Return the (branch, descriptor) pairs that contribute to a directory, top first; ENOENT if it was removed."""
        if node.dirs is not None:
            if node is not self._root:
                self._open.move_to_end(node)
            return node.dirs
        return self._open_directories(node)

    def dirs_to_list(self, node: Node) -> tuple[tuple[tuple[OpenBranch, int], ...], bool]:
        """Do the same; tell also whether the descriptors are new ones, from which a listing can be read at once.

        They stay the node's: whoever has not read to the end before anything else is done reads on through others.
        """
        parent = node.parent
        if node.dirs is None and parent is not None and parent.dirs is not None:
            try:
                return self._open_one(node, parent.dirs, LIST_DIRECTORY), True
            except PermissionError:
                pass  # the server may look names up there, or not even that
        return self.dirs(node), False

    def _open_directories(self, node: Node) -> tuple[tuple[OpenBranch, int], ...]:
        """Open a directory and those ancestors that are not open, iteratively: trees may be deeper than Python's stack."""
        if node.parent is not None and node.parent.dirs is not None:  # nearly always
            return self._open_one(node, node.parent.dirs)
        chain = []
        current = node
        while current.dirs is None:
            if current.parent is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            chain.append(current)
            current = current.parent
        for directory in reversed(chain):
            assert directory.parent is not None and directory.parent.dirs is not None
            self._open_one(directory, directory.parent.dirs)
        assert node.dirs is not None
        return node.dirs

    def _open_one(
        self, node: Node, parents: tuple[tuple[OpenBranch, int], ...], flags: int = PATH_DIRECTORY
    ) -> tuple[tuple[OpenBranch, int], ...]:
        if node.epoch != self._epoch:
            found = find(parents, node.name, stack=self.stack)
            if found is None or not found.is_directory:
                assert node.parent is not None
                self.check_known(node.parent, node.name)
                raise stale(node)
            self.set_layers(node, found)
        opened: list[tuple[OpenBranch, int]] = []
        layers, name = node.layers, node.name
        try:
            if node.places is not None:
                self._open_placed(node, parents, flags, opened)
            for branch, parent in parents if node.places is None else ():
                if branch in layers:
                    opened.append((branch, os.open(name, flags, dir_fd=parent)))
        except OSError as error:
            for _, fd in opened:
                os.close(fd)
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise stale(node) from None
            raise
        if not opened:
            raise stale(node)
        node.dirs = dirs = tuple(opened)
        self._open[node] = len(opened)
        self._descriptors += len(opened)
        if self._watch is not None:
            for branch, fd in opened:
                self._watch(node, branch, fd)
        return dirs

    def _open_placed(
        self,
        node: Node,
        parents: tuple[tuple[OpenBranch, int], ...],
        flags: int,
        opened: list[tuple[OpenBranch, int]],
    ) -> None:
        """Open the copies of a directory that some branches have under another path; they are appended to `opened`."""
        assert node.places is not None
        here = dict(parents)
        for branch in node.layers:
            place = node.places.get(branch)
            if place is not None:
                opened.append((branch, place.open(branch.root, here.get(branch), flags)))
            elif branch in here:
                opened.append((branch, os.open(node.name, flags, dir_fd=here[branch])))

    def set_layers(self, node: Node, found: Found) -> None:
        """Record which branches contribute to a directory."""
        layers = tuple(branch for branch, _ in found.entries)
        status = found.status
        identity = self._identities.of(status)
        if layers != node.layers or identity != node.identity or found.places != node.places:
            self.close(node)
            node.places = found.places
            node.layers, node.identity, node.impure, node.bare = layers, identity, None, UNKNOWN
            node.links = -1
        node.branch = layers[0]
        node.epoch = self._epoch

    def set_first_layers(self, node: Node, found: Found) -> None:
        """Do the same for a new node, whose identity and branch are known."""
        node.layers = tuple([branch for branch, _ in found.entries])
        if found.places is not None:
            node.places = found.places
        node.epoch = self._epoch

    def close(self, node: Node) -> None:
        """Close a directory's descriptors; it is opened again at its next use."""
        if node.dirs is None or node is self._root:
            return
        self._descriptors -= self._open.pop(node)
        for _, fd in node.dirs:
            os.close(fd)
        self._reset(node)

    def _reset(self, node: Node) -> None:
        node.dirs = None
        self.known.forget(node)
        node.finds = 0
        node.links = -1
        node.protected = -1

    def know_empty(self, node: Node) -> None:
        """Note that a directory was made just now, before it is opened for the first time."""
        if self.trust and node.dirs is None and node.branch is not None:
            node.contents = (empty(node.branch),)

    def take(self, node: Node) -> int:
        """Return the descriptor of a directory's only copy, which is the caller's from now on."""
        ((_, fd),) = self.dirs(node)
        self._descriptors -= self._open.pop(node)
        self._reset(node)
        return fd

    def trim(self) -> None:
        """Close the directories that were not used for longest when too many are open. Call between operations only."""
        while len(self._open) > 1 and (
            self._descriptors > self._limit or self._descriptors > room.for_caches
        ):
            self.close(next(iter(self._open)))

    def add_layer(self, node: Node, branch: OpenBranch, fd: int, identity: Identity) -> None:
        """Let `branch` contribute to a directory through the descriptor `fd` (which the node now owns) of `identity`."""
        dirs = self.dirs(node)
        order = {candidate: index for index, candidate in enumerate(self._branches)}
        node.dirs = tuple(sorted((*dirs, (branch, fd)), key=lambda pair: order[pair[0]]))
        node.layers = tuple(candidate for candidate, _ in node.dirs)
        self.known.forget(node)
        node.links = -1
        self._open[node] = len(node.dirs)
        self._descriptors += 1
        if node.dirs[0][0] is branch:
            node.branch, node.identity = branch, identity

    def fd_on(self, node: Node, branch: OpenBranch | None) -> int | None:
        """Return the descriptor of a directory on `branch`, None if it does not contribute."""
        for candidate, fd in self.dirs(node):
            if candidate is branch:
                return fd
        return None

    def in_doubt(self, node: Node, name: bytes = b"") -> OpenBranch | None:
        """Return the lost branch that may have `name` in a directory, or any name; None if all there is can be seen."""
        lost = self.lost.first(self._branches)
        if lost is None or node.removed:
            return None
        above = self._branches[: self._branches.index(lost)]
        current: Node | None = node
        while current is not None:
            for branch, fd in self.dirs(current):
                if branch in above and whiteout.is_opaque(branch, fd):
                    return None
            current = current.parent
        if name and any(
            branch in above and whiteout.is_whited_out(branch, fd, name) for branch, fd in self.dirs(node)
        ):
            return None
        return lost

    def check_known(self, node: Node, name: bytes = b"") -> None:
        """Raise BranchLost if a lost branch may have `name` in a directory, or any name."""
        if self.lost:
            lost = self.in_doubt(node, name)
            if lost is not None:
                raise self.lost.error(lost)

    def close_all(self) -> None:
        """Close every directory but the root, whose descriptors are the branches'."""
        for node in list(self._open):
            self.close(node)
