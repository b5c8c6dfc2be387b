# SPDX-License-Identifier: Apache-2.0
"""Find a name in a directory of the union (docs/aufs.md §2.3).

Pure reading: a directory comes in as the (branch, descriptor) pairs that contribute to it, top first; out comes where
the name is. Knows nothing of nodes.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.redirects import Place, Stack, Trail, is_redirected
from unionfs.branches.whiteout import Layers
from unionfs.kernel.syscalls import PATH_DIRECTORY
from unionfs.lookup.known_names import Contents

_S_IFMT = 0o170000


class Found(NamedTuple):
    """Where a visible name is: one entry for a file, one for each contributing branch (top first) for a directory.

    `places` tells of branches below a redirect under which path they have the directory.
    """

    entries: list[tuple[OpenBranch, os.stat_result]]
    places: dict[OpenBranch, Place] | None = None

    @property
    def branch(self) -> OpenBranch:
        """Return the topmost branch that shows the name."""
        return self.entries[0][0]

    @property
    def status(self) -> os.stat_result:
        """Return the topmost entry's stat."""
        return self.entries[0][1]

    @property
    def is_directory(self) -> bool:
        """Tell whether the name is a directory."""
        return stat.S_ISDIR(self.entries[0][1].st_mode)


def check_name(name: bytes, limit: int = whiteout.MAX_NAME, *, shwh: bool = False) -> None:
    """Refuse names that no union can hold: ENAMETOOLONG over `limit` bytes, EPERM for the reserved prefix `.wh.`."""
    if len(name) > limit:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(name))
    if name.startswith(b".wh.") and not shwh:
        raise OSError(errno.EPERM, "names with the prefix .wh. are reserved", os.fsdecode(name))


def find(
    layers: Layers,
    name: bytes,
    *,
    last_mark: bool = True,
    contents: Sequence[Contents | None] = (),
    stack: Stack,
) -> Found | None:
    """Return where `name` is visible in the directory `layers`, or None. `contents` is what is known of each layer's names.

    A whiteout hides what is below it: an entry beside its own shows (OCI's rule; it is also what lets an operation make or
    remove the two one after the other). EIO if a whiteout is not a regular file. Without `last_mark` the last layer's whiteouts
    are not looked for: there is nothing below that they could hide. EPERM or EINVAL for a directory with a mark of overlayfs
    that is not followed or makes no sense.
    """
    entries: list[tuple[OpenBranch, os.stat_result]] = []
    kind = 0
    key = hash(name)
    unmarked = -1 if last_mark else len(layers) - 1
    above = -1  # the directory that has the entry found last
    for position, (branch, fd) in enumerate(layers):
        known = contents[position] if contents else None
        status: os.stat_result | None = None
        # known.may_hold(name), without a call for each of maybe a hundred branches
        if known is None or (bits := known.bits) is None or bits[(key & known.mask) >> 3] >> (key & 7) & 1:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                pass
        if branch.overlay and status is not None and whiteout.is_overlay_whiteout(fd, name, status):
            break
        if status is not None:
            found = status.st_mode & _S_IFMT
            if not entries:
                entries.append((branch, status))
                above, kind = fd, found
                if kind != stat.S_IFDIR:
                    return Found(entries)
            elif found == kind:
                # Opaque marks matter only when a second directory would join; so one stat a level is saved in the usual case.
                if _has_opaque_file(entries[-1][0], above, name):
                    break
                entries.append((branch, status))
                above = fd
            elif branch.overlay:
                break  # overlayfs stops at an entry of another type; AUFS goes on
        if (
            branch.whable
            and position != unmarked
            and (known is None or (known.marked and known.may_hide(name)))
            and whiteout.has_mark(fd, name)
        ):
            break
        if branch.overlay and status is not None and branch is not stack.roots[-1][0]:
            marks = whiteout.overlay_marks(fd, name)
            if marks and whiteout.is_opaque_marked(marks, fd, name):
                break
            if marks and is_redirected(marks, name, branch) and not _has_opaque_file(branch, fd, name):
                return _redirected(stack, layers, name, entries, marks, fd)
    return Found(entries) if entries else None


def _has_opaque_file(branch: OpenBranch, fd: int, name: bytes) -> bool:
    return branch.whable and whiteout.reserved(fd, name + b"/" + whiteout.OPAQUE) is not None


def _redirected(
    stack: Stack,
    layers: Layers,
    name: bytes,
    entries: list[tuple[OpenBranch, os.stat_result]],
    marks: tuple[str, ...],
    fd: int,
) -> Found:
    """Complete the copies of a directory of which the last one found, in `fd`, names another path for lower layers."""
    places: dict[OpenBranch, Place] = {}
    trail = Trail(stack, layers, entries[-1][0], name, directory=True)
    entry = os.open(name, PATH_DIRECTORY, dir_fd=fd)
    try:
        trail.turn(marks, whiteout.proc_path(entry))
    finally:
        os.close(entry)
    for branch, opened, place in trail.found():
        try:
            entries.append((branch, os.fstat(opened)))
        finally:
            os.close(opened)
        places[branch] = place
    return Found(entries, places)


def open_directory(parent: int, name: bytes) -> int:
    """Open the directory `name` (one component, never through a symbolic link) as an O_PATH descriptor."""
    return os.open(name, PATH_DIRECTORY, dir_fd=parent)
