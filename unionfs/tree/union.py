# SPDX-License-Identifier: Apache-2.0
"""The union as a tree of nodes over branches: resolve names, give them nodes (`copies` tells where a node's copy lies).

The operations (create, remove, rename, links, copyup, attributes) work on this; it knows nothing of FUSE, handles' numbers
or threads. All paths are single components relative to descriptors.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.emptiness import is_fresh
from unionfs.branches.identity import Identities, number_of
from unionfs.branches.metadata import bring_mtime
from unionfs.kernel.reserve import room
from unionfs.live.branch_lock import BranchLocks
from unionfs.lookup.find import Found, check_name, find
from unionfs.options.aufs import Options
from unionfs.tree.bookkeeping import Bookkeeping
from unionfs.tree.copies import Copies
from unionfs.tree.directories import Directories
from unionfs.tree.node_maker import NodeMaker
from unionfs.tree.node_table import NodeTable
from unionfs.tree.nodes import UNKNOWN, Attributes, Node, new_node, new_root, other_number
from unionfs.tree.numbers import Numbers
from unionfs.tree.plink_table import PlinkTable
from unionfs.tree.port import NoSession, Session
from unionfs.tree.pristine import Fresh
from unionfs.tree.whiteouts import Whiteouts

log = logging.getLogger(__name__)


class Union:
    """Branches, options and nodes of one mounted union."""

    def __init__(self, branches: Sequence[OpenBranch], options: Options, locks: BranchLocks) -> None:
        self.branches = tuple(branches)
        self.locks = locks
        self.session: Session = NoSession()
        self.on_leave: Callable[[OpenBranch], None] = lambda branch: None
        self.on_forgotten: Callable[[Node], None] = lambda directory: None
        self.root = new_root()
        self.identities = Identities(self.branches)
        self.directories = Directories(self.root, self.branches, self.identities)
        self.known = self.directories.known
        self.plinks = PlinkTable(self.identities.of)
        self.unmarked: set[int] = set()  # ids of branches on which no file has a mark of an overlay's
        self.own_directories = 0  # further ones in the roots of branches, which the union does not show
        self.bookkeeping = Bookkeeping(lambda: self.times_moved(self.root))
        self.numbers = Numbers(self.identities, self.directories)
        self.hiding = Fresh(self.identities)  # the directories that have whiteouts of AUFS' form
        self.whiteouts = Whiteouts(self.directories, self.hiding)
        self.nodes = NodeTable(self.root, self._discard, lambda: self.session.shrunk())
        self.copies = Copies(
            self.root, self.identities, self.directories, self.plinks, self.bookkeeping, self.unmarked,
            self._own_links_of_root,
        )  # fmt: skip
        self._maker = NodeMaker(
            self.nodes, self.identities, self.directories, self.copies, self.numbers, self.plinks,
            self.bookkeeping.plink_dir, self.index,
        )  # fmt: skip
        self._seen: set[int] = set()  # branches by id
        self._absent: tuple[Node, bytes] | None = None  # what a lookup found missing, until something is made
        self._bind()
        self._use_options(options)
        self._look_at_new_branches()

    def _bind(self) -> None:
        """Give what the parts do by themselves shorter names, for the request path: a method here would be a call more."""
        directories, bookkeeping, copies = self.directories, self.bookkeeping, self.copies
        self.identity_of = self.identities.of
        self.dirs, self.fd_on, self.trim = directories.dirs, directories.fd_on, directories.trim
        self.plink_dir, self.stage_dir = bookkeeping.plink_dir, bookkeeping.stage_dir
        self.root_kept = bookkeeping.root_kept
        self.hold, self.let_go = copies.held.hold, copies.held.let_go
        self.home, self.found_home, self.is_surely_home = (
            copies.home,
            copies.found_home,
            copies.is_surely_home,
        )
        self.status, self.shown_fd, self.held_fd = copies.status, copies.shown_fd, copies.held_fd
        self.open_path, self.open_copy = copies.open_path, copies.open_copy
        self.find_data, self.open_data = copies.find_data, copies.open_data
        self.attributes, self.attributes_now = copies.attributes, copies.attributes_now
        self.attributes_of = copies.attributes_of
        self.node_for, self.leads_to = self._maker.node_for, self._maker.leads_to
        self.plink_of = self._maker.plink_of
        self.drop_stale_child, self.drop_names = self._maker.drop_stale_child, self._maker.drop_names
        self.known_directory, self.shows_below = self.whiteouts.known_directory, self.whiteouts.shows_below
        self.is_hidden, self.may_hide = self.whiteouts.is_hidden, self.whiteouts.may_hide
        self.make_whiteout = self.whiteouts.make_whiteout

    def _use_options(self, options: Options) -> None:
        self.options = options
        self.read_only = options.read_only
        self.whiteouts.form = options.whiteout
        self.bookkeeping.in_overlay_form = options.whiteout == "overlay"
        self.name_max = whiteout.MAX_NAME if options.whiteout == "aufs" else 255
        # Nobody else changes the branches.
        self.trust = self.directories.trust = self.copies.trust = options.udba == "none"
        if not self.trust:
            self.unmarked.clear()
        self.directories.stack = self.directories.stack._replace(
            redirects=options.redirects, metacopy=options.metacopy
        )

    def attach(self, session: Session) -> None:
        """Tell `session`, and nobody else, what the kernel has of the union that is no longer so."""
        self.session = session
        self.nodes.nodeids_are_numbers = session.nodeids_are_numbers

    def change_options(self, options: Options) -> None:
        """Take other options from now on."""
        believed = self.trust
        self._use_options(options)
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
        """Return where `name` is visible in `parent`; errors as of `lookup.find`, and BranchLost (EIO) if nobody knows."""
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
        """Return the node of a name in a listing; ENOENT if it has gone, and errors as of `look`.

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
        if self.copies.held:
            self.let_go(node)

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

    def drop_bookkeeping(self, branch: OpenBranch) -> None:
        """Close the bookkeeping directories of a branch that is no longer written to, or leaves."""
        self.on_leave(branch)
        self.bookkeeping.drop(branch)

    def times_moved(self, *nodes: Node) -> None:
        """After work of our own on branches that moved the change times of nodes: what stat shows next is what it shows later.

        The kernel knows which operations change which nodes, but nothing of copies that are made for them.
        """
        for node in nodes:
            self.session.attributes_changed(node.nodeid)

    def touched(self, parent: Node, branch: OpenBranch, fd: int) -> None:
        """After a change in a lower copy of a directory: bring its time to the top copy, so that the union shows it.

        The change is done, so it raises nothing.
        """
        if parent.layers[0] is branch:
            return
        try:
            top, top_fd = self.dirs(parent)[0]
            if top.writable:
                bring_mtime(top_fd, fd)
        except PermissionError:
            pass  # an unprivileged server and somebody else's directory
        except OSError as error:
            log.warning("the time of %s does not show: %s", os.fsdecode(parent.path()), error.strerror)

    def _own_links_of_root(self) -> int:
        in_aufs_form = self.options.whiteout == "aufs"
        kept = sum(2 for branch in self.branches if branch.permission == "rw" and in_aufs_form)
        return kept + self.own_directories

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
        self.copies.held.let_all_go()
        self.plinks.clear()
        for branch in self.branches:
            self.drop_bookkeeping(branch)
            branch.close()
        self.locks.close()  # last: the next mount waits for it
