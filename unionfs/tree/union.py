# SPDX-License-Identifier: Apache-2.0
"""The union as a tree of nodes over branches: resolve names, give them nodes (`copies` tells where a node's copy lies).

The operations (create, remove, rename, links, copyup, attributes) work on this; it knows nothing of FUSE, handles' numbers
or threads. All paths are single components relative to descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import is_fresh
from unionfs.branches.identity import Identity, number_of
from unionfs.kernel.reserve import room
from unionfs.live.branch_lock import BranchLocks
from unionfs.lookup.find import Found, check_name, find
from unionfs.options.aufs import Options
from unionfs.tree.copies import Copies
from unionfs.tree.nodes import UNKNOWN, Attributes, Node, NodeTable, new_node, other_number
from unionfs.tree.numbers import Numbers
from unionfs.tree.plink_table import Plink
from unionfs.tree.port import Session
from unionfs.tree.pristine import Fresh


class Union(Copies):
    """Branches, options and nodes of one mounted union."""

    def __init__(self, branches: Sequence[OpenBranch], options: Options, locks: BranchLocks) -> None:
        super().__init__(branches, options)
        self.locks = locks
        self.trim = self.directories.trim
        self.known = self.directories.known
        self.numbers = Numbers(self.identities, self.directories)
        self.hiding = Fresh(self.identities)  # the directories that have whiteouts of AUFS' form
        self._seen: set[int] = set()  # branches by id
        self._look_at_new_branches()
        self.nodes = NodeTable(self.root, self._discard, lambda: self.session.shrunk())
        self._absent: tuple[Node, bytes] | None = None  # what a lookup found missing, until something is made
        self.on_forgotten: Callable[[Node], None] = lambda directory: None

    def attach(self, session: Session) -> None:
        """Tell `session`, and nobody else, what the kernel has of the union that is no longer so."""
        self.session = session
        self.nodes.nodeids_are_numbers = session.nodeids_are_numbers

    def change_options(self, options: Options) -> None:
        """Take other options from now on."""
        believed = self.trust
        self.use_options(options)
        self._absent = None
        if believed and not self.trust:
            self.doubt()

    def doubt(self) -> None:
        """Somebody else has changed the branches, or may: what is known of them is looked up again."""
        self._absent = None
        self.numbers.marked.doubt()
        self.hiding.doubt()
        self.directories.use_branches(self.branches)
        for node in self.nodes:
            node.bare = UNKNOWN

    def look_for_lost(self, error: OSError) -> list[OpenBranch]:
        """After an error look which branches are lost, and go on without them; return those of which that has changed."""
        changed = self.directories.lost.look(self.branches, error)
        if changed:
            self._absent = None
            self.directories.use_branches(self.branches)
        return changed

    def set_branches(self, branches: Sequence[OpenBranch]) -> None:
        """Replace the branch list; every cached directory is looked up again at its next use."""
        self.branches = tuple(branches)
        self._absent = None
        self.identities.add_branches(self.branches)
        self._look_at_new_branches()
        by_id = {branch.id: branch for branch in self.branches}
        for node in self.nodes:
            if node.branch is not None and node is not self.root:
                node.branch = by_id.get(node.branch.id, node.branch)
        self.directories.use_branches(self.branches)

    def _look_at_new_branches(self) -> None:
        """Look which branches that are seen for the first time hold nothing yet, and will but for what we do."""
        for branch in self.branches:
            if self.trust and branch.writable and branch.id not in self._seen and is_fresh(branch):
                self.numbers.marked.begin(branch)
                if branch.overlay:
                    self.unmarked.add(branch.id)
                else:
                    self.hiding.begin(branch)
            self._seen.add(branch.id)

    # -- names --------------------------------------------------------------------------------------------------

    def check_name(self, name: bytes) -> None:
        """Refuse reserved and overlong names (EPERM, ENAMETOOLONG)."""
        if len(name) > self.name_max or name[:4] == b".wh.":
            check_name(name, self.name_max, shwh=self.options.shwh)

    def find(self, parent: Node, name: bytes) -> Found | None:
        """Return where `name` is visible in `parent`; BranchLost if nobody knows."""
        dirs = self.dirs(parent)
        trust = self.trust
        found: Found | None
        if trust and len(dirs) == 1 and (branch := dirs[0][0]).writable and not branch.overlay:
            # What `find` would come to: a new directory's only copy, where a whiteout hides nothing.
            try:
                found = Found([(branch, os.stat(name, dir_fd=dirs[0][1], follow_symlinks=False))])
            except (FileNotFoundError, NotADirectoryError):
                found = None
        else:
            known = self.known.of(parent, dirs, trust)
            found = find(dirs, name, last_mark=not trust, contents=known, stack=self.directories.stack)
        if found is None and self.directories.lost:
            self.directories.check_known(parent, name)
        return found

    def find_new(self, parent: Node, name: bytes) -> Found | None:
        """Return what is at a name that something is about to be given.

        The kernel has just looked it up, and if nobody else changes the branches that answer still holds.
        """
        absent, self._absent = self._absent, None
        if absent is not None and absent[0] is parent and absent[1] == name:
            return None
        return self.find(parent, name)

    def only_name(self, parent: Node, name: bytes) -> Node | None:
        """Return the file that is known to be at a name and to have no other, where its branch need not be asked again."""
        child = parent.children.get(name) if self.trust and parent.children else None
        if child is None or child.parent is not parent or child.name != name or child.children is not None:
            return None
        if child.traits.aliases or child.ino in self.plinks or self.fd_on(parent, child.branch) is None:
            return None
        return child

    def known_directory(self, parent: Node, name: bytes) -> Node | None:
        """Return the directory that is known to be at a name, where its branches need not be asked again."""
        child = parent.children.get(name) if self.trust and parent.children else None
        if child is None or child.dirs is None or child.parent is None:
            return None
        return child

    def marks_of(self, parent: Node, branch: OpenBranch, fd: int) -> set[bytes] | None:
        """Return the names that `branch`, whose copy of `parent` is `fd`, may hide; None if they are not known."""
        if parent.contents and not branch.overlay:
            if len(parent.contents) == 1 and self.trust:
                return parent.contents[0].marks if parent.contents[0] is not None else None
            for known, (candidate, _) in zip(parent.contents, self.dirs(parent), strict=True):
                if candidate is branch:
                    return known.marks if known is not None and known.is_current(fd) else None
        return None

    def is_hidden(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> bool:
        """Tell whether `branch`, whose copy of `parent` is `fd`, hides `name` of the branches below it."""
        return self.may_hide(parent, branch, fd, name) and whiteout.is_whited_out(branch, fd, name)

    def may_hide(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> bool:
        """Tell whether a whiteout of `name` may be in the copy `fd` of `parent` on `branch`; False is certain."""
        marks = self.marks_of(parent, branch, fd)
        if marks is not None:
            return name in marks
        if self.hiding.holds(parent, branch) is False:
            return False
        if self.trust and len(self.dirs(parent)) == 1:
            # Looking for names there does not count (`find`), as only changes have a use for its whiteouts.
            self.known.of(parent, self.dirs(parent), True)
        return True

    def shows_below(self, parent: Node, name: bytes, branch: OpenBranch) -> bool:
        """Tell whether a branch below `branch` still shows `name` (any type), so that hiding it needs a whiteout.

        A branch that is lost may.
        """
        layers = self.dirs(parent)
        if layers[-1][0] is branch:
            return bool(self.directories.lost) and self.directories.in_doubt(parent, name) is not None
        child = self.known_directory(parent, name)
        if (
            child is not None
            and child.layers[-1] is not branch
            and branch in child.layers
            and child.places is None  # else lower copies may have other names
        ):
            return True
        start = 0
        for position, (candidate, _) in enumerate(layers):
            if candidate is branch:
                start = position + 1
        known = parent.contents if self.trust else ()
        below = find(
            layers[start:],
            name,
            last_mark=not self.trust,
            contents=known[start:],
            stack=self.directories.stack,
        )
        if below is None and self.directories.lost:
            return self.directories.in_doubt(parent, name) is not None
        return below is not None

    def make_whiteout(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> None:
        """Hide `name` of the branches below `branch`, whose copy of `parent` is `fd`."""
        marks = self.marks_of(parent, branch, fd)
        if marks is not None and name not in marks:
            marks.add(name)
            self.known.grew(parent)
        self.hiding.leave(branch, fd)
        whiteout.make(branch, fd, name, self.options.whiteout)

    def look(self, parent: Node, name: bytes) -> Attributes | None:
        """Return the node of a name, None if there is none; ENAMETOOLONG, EPERM or EIO as AUFS answers them."""
        if len(name) > self.name_max or name[:4] == b".wh.":
            check_name(name, self.name_max, shwh=self.options.shwh)
        found = self.find(parent, name)
        if found is None:
            self.drop_stale_child(parent, name)
            self._absent = (parent, name) if self.trust else None
            return None
        return self.attributes_of(self.node_for(parent, name, found), found)

    def lookup(self, parent: Node, name: bytes) -> Attributes:
        """Return the node of a name; ENOENT, and what `look` raises."""
        attributes = self.look(parent, name)
        if attributes is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return attributes

    def lookup_listed(self, parent: Node, name: bytes, place: tuple[OpenBranch, int] | None) -> Attributes:
        """Return the node of a name in a listing; errors as of `lookup`.

        `place` is the branch on which a file with only one copy is known to show, and the descriptor of its copy of `parent`.
        """
        if place is None or len(name) > self.name_max:
            attributes = self.look(parent, name)
            if attributes is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            return attributes
        branch, fd = place
        found = Found([(branch, os.stat(name, dir_fd=fd, follow_symlinks=False))])
        return self.attributes_of(self.node_for(parent, name, found), found)

    def drop_stale_child(self, parent: Node, name: bytes) -> None:
        """Forget a name that disappeared from the branches behind our back."""
        child = parent.children.get(name) if parent.children else None
        if child is not None and not child.is_directory:
            child.remove_name(parent, name)
            self.nodes.release(child)

    def node_for(self, parent: Node, name: bytes, found: Found, *, made: bool = False) -> Node:
        """Return the node of what was found at a name: the known one, another name's one (hard link), or a new one.

        What was `made` just now has no recorded number.
        """
        branch, status = found.entries[0]
        identity = self.identities.of_inode(status.st_dev, status.st_ino)
        kind = stat.S_IFMT(status.st_mode)
        assert parent.children is not None
        child = parent.children.get(name)
        if child is None:
            return self._enter(parent, name, found, identity, kind, made)
        if child.traits.kind == kind:
            if kind == stat.S_IFDIR:
                self.directories.set_layers(child, found)
                return child
            if child.identity == identity:
                child.branch = branch
                return child
            if self.plinks and self._is_name_of_copy(child, parent, name, branch, identity):
                return child
        child.remove_name(parent, name)
        self.nodes.release(child)
        return self._enter(parent, name, found, identity, kind, made)

    def _enter(
        self, parent: Node, name: bytes, found: Found, identity: Identity, kind: int, made: bool
    ) -> Node:
        branch = found.entries[0][0]
        may_differ = not made or self.numbers.origins
        ino = self.numbers.of_entry(parent, branch, name, identity) if may_differ else number_of(identity)
        if not self.plinks and self.nodes.get(ino) is None:  # nearly always
            fresh = new_node(ino, kind)
            fresh.parent, fresh.name, fresh.identity, fresh.branch = parent, name, identity, branch
            parent.children[name] = fresh  # type: ignore[index]  # a directory
            self.nodes.add(fresh)
            if kind == stat.S_IFDIR:
                self.directories.set_first_layers(fresh, found)
            return fresh
        plink = None
        if made:
            self.plinks.lose_origin(identity)
        elif self.plinks and kind != stat.S_IFDIR:
            plink = self.plink_of(ino, found, identity, parent, name)
        if plink is not None:
            ino = plink.ino
            node = self.nodes.of_number(ino)
            same = node is not None and node.traits.kind == kind
        else:
            ino, same = self._number_for(ino, kind, found.status, made=made)
            node = self.nodes.of_number(ino)
        if node is not None and same:
            if node.removed:
                # Every name was gone but the file is held open; a direct change gave it a name again.
                self.let_go(node)
            elif plink is None and found.status.st_nlink == 1:
                self.drop_names(node, parent)
                node.branch = found.branch
            node.add_name(parent, name)
            return node
        if node is not None:
            self.nodes.displace(node)
        fresh = new_node(ino, kind)
        self.nodes.add(fresh)
        if plink is not None:
            fresh.identity, fresh.branch = plink.copy, plink.branch
        else:
            fresh.identity, fresh.branch = identity, found.branch
        fresh.add_name(parent, name)
        if kind == stat.S_IFDIR:
            self.directories.set_layers(fresh, found)
        return fresh

    def _is_name_of_copy(
        self, node: Node, parent: Node, name: bytes, branch: OpenBranch, identity: Identity
    ) -> bool:
        plink = self.plinks.of_file(identity)
        if plink is None or plink.ino != node.ino:
            return False
        return self.plinks.is_name(plink, identity, self.fd_on(parent, branch), name)

    def leads_to(self, node: Node, parent: Node, name: bytes, found: Found) -> bool:
        """Tell whether what was found at a name is a file's copy, or a lower file that was copied."""
        identity = self.identity_of(found.status)
        return node.identity == identity or self._is_name_of_copy(node, parent, name, found.branch, identity)

    def plink_of(self, ino: int, found: Found, identity: Identity, parent: Node, name: bytes) -> Plink | None:
        """Return the pseudo-link that what was found at a name, of number `ino`, is a name of, if its copy is where it was."""
        plink = self.plinks.of_file(identity) or self._claimed(ino, found)
        if plink is None or not self.plinks.is_name(plink, identity, self.fd_on(parent, found.branch), name):
            return None
        copy = whiteout.exists(self.plink_dir(plink.branch), plink.name)
        if copy is None or self.identity_of(copy) != plink.copy:
            self.plinks.remove(plink.ino)
            return None
        return plink

    def _claimed(self, ino: int, found: Found) -> Plink | None:
        """Return the pseudo-link found after a crash that a file of its number may be a name of, if it lies below the copy."""
        plink = self.plinks.get(ino)
        if plink is None or not plink.recovered or self.index(found.branch) <= self.index(plink.branch):
            return None
        copy = whiteout.exists(self.plink_dir(plink.branch), plink.name)
        if copy is None or stat.S_IFMT(copy.st_mode) != stat.S_IFMT(found.status.st_mode):
            return None
        if not plink.counted:
            plink.nlink = max(plink.nlink, found.status.st_nlink)
        return plink

    def _number_for(self, ino: int, kind: int, status: os.stat_result, *, made: bool) -> tuple[int, bool]:
        """Return the number to show for a file that would have `ino`, and whether the node that has it is the same file."""
        while True:
            node = self.nodes.of_number(ino)
            if node is not None and not made and kind != stat.S_IFDIR and self.is_same(node, kind, status):
                return ino, True
            taken = (
                ino in self.plinks or self.nodes.is_bound(ino) or (node is not None and self.is_live(node))
            )
            if not taken:
                return ino, False
            ino = other_number(ino)

    def unnamed(self, branch: OpenBranch, fd: int) -> Attributes:
        """Enter a file that has no name (O_TMPFILE), held by the descriptor `fd`."""
        status = os.fstat(fd)
        identity = self.identity_of(status)
        ino = number_of(identity)
        while self.nodes.get(ino) is not None or ino in self.plinks:
            ino = other_number(ino)
        node = new_node(ino, stat.S_IFREG)
        node.branch, node.identity = branch, identity
        self.hold(node, os.dup(fd))
        self.nodes.add(node)
        return Attributes(node, status, 0)

    def _discard(self, node: Node) -> None:
        """Close what is open for a node that the table has dropped."""
        if node.children is not None:
            self.directories.close(node)
            self.on_forgotten(node)
        if self._held:
            self.let_go(node)

    def drop_names(self, node: Node, keep: Node | None = None) -> None:
        """Forget names that a direct change took from a file; the directory `keep` is needed for another one."""
        for directory, name in list(node.names()):
            node.remove_name(directory, name)
            if directory is not keep:
                self.nodes.release(directory)

    def renumber(self, node: Node) -> None:
        """Give a file a new nodeid: under the former one the kernel goes on reading the copy that it has open.

        The kernel looks the names up again, at the latest when an open of the former nodeid is refused with ESTALE.
        """
        former = self.nodes.renumber(node)
        if node.handles is not None:
            node.handles.backing = None
        self.session.attributes_changed(former)
        for parent, name in node.names():
            self.session.name_changed(parent, name)

    def forget_children(self, node: Node) -> None:
        """Drop what was known below a removed directory (names that went away behind our back)."""
        for name, child in list((node.children or {}).items()):
            child.remove_name(node, name)
            self.nodes.release(child)
        self.directories.close(node)

    def reparent(
        self, node: Node, parent: Node, name: bytes, branch: OpenBranch, status: os.stat_result
    ) -> None:
        """Give a directory its new place after a rename on `branch`, which alone holds it, as `status`, from then on."""
        if node.parent is not None:
            node.remove_name(node.parent, node.name)
        node.add_name(parent, name)
        self.directories.close(node)
        self.directories.set_layers(node, Found([(branch, status)]))

    # -- relations ----------------------------------------------------------------------------------------------

    def index(self, branch: OpenBranch) -> int:
        """Return a branch's position, 0 being the top."""
        return self.branches.index(branch)

    def bury(self, node: Node) -> None:
        """Keep the last copy of a file reachable after its last name goes (the kernel may hold it open or as a cwd)."""
        if node.lookups or node.handles or node.opens:
            if node.handles:
                room.check_removed()
            self.hold(node, self.open_path(node))

    def close(self) -> None:
        """Close every descriptor."""
        self.directories.close_all()
        self.let_all_go()
        self.plinks.clear()
        for branch in self.branches:
            self.drop_bookkeeping(branch)
            branch.close()
        self.locks.close()  # last: the next mount waits for it
