# SPDX-License-Identifier: Apache-2.0
"""Temporary names: what is being made lies under `.wh..wh.NAME.XXXX` until one rename or link publishes it.

Stages lie in the branch's `.wh..wh.orph` directory (in its root where overlayfs' form is written), so users' directories
never hold a half-made entry, their times do not move, and the sweep at mount reads one directory and not the branch.
What takes the place of an overlayfs' whiteout lies beside it, though: ACLs, set-group-ID and quotas come from the directory.
Owns naming and the sweep of what a killed server left; `leftovers` removes single ones. Knows nothing of what is staged.
"""

import contextlib
import itertools
import logging
import os
import re

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.leftovers import remove_tree
from unionfs.branches.metadata import restore_times

log = logging.getLogger(__name__)

_counter = itertools.count(int.from_bytes(os.urandom(2), "little"))
# NAME.XXXX after the prefix; the bookkeeping names and `.opq` do not look like this.
_STAGE = re.compile(rb"\A\.wh\.\.wh\.(?!\.opq\Z).+\.[0-9a-f]{4}\Z", re.DOTALL)


def stage_name(name: bytes) -> bytes:
    """Return the next temporary name for `name`, AUFS' way; shortened to fit 255 bytes."""
    return b"%b%b.%04x" % (whiteout.META_PREFIX, name[: whiteout.MAX_NAME], next(_counter) & 0xFFFF)


def is_stage(name: bytes) -> bool:
    """Tell whether a name of a branch is a leftover stage."""
    return _STAGE.match(name) is not None


def sweep_directory(fd: int) -> int:
    """Remove leftover stages from one directory; return how many."""
    count = 0
    with os.scandir(fd) as entries:
        names = [os.fsencode(entry.name) for entry in entries]
    for name in names:
        if is_stage(name):
            remove_tree(fd, name)
            count += 1
    return count


def sweep_left(fd: int, name: bytes, since: int) -> bool:
    """Remove a stage that lies beside users' entries, in the listable directory `fd`; tell whether that was done.

    Entries are staged there where overlayfs' form takes a name's whiteout away: by operations that end before anything is
    listed. `since`: when (time_ns) the branch was locked for us; what is younger may be of somebody who shares the directory,
    whatever the lock says. For requests that only come across it: it raises nothing.
    """
    try:
        if not is_stage(name) or os.stat(name, dir_fd=fd, follow_symlinks=False).st_ctime_ns >= since:
            return False
        before = os.fstat(fd)
        remove_tree(fd, name)
        restore_times(fd, before)
    except OSError as error:
        log.warning("%s, left by a killed server, stays: %s", os.fsdecode(name), error.strerror)
        return False
    return True


def sweep_root(branch: OpenBranch) -> int:
    """Remove leftover stages and orphans of a writable branch; return how many."""
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=branch.root)
    try:
        count = sweep_directory(root)
        with contextlib.suppress(FileNotFoundError):
            orphans = os.open(
                whiteout.ORPHAN_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root
            )
            try:
                for entry in os.listdir(orphans):
                    remove_tree(orphans, os.fsencode(entry))
                    count += 1
            finally:
                os.close(orphans)
        return count
    finally:
        os.close(root)
