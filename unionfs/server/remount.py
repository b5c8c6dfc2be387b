# SPDX-License-Identifier: Apache-2.0
"""Change a union while it is mounted: its branches and its options, which AUFS' remount does.

`surgery` replaces the list of branches; here is what a mounted union needs around that: pseudo-links are real links before a
branch goes, nobody keeps a branch that is to go, the kernel forgets what it cached.
"""

from __future__ import annotations

import errno

from unionfs.branches.branch import Branch
from unionfs.filesystem import UnionFilesystem
from unionfs.operations import surgery
from unionfs.options.aufs import Options

_FIXED = ("whiteout", "acl", "xino", "passthrough", "stackable")  # for the life of a mount


def add_branch(filesystem: UnionFilesystem, index: int | None, branch: Branch) -> None:
    """Insert a branch at `index` (None: append); one that is there already is accepted silently. EDOM, EINVAL."""
    filesystem.flush_plinks()
    if surgery.add(filesystem.union, index, branch, filesystem.options):
        filesystem.invalidate_all()


def delete_branch(filesystem: UnionFilesystem, path: str) -> None:
    """Remove a branch; EBUSY while a file or directory on it is open, or if it is the last one."""
    if surgery.find_branch(filesystem.union, path) is not None:
        filesystem.flush_plinks()
    branch = surgery.find_branch(filesystem.union, path)
    if branch is not None:
        filesystem.listings.leave(branch)
    if surgery.delete(filesystem.union, path, busy(filesystem, path)):
        filesystem.invalidate_all()


def modify_branch(filesystem: UnionFilesystem, path: str, text: str) -> None:
    """Change a branch's permission and attributes (`rw`, `ro+wh` …)."""
    filesystem.flush_plinks()
    if surgery.modify(filesystem.union, path, text, filesystem.options):
        filesystem.invalidate_all()


def busy(filesystem: UnionFilesystem, path: str) -> list[tuple[int, str]]:
    """Return (pid, path in the union) of what keeps a branch busy."""
    return filesystem.busy(surgery.find_branch(filesystem.union, path))


def set_options(filesystem: UnionFilesystem, options: Options) -> None:
    """Change options; EINVAL for what is fixed for the life of a mount."""
    present = filesystem.options
    for field in _FIXED:
        if getattr(options, field) != getattr(present, field):
            raise OSError(errno.EINVAL, f"option {field} cannot be changed while mounted")
    if (options.udba == "notify") != (present.udba == "notify"):
        raise OSError(errno.EINVAL, "option udba=notify cannot be switched on or off while mounted")
    if present.plink and not options.plink:
        filesystem.flush_plinks()
    filesystem.use_options(options)
    filesystem.invalidate_all()
