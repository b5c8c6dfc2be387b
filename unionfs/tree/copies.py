# SPDX-License-Identifier: Apache-2.0
"""The visible copies of nodes: where they lie, their attributes, and descriptors of them.

All paths are single components relative to descriptors. It knows nothing of how names are found or changed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from unionfs.branches import redirects, whiteout
from unionfs.branches.identity import Identities
from unionfs.branches.metadata import with_blocks
from unionfs.kernel import syscalls
from unionfs.lookup.find import Found
from unionfs.tree.bookkeeping import Bookkeeping
from unionfs.tree.directories import Directories
from unionfs.tree.held import Held
from unionfs.tree.nodes import GONE, NO_XATTRS, Attributes, Node, stale
from unionfs.tree.plink_table import PlinkTable

# What opening a file at its home fails with if it is not there any more.
_MOVED = (errno.ENOENT, errno.ESTALE)
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Opened(NamedTuple):
    """A copy that was opened, and its stat; `elsewhere`: the descriptor is of another file, which has the data."""

    fd: int
    status: os.stat_result
    elsewhere: bool


class Copies:
    """The visible copies of one union's nodes."""

    def __init__(
        self,
        root: Node,
        identities: Identities,
        directories: Directories,
        plinks: PlinkTable,
        bookkeeping: Bookkeeping,
        unmarked: set[int],
        root_links: Callable[[], int],
    ) -> None:
        """`unmarked` are branches (by id) without any mark of an overlay's; `root_links` tells how many of the root's links are
        of directories that the union does not show.
        """
        self._root = root
        self._identity_of = identities.of
        self._directories = directories
        self._dirs, self._fd_on = directories.dirs, directories.fd_on
        self._plinks = plinks
        self._plink_dir = bookkeeping.plink_dir
        self._unmarked = unmarked
        self._root_links = root_links
        self.trust = False  # nobody else changes the branches
        self.held = Held()

    def home(self, node: Node) -> tuple[int, bytes]:
        """Return (directory descriptor, name) of the node's copy on its branch; a pseudo-link if no name is there."""
        plink = self._plinks.get(node.ino)
        if plink is not None:
            return self._plink_dir(plink.branch), plink.name
        assert node.parent is not None
        fd = self._fd_on(node.parent, node.branch)
        if fd is None:
            raise self._gone(node)
        return fd, node.name

    def _gone(self, node: Node) -> OSError:
        """Return the error for a file that is no more where it was."""
        lost = self._directories.lost
        if lost and node.branch is not None and lost.reason(node.branch) is not None:
            return lost.error(node.branch)
        return stale(node)

    def status(self, node: Node) -> os.stat_result:
        """Return the stat of a node's visible copy."""
        if node.is_directory:
            return os.fstat(self.shown_fd(node))
        if node.parent is not None:
            fd, name = self.home(node)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        else:
            status = os.fstat(self.held_fd(node))
        return self.with_data(node, status) if status.st_blocks << 9 < status.st_size else status

    def birth(self, node: Node) -> syscalls.Birth:
        """Return when the visible copy was made, and its statx attributes."""
        fd = self.open_path(node)
        try:
            return syscalls.birth(fd)
        finally:
            os.close(fd)

    def readlink(self, node: Node) -> bytes:
        """Return a symbolic link's text."""
        if node.removed:
            return os.readlink(b"", dir_fd=self.held_fd(node))
        fd, name = self.home(node)
        return os.readlink(name, dir_fd=fd)

    def shown_fd(self, node: Node) -> int:
        """Return the descriptor of a directory's visible copy."""
        return self.held.get(node, -1) if node.removed else self._dirs(node)[0][1]

    def held_fd(self, node: Node) -> int:
        """Return a descriptor of a removed file: the kept one, or that of an open handle; ESTALE if there is none."""
        if node in self.held:
            return self.held[node]
        if node.handles:
            return next(iter(node.handles)).fd
        raise stale(node)

    def open_path(self, node: Node) -> int:
        """Return a new O_PATH descriptor of the node's visible copy; ESTALE if another file is in its place.

        Where nobody else changes the branches that is not looked for.
        """
        if node.is_directory:
            return os.dup(self.shown_fd(node))
        if node.parent is None:
            return os.dup(self.held_fd(node))
        if self.is_surely_home(node):
            fd, name = self.home(node)
            return os.open(name, _PATH_FLAGS, dir_fd=fd)
        return self._open_home(node, _PATH_FLAGS)[0]

    def is_surely_home(self, node: Node) -> bool:
        """Tell whether `home` leads to a file's copy without a look: it has a name, and nobody else changes the branches."""
        return self.trust and node.parent is not None and node.children is None and node.identity != GONE

    def open_copy(self, node: Node, flags: int) -> Opened:
        """Open the visible copy of a regular file that has a name, and look at it; ESTALE if something else is in its place.

        A FIFO there does not block (the flags have O_NONBLOCK), and a symbolic link is not followed. What is a metacopy of an
        overlay is opened where its data is; EPERM, EIO as `redirects` tells.
        """
        fd, status = self._open_home(node, flags | os.O_NOFOLLOW)
        branch = node.branch
        assert branch is not None
        if branch.overlay and status.st_size and branch.id not in self._unmarked and node.bare != NO_XATTRS:
            return self._open_data_of(node, fd, status, flags)
        return Opened(fd, status, elsewhere=False)

    def _open_home(self, node: Node, flags: int) -> tuple[int, os.stat_result]:
        try:
            return self._open_name(node, flags)
        except OSError as error:
            if error.errno not in _MOVED or not self._rehome(node):
                raise
        return self._open_name(node, flags)

    def _open_name(self, node: Node, flags: int) -> tuple[int, os.stat_result]:
        fd, name = self.home(node)
        try:
            result = os.open(name, flags, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise stale(node) from None
            raise
        status = os.fstat(result)
        if self._identity_of(status) != node.identity:
            os.close(result)
            raise stale(node)
        return result, status

    def _open_data_of(self, node: Node, fd: int, status: os.stat_result, flags: int) -> Opened:
        """Return what is to be read of the file behind `fd`: itself, or a lower file in its place."""
        try:
            names = whiteout.xattr_names(fd)
            if not names and self.trust:
                node.bare = NO_XATTRS
            data = self.find_data(node, fd, whiteout.marks_among(names)) if names else -1
        except BaseException:
            os.close(fd)
            raise
        if data < 0:
            return Opened(fd, status, elsewhere=False)
        os.close(fd)
        try:
            return Opened(os.open(whiteout.proc_path(data), flags), status, elsewhere=True)
        finally:
            os.close(data)

    def find_data(self, node: Node, fd: int, marks: tuple[str, ...]) -> int:
        """Return a descriptor (O_PATH) of the file that has the data of a node's copy, -1 if the copy itself does.

        `fd` is of the copy, and `marks` are those of an overlay that it has. Errors as of `is_metacopy` and `open_data`.
        """
        branch = node.branch
        assert branch is not None
        path = whiteout.proc_path(fd)
        if not marks or not redirects.is_metacopy(marks, path, node.name, branch):
            return -1
        return self.open_data(node, marks, path)

    def open_data(self, node: Node, marks: tuple[str, ...], path: bytes) -> int:
        """Return a descriptor (O_PATH) of the file that has the data of a metacopy, which is at `path`.

        EIO if no lower layer has it, EPERM for a mark that is not followed, ESTALE if the metacopy has no name any more.
        """
        if node.parent is None:  # without a name nothing can be found, but for what somebody has open
            for handle in node.handles or ():
                if handle.elsewhere:
                    return os.dup(handle.fd)
            raise stale(node)
        assert node.branch is not None
        layers = self._dirs(node.parent)
        return redirects.open_data(self._directories.stack, layers, node.branch, node.name, marks, path)

    def with_data(self, node: Node, status: os.stat_result) -> os.stat_result:
        """Return the stat of a file with few blocks; a metacopy shows those of its data, as far as that is found."""
        branch = node.branch
        if branch is None or not branch.overlay or branch.id in self._unmarked:
            return status
        if not stat.S_ISREG(status.st_mode):  # a symbolic link has no blocks either
            return status
        try:
            blocks = self._blocks_of_data(node)
        except OSError:
            return status  # said when it is opened
        return status if blocks is None else with_blocks(status, blocks)

    def _blocks_of_data(self, node: Node) -> int | None:
        fd = self.open_path(node)
        try:
            path = whiteout.proc_path(fd)
            data = self.find_data(node, fd, whiteout.marks_among(os.listxattr(path)))
        finally:
            os.close(fd)
        if data < 0:
            return None
        try:
            return os.fstat(data).st_blocks
        finally:
            os.close(data)

    def found_home(self, node: Node) -> tuple[int, bytes]:
        """Do the same as `home` after looking whether the copy is there; ESTALE if it is not."""
        os.close(self._open_home(node, _PATH_FLAGS)[0])
        return self.home(node)

    def is_at(self, parent: Node, name: bytes, node: Node) -> bool:
        """Tell whether a name leads to a node's file on its branch now."""
        try:
            fd = self._fd_on(parent, node.branch)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False) if fd is not None else None
        except OSError:
            return False
        return status is not None and self._identity_of(status) == node.identity

    def is_same(self, node: Node, kind: int, status: os.stat_result) -> bool:
        """Tell whether a file is a node's file, seen under another name.

        With the same inode number it need not be: filesystems give the numbers of removed files to new ones. It is if something
        keeps the node's file from being removed, a descriptor or a name that leads to it now.
        """
        identity = self._identity_of(status)
        if node.kind != kind or node.identity != identity:
            return False
        kept = [handle.fd for handle in node.handles or ()]
        if node in self.held:
            kept.append(self.held[node])
        if any(self._identity_of(os.fstat(fd)) == identity for fd in kept):
            return True
        return status.st_nlink > 1 and any(self.is_at(parent, name, node) for parent, name in node.names())

    def is_live(self, node: Node) -> bool:
        """Tell whether a node's file still is what it was, so that another file needs another number."""
        if node.handles or node.opens or node.is_directory or node in self.held:
            return True
        try:
            status = self.status(node)
        except OSError:
            return False
        return self._identity_of(status) == node.identity

    def _rehome(self, node: Node) -> bool:
        """After the home of a hard-linked file was taken away directly: let another name be it; False if there is none."""
        for parent, name in list(node.traits.aliases or ()):
            if self.is_at(parent, name, node):
                node.make_home(parent, name)
                return True
        return False

    def attributes(self, node: Node) -> Attributes:
        """Return a node's attributes, read from its branch now; ESTALE if another file is in its place."""
        try:
            status = self.status(node)
            if self.trust or node.children is not None or self._identity_of(status) == node.identity:
                return self.attributes_now(node, status)
        except FileNotFoundError:
            pass
        return self._attributes_elsewhere(node)

    def _attributes_elsewhere(self, node: Node) -> Attributes:
        """Return the attributes of a file that is not at its home any more, but open or at another name."""
        for handle in node.handles or ():
            status = os.fstat(handle.fd)
            if self._identity_of(status) == node.identity:
                return self.attributes_now(node, status)
        if node.parent is None or not self._rehome(node):
            raise stale(node)
        return self.attributes_now(node, self.status(node))

    def attributes_of(self, node: Node, found: Found) -> Attributes:
        """Return a node's attributes from what a lookup has just read."""
        status = found.entries[0][1]
        if status.st_blocks << 9 < status.st_size:
            status = self.with_data(node, status)
        if node.children is None and not self._plinks:  # nearly always
            return Attributes(node, status, max(1, status.st_nlink - node.traits.hidden_links))
        if node.children is not None:
            nlink, fixed = status.st_nlink, 0
            for branch, other in found.entries[1:]:
                links = max(0, other.st_nlink - 2)
                nlink += links
                if not branch.writable:
                    fixed += links
            if self.trust:
                node.links = fixed
            return Attributes(node, status, nlink)
        if (
            self._plinks and self._identity_of(status) != node.identity
        ):  # another name of a pseudo-linked file
            return self.attributes(node)
        return self.attributes_now(node, status)

    def attributes_now(self, node: Node, status: os.stat_result) -> Attributes:
        """Return a node's attributes given what its visible copy's are now."""
        if node.parent is None and node is not self._root:
            return Attributes(node, status, 0)
        if node.children is None:
            plink = self._plinks.get(node.ino) if self._plinks else None
            nlink = max(1, plink.nlink if plink is not None else status.st_nlink - node.traits.hidden_links)
            return Attributes(node, status, nlink)
        nlink = status.st_nlink + self._links_below(node)
        if node is self._root:
            nlink -= self._root_links()
        return Attributes(node, status, max(nlink, 2 if status.st_nlink > 1 else 1))

    def _links_below(self, node: Node) -> int:
        """Return what a directory's lower copies add to its link count; read-only ones that nobody changes are read once."""
        dirs = self._dirs(node)
        if len(dirs) == 1:
            return 0
        links = node.links
        if links < 0:
            fixed = [fd for branch, fd in dirs[1:] if not branch.writable]
            links = sum(max(0, os.fstat(fd).st_nlink - 2) for fd in fixed)
            node.links = links if self.trust else -1
        for branch, fd in dirs[1:]:
            if branch.writable:
                links += max(0, os.fstat(fd).st_nlink - 2)
        return links
