# SPDX-License-Identifier: Apache-2.0
"""Which lower files can be opened so that their readers follow a copy-up, through which private overlay.

There is one for each pair of a branch that is read and a branch that its files are copied to, made when the first such file is
opened and kept until one of the two leaves the union. Owns these mounts; copying up by them is in `copyup`.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from itertools import takewhile

from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import filesystem_of
from unionfs.handles.followed import Followed
from unionfs.handles.private_overlay import PrivateOverlay
from unionfs.operations.copyup import CopyUps
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

log = logging.getLogger(__name__)

# What may be otherwise the next time, and says nothing of the names that an overlay knows.
_PASSING = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
)

_PATH_MAX = 4096  # bytes of a path that a system call takes, with its end

Key = tuple[int, int, bytes]  # the branches' ids, and where in the lower one the overlay begins


class Following:
    """The private overlays of one union."""

    def __init__(self, union: Union, copyups: CopyUps) -> None:
        self._union = union
        self._copyups = copyups
        self._overlays: dict[Key, PrivateOverlay | None] = {}  # None: impossible
        union.on_leave = self.leave

    def __len__(self) -> int:
        return sum(overlay is not None for overlay in self._overlays.values())

    def open(self, node: Node) -> Followed | None:
        """Open a file that is not writable where it is; None where nothing of the kind can follow a copy-up."""
        lower, upper = node.branch, self._upper(node)
        if upper is None or lower is None:
            return None
        if filesystem_of(node.identity) != filesystem_of(self._union.identities.of_inode(lower.device, 0)):
            return None  # on a mount inside the branch, or a subvolume, which the overlay does not show
        path = path_on(lower, node)
        if len(path) >= _PATH_MAX:
            return None
        start = beginning(lower, upper, path)
        if start is None:
            return None
        overlay = self._overlay(lower, upper, start)
        if overlay is None or not overlay.usable or node.identity in overlay.copied:
            return None
        path = path[len(start) + 1 :] if start else path
        fd = self._open(overlay, path, node)
        return Followed(overlay, path, node.identity, fd) if fd is not None else None

    def _upper(self, node: Node) -> OpenBranch | None:
        """Return the branch that a node would be copied to now."""
        if node.removed:
            return None
        try:
            return self._copyups.target(node)
        except OSError:
            return None

    def _overlay(self, lower: OpenBranch, upper: OpenBranch, start: bytes) -> PrivateOverlay | None:
        """Return the overlay of two branches, made now if it is the first time."""
        key = lower.id, upper.id, start
        try:
            return self._overlays[key]
        except KeyError:
            pass
        try:
            staging = self._union.stage_dir(upper, upper.root)
            overlay = PrivateOverlay(lower, upper, staging, start)
        except OSError as error:
            if error.errno not in _PASSING:
                self._overlays[key] = None
                log.info(
                    "readers of %s do not follow a copy-up to %s: %s", lower.path, upper.path, error.strerror
                )
            return None
        self._overlays[key] = overlay
        self._union.own_directories += staging == upper.root
        return overlay

    def _open(self, overlay: PrivateOverlay, path: bytes, node: Node) -> int | None:
        """Open a path and make sure that it is the node's file; the overlay may know names that were changed behind its back."""
        for known in (True, False):
            try:
                fd = overlay.open(path)
            except OSError as error:
                if error.errno in _PASSING:
                    return None
            else:
                status = os.fstat(fd)
                # The overlay keeps the inode, so as long as it is open no other file has its number.
                identity = self._union.identities.of_inode(overlay.lower_device, status.st_ino)
                if identity == node.identity and stat.S_ISREG(status.st_mode):
                    return fd
                os.close(fd)
            if known:
                overlay.forget_unused()
        return None

    def leave(self, branch: OpenBranch) -> None:
        """Give up the overlays of a branch that is no longer read or written to; who has files open keeps those."""
        for key in [key for key in self._overlays if branch.id in key[:2]]:
            overlay = self._overlays.pop(key)
            if overlay is not None:
                overlay.close()
                self._union.own_directories -= self._union.options.whiteout == "overlay"

    def forget_unused(self) -> None:
        """Let the overlays give up files that nobody has open: their branch may have lost them."""
        for overlay in self._overlays.values():
            if overlay is not None:
                overlay.forget_unused()


def path_on(branch: OpenBranch, node: Node) -> bytes:
    """Return where a branch has a node that it has a copy of: a kernel overlay's redirect may name another path."""
    parts: list[bytes] = []
    while node.parent is not None:
        place = node.places.get(branch) if node.places is not None else None
        parts += place.parts[::-1] if place is not None else (node.name,)
        if place is not None and place.absolute:
            break
        node = node.parent
    return b"/".join(reversed(parts))


def beginning(lower: OpenBranch, upper: OpenBranch, path: bytes) -> bytes | None:
    """Return from which directory of the lower branch on an overlay can have a path: mostly b"", its root.

    Overlayfs refuses a lower directory that contains the upper one, as of a union over `/` with its top in `/var/tmp`. Then it is
    the first directory on the way that does not; None for a file beside one that does.
    """
    if upper.device != lower.device or not upper.path.startswith(lower.path.rstrip("/") + "/"):
        return b""
    to_upper = os.fsencode(os.path.relpath(upper.path, lower.path)).split(b"/")
    parts = path.split(b"/")
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(parts, to_upper, strict=False))))
    return b"/".join(parts[: shared + 1]) if shared + 1 < len(parts) else None
