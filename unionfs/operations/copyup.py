# SPDX-License-Identifier: Apache-2.0
"""Copy-up: bring a file to a writable branch, whole or not at all (directories: `copy_directories`).

Order: stage (O_TMPFILE, else a `.wh..wh.` name), data, owner, xattrs, mode (setuid bits last), times, what the operation changes,
descriptors for those who have it open; then one link or rename publishes it, and nothing that follows can fail. How data comes
into the stage is `copy_jobs`'.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.copydata import CopyJob
from unionfs.branches.metadata import copy_metadata, try_to_restore_times
from unionfs.handles.followed import is_followed
from unionfs.handles.handles import is_pinned
from unionfs.operations.copy_directories import DirectoryCopies
from unionfs.operations.copy_jobs import CopyJobs
from unionfs.operations.policy import Policies
from unionfs.plinks.pseudolinks import Origin, plinked
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.open_files import OpenFile
from unionfs.tree.union import Union

Place = tuple[Node, bytes]  # parent and name
Finish = Callable[[int], None]  # changes the copy behind a descriptor before it is published


class CopyUps:
    """Copy-ups of one union, at most one at a time for a node."""

    def __init__(self, union: Union, policies: Policies) -> None:
        self._union = union
        self._policies = policies
        self.directory_on = DirectoryCopies(union).on
        self._jobs = CopyJobs(union, self.directory_on)
        self.complete, self.leave, self.close = self._jobs.complete, self._jobs.leave, self._jobs.close
        self.finished = 0

    # -- deciding -----------------------------------------------------------------------------------------------

    def target(self, node: Node) -> OpenBranch:
        """Return the branch a node's copy is to be on to be changed; EROFS if there is none."""
        assert node.branch is not None
        if node.branch.writable:
            return node.branch
        union = self._union
        parent = node.parent if node.parent is not None else union.root
        return self._policies.for_copy_up(union.branches, union.dirs(parent), node.branch)

    def ensure(
        self, node: Node, *, length: int | None = None, finish: Finish | None = None, allow: int = 0
    ) -> os.stat_result | None:
        """Make a node's visible copy writable; of a regular file's data only the first `length` bytes are kept.

        `finish` changes the copy of a regular file before it is published, so that both happen in one step. Returns the stat that
        such a copy had then; None if none was made. EPERM if the node is immutable or append-only, unless `allow` has that flag.
        Raises EROFS, ENOSPC, EDQUOT, EIO … with the old state in place, or `Deferred` when the copy goes to a thread.
        """
        assert node.branch is not None
        if node.is_directory and not node.removed and protection.of_directory(self._union, node) & ~allow:
            raise protection.refused()
        if node.branch.writable:
            if node.branch.overlay and not node.is_directory:
                if protection.of_file(self._union, node) & ~allow:
                    raise protection.refused()
                if length is not None:
                    self.complete(node, length=length)
            return None
        target = self.target(node)
        if target is node.branch:
            return None
        return self.to_branch(node, target, length=length, finish=finish, allow=allow)

    def to_branch(
        self,
        node: Node,
        target: OpenBranch,
        *,
        length: int | None = None,
        finish: Finish | None = None,
        place: Place | None = None,
        allow: int = 0,
    ) -> os.stat_result | None:
        """Copy a node to `target`, whether or not its own branch is writable; the rest is as in `ensure`.

        With `place` the copy gets that new name, and the old names stay what they are: AUFS' link(2) of a lower file.
        EXDEV while the kernel reads and writes the file by itself, which cannot be moved then.
        """
        if node.is_directory:
            self.directory_on(node, target)
            return None
        if is_pinned(node):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        union = self._union
        held = protection.of_file(union, node)
        if held & ~allow or (held and not target.keeps_flags):
            raise protection.refused()
        made = None
        source = union.open_path(node)
        try:
            status = os.fstat(source)
            with union.root_kept(target.root):
                if stat.S_ISREG(status.st_mode):
                    try:
                        made = self._copy_regular(node, target, source, status, length, finish, place)
                    finally:
                        if held and node.branch is target:
                            self._protect(node, held)
                else:
                    self._copy_special(node, target, source, status, place)
        finally:
            os.close(source)
        self.finished += 1
        return made

    def _protect(self, node: Node, held: int) -> None:
        """Give a new copy the flags that protect it; a kill before that leaves it without."""
        path = self._union.open_path(node)
        try:
            fd = os.open(whiteout.proc_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(path)
        try:
            protection.protect(held, fd)
        finally:
            os.close(fd)

    # -- regular files ------------------------------------------------------------------------------------------

    def _copy_regular(
        self,
        node: Node,
        target: OpenBranch,
        source: int,
        status: os.stat_result,
        length: int | None,
        finish: Finish | None,
        place: Place | None,
    ) -> os.stat_result:
        """Copy a regular file in two halves: data into a stage (`CopyJobs`), then attributes and publication."""
        size = status.st_size if length is None else min(length, status.st_size)
        job = self._jobs.staged(node, target, source, status, size)
        try:
            return self._publish(node, target, job, source, status, finish, place)
        finally:
            job.close()

    def _publish(
        self,
        node: Node,
        target: OpenBranch,
        job: CopyJob,
        source: int,
        status: os.stat_result,
        finish: Finish | None,
        place: Place | None,
    ) -> os.stat_result:
        union = self._union
        assert node.branch is not None
        copy_metadata(source, job.fd, status, target, marked=node.branch.overlay)
        protection.carry(job.flags, job.fd)
        follows = is_followed(job, node.backing)
        if finish is not None and not follows:
            finish(job.fd)
        copy = os.fstat(job.fd)
        with _reopened(node, job.fd, follows=follows) as descriptors:
            if (
                place is None and node.parent is None
            ):  # removed while open: the copy lives as long as its descriptors
                union.hold(node, os.dup(job.fd))
                self._switch(node, target, copy, descriptors, follows=follows)
                if finish is not None and follows:
                    finish(job.fd)
                return copy
            parent, name = place or (node.parent or union.root, node.name)
            parent_fd = self.directory_on(parent, target)
            parent_status = os.fstat(parent_fd)
            together = self._is_kept_together(node)
            with self._recorded(
                node, target, job.fd, copy, Origin(source, status), (parent, parent_fd), place
            ):
                job.link(parent_fd, name)
            if status.st_nlink > 1 and not together and node.traits.aliases:
                self._split(node)
            self._switch(node, target, copy, descriptors, follows=follows)
        if place is not None:
            node.make_home(parent, name)
        else:
            try_to_restore_times(parent_fd, parent_status)
        union.times_moved(parent)
        if finish is not None and follows:
            # Not before, as who reads the file sees it: if it cannot be published they must not read another one than the name's.
            finish(job.fd)
        return copy

    @contextlib.contextmanager
    def _recorded(
        self,
        node: Node,
        target: OpenBranch,
        fd: int,
        copy: os.stat_result,
        origin: Origin,
        directory: tuple[Node, int],
        place: Place | None,
    ) -> Iterator[None]:
        """Around the publication of the copy behind `fd`: record its number and, where it needs one, its pseudo-link."""
        union = self._union
        parent, parent_fd = directory
        try:
            if self._is_kept_together(node) or origin.status.st_nlink == 1:
                union.numbers.record(node.ino, fd, parent, target, parent_fd)
            with self._sharing(node, target, fd, origin, place):
                yield
        except BaseException:
            union.numbers.origins.pop(union.identity_of(copy), None)  # the inode will be another file's
            raise

    def _sharing(
        self, node: Node, target: OpenBranch, fd: int, origin: Origin, place: Place | None
    ) -> contextlib.AbstractContextManager[None]:
        """Make a pseudo-link during publication if names on lower branches will go on meaning this file."""
        shared = place is not None or origin.status.st_nlink - node.traits.hidden_links > 1
        if shared and self._is_kept_together(node):
            return plinked(self._union, node, target, fd, origin, place)
        return contextlib.nullcontext()

    def _is_kept_together(self, node: Node) -> bool:
        """Tell whether the names of a lower file stay one file: with `noplink` only those that are so since before."""
        return self._union.options.plink or node.ino in self._union.plinks

    def _split(self, node: Node) -> None:
        """Without pseudo-links the other names keep the old data: they become files of their own at their next lookup."""
        for parent, name in list(node.traits.aliases or ()):
            node.remove_name(parent, name)
            self._union.session.name_changed(parent, name)

    def _switch(
        self,
        node: Node,
        target: OpenBranch,
        copy: os.stat_result,
        descriptors: list[tuple[OpenFile, int]],
        *,
        follows: bool = False,
    ) -> None:
        """Let the node and its open handles use the new copy."""
        node.branch = target
        node.identity = self._union.identity_of(copy)
        if node.traits.hidden_links:
            node.traits = node.traits._replace(hidden_links=0)
        self._union.times_moved(node)
        for handle, fd in descriptors:
            handle.use(fd)
        if node.backing is None:
            return
        if follows and node.backing.followed is not None:
            node.backing.followed.published = True
        else:
            self._union.renumber(node)

    # -- links and special files --------------------------------------------------------------------------------

    def _copy_special(
        self, node: Node, target: OpenBranch, source: int, status: os.stat_result, place: Place | None
    ) -> None:
        """Copy a symbolic link, FIFO, socket or device node, which is never opened."""
        union = self._union
        if place is None and node.parent is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        assert node.parent is not None
        parent, final = place or (node.parent, node.name)
        parent_fd = self.directory_on(parent, target)
        parent_status = os.fstat(parent_fd)
        staging = union.stage_dir(target, parent_fd)
        name = stage.stage_name(node.name)
        if stat.S_ISLNK(status.st_mode):
            directory, entry = union.home(node)
            os.symlink(os.readlink(entry, dir_fd=directory), name, dir_fd=staging)
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=staging)
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
            try:
                assert node.branch is not None
                copy_metadata(source, fd, status, target, marked=node.branch.overlay)
                copy = os.fstat(fd)
                with self._recorded(
                    node, target, fd, copy, Origin(source, status), (parent, parent_fd), place
                ):
                    os.rename(name, final, src_dir_fd=staging, dst_dir_fd=parent_fd)
            finally:
                os.close(fd)
        except BaseException:
            leftovers.discard(staging, name)
            raise
        self._switch(node, target, copy, [])
        if place is not None:
            node.make_home(parent, final)
        else:
            try_to_restore_times(parent_fd, parent_status)
        union.times_moved(parent)


@contextlib.contextmanager
def _reopened(node: Node, fd: int, *, follows: bool) -> Iterator[list[tuple[OpenFile, int]]]:
    """Around a publication: open the copy behind `fd` for every handle that is to go on with it, while that may still fail."""
    descriptors: list[tuple[OpenFile, int]] = []
    try:
        for handle in node.handles or ():
            if handle.backing is None or (follows and handle.backing is node.backing):
                descriptors.append((handle, handle.reopen(fd)))
        yield descriptors
    finally:
        for _, opened in descriptors:
            os.close(opened)
