# SPDX-License-Identifier: Apache-2.0
"""A lower file that is open through a private overlay, so that whoever reads it by way of the kernel follows its copy-up.

The copy-up itself is made by overlayfs then, in its directory; like every stage it gets its attributes there and is published by
one link. Knows nothing of nodes or names of the union.
"""

from __future__ import annotations

import errno
import logging
import os

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.copydata import CopyJob
from unionfs.branches.identity import Identity
from unionfs.handles.private_overlay import PrivateOverlay
from unionfs.kernel import syscalls
from unionfs.kernel.durability import WriteBack
from unionfs.kernel.reserve import room
from unionfs.tree import protection
from unionfs.tree.open_files import Backing

log = logging.getLogger(__name__)

_OWN_XATTRS = "trusted.overlay."
# What our own copy would meet as well.
_FINAL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOMEM, errno.EROFS)


class Followed:
    """An open file of a private overlay; it is closed when all who hold it have released it, and begins with one."""

    __slots__ = (
        "_remembered",
        "_users",
        "fd",
        "has_copy",
        "identity",
        "overlay",
        "path",
        "published",
        "usable",
    )

    def __init__(self, overlay: PrivateOverlay, path: bytes, identity: Identity, fd: int) -> None:
        self.overlay = overlay
        self.path = path
        self.identity = identity
        self.fd = fd
        self.has_copy = False  # overlayfs has a copy with a name of its own
        self.published = False  # the copy is the one that the union shows: what is opened may be written to
        self.usable = True  # overlayfs did not refuse to copy it
        self._users = 1
        self._remembered = False  # the copy has no name any more, but overlayfs knows it
        room.held += 1

    def can_be_copied_to(self, target: OpenBranch) -> bool:
        """Tell whether a copy on `target` can be made in such a way that the readers follow."""
        overlay = self.overlay
        return self.usable and not self.published and overlay.usable and overlay.upper_id == target.id

    def hold(self) -> Followed:
        """Count one more user."""
        self._users += 1
        return self

    def release(self) -> None:
        """Count one user less; the last one closes the descriptor and drops a copy that was not published."""
        self._users -= 1
        if self._users:
            return
        os.close(self.fd)
        room.held -= 1
        if self.has_copy:
            self.hide_copy()
        if self.has_copy:
            self.overlay.unhidden.append(self.path)
        if self._remembered:
            self.overlay.forget_unused()

    def hide_copy(self) -> None:
        """Take the copy's own name away; failing is put off to when the file is released, and then to `forget_unused`."""
        try:
            self._remembered = not self.overlay.hide_copy(self.path)
            self.has_copy = False
        except OSError as error:
            log.warning("cannot hide the temporary copy of %s: %s", os.fsdecode(self.path), error.strerror)


class FollowedJob(CopyJob):
    """A copy-up that overlayfs makes, so that all who have the file open through it read the copy from then on.

    It always takes the whole file: what is to be cut off is cut off after publication, as readers see every step.
    """

    followed: Followed

    def __init__(
        self, followed: Followed, target: OpenBranch, length: int, write_back: WriteBack | None
    ) -> None:
        # Descriptors of its own: it runs in a thread, and whoever reads may close the file meanwhile.
        directory = os.dup(followed.overlay.directory)
        try:
            super().__init__(os.dup(followed.fd), -1, -1, b"", length)
        except OSError:
            os.close(directory)
            raise
        self.target, self.source_id, self.write_back = target, followed.identity, write_back
        self.flags = protection.flags_of(self._source)
        self.followed = followed.hold()
        self._directory = directory
        self._copied = followed.has_copy
        followed.overlay.copied.add(followed.identity)

    def _copy(self) -> None:
        os.close(os.open(whiteout.proc_path(self._source), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        self._copied = self.followed.has_copy = True
        self.fd = syscalls.openat2(self.followed.path, os.O_RDWR | os.O_NONBLOCK, dir_fd=self._directory)
        for name in os.listxattr(self.fd):
            if name.startswith(_OWN_XATTRS):
                os.removexattr(self.fd, name)

    def link(self, dirfd: int, name: bytes) -> None:
        """Publish the copy as `name`."""
        super().link(dirfd, name)
        self.followed.hide_copy()

    def close(self) -> None:
        """Close the descriptors; a copy that was not published stays for another try while the file is open."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
            if not self._copied:
                self.followed.overlay.copied.discard(self.followed.identity)
            self.followed.release()
        super().close()


def begin_followed(
    backing: Backing | None, target: OpenBranch, length: int, write_back: WriteBack | None
) -> FollowedJob | None:
    """Begin a copy on `target` of a file of `length` bytes that the readers of `backing` follow; None if they cannot."""
    followed = backing.followed if backing is not None else None
    if not isinstance(followed, Followed) or not followed.can_be_copied_to(target):
        return None
    return FollowedJob(followed, target, length, write_back)


def is_to_be_made_by_us(job: CopyJob) -> bool:
    """Tell whether a copy that overlayfs could not make is to be made without it; then it is not asked again.

    What it has a reason of its own for says nothing of our copy: an attribute that it must copy and the branch has not, say.
    """
    if not isinstance(job, FollowedJob) or not isinstance(job.error, OSError) or job.error.errno in _FINAL:
        return False
    log.info("a reader does not follow the copy-up: %s", job.error.strerror)
    job.followed.usable = False
    return True


def is_followed(job: CopyJob, backing: Backing | None) -> bool:
    """Tell whether the readers of `backing` read what `job` has copied."""
    followed = backing.followed if backing is not None else None
    if not isinstance(followed, Followed) or not isinstance(job, FollowedJob):
        return False
    return (followed.overlay, followed.path) == (job.followed.overlay, job.followed.path)
