# SPDX-License-Identifier: Apache-2.0
"""Empty a branch whose content was folded into another one: all of it goes, or nothing.

What the union shows is the same before and after, but hard links lie on one branch or on the other: half of the names here and
half there would be two files. So the entries of the root are moved aside one by one, and one rename says that all are gone; until
then an error (or, if the server is killed, the next mount) moves them back. Owns that directory's form (docs/formats.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat

from unionfs.branches import leftovers, stage, whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.metadata import restore_times
from unionfs.kernel.syscalls import LIST_DIRECTORY

log = logging.getLogger(__name__)

# In `.wh..wh.orph`, with the times of the branch's root, which moving entries changes; in it the entries.
ASIDE = b".wh..wh.commit"
_ENTRIES = b"entries"


def empty(branch: OpenBranch, orphans: int) -> bytes:
    """Move everything but bookkeeping out of the root of `branch`; return the name of what is now to be deleted in `orphans`.

    `orphans` is the branch's `.wh..wh.orph`. On an error everything is where it was, with the same times.
    """
    root = os.open(".", LIST_DIRECTORY, dir_fd=branch.root)
    try:
        _restore(root, orphans)
        status = os.fstat(root)
        _make_aside(orphans, status)
        try:
            entries = os.open(ASIDE + b"/" + _ENTRIES, LIST_DIRECTORY, dir_fd=orphans)
            try:
                for name in _content(root):
                    os.rename(name, name, src_dir_fd=root, dst_dir_fd=entries)
            finally:
                os.close(entries)
            restore_times(root, status)
            gone = stage.stage_name(b"commit")
            os.rename(ASIDE, gone, src_dir_fd=orphans, dst_dir_fd=orphans)
        except BaseException:
            _put_back(branch, root, orphans)
            raise
        return gone
    finally:
        os.close(root)


def _content(root: int) -> list[bytes]:
    names = [os.fsencode(name) for name in os.listdir(root)]
    return [name for name in names if not name.startswith(whiteout.META_PREFIX)]


def _make_aside(orphans: int, status: os.stat_result) -> None:
    """Make the directory under another name first: it counts only when it has the root's times."""
    staged = stage.stage_name(b"commit")
    os.mkdir(staged, 0o700, dir_fd=orphans)
    try:
        os.mkdir(staged + b"/" + _ENTRIES, 0o700, dir_fd=orphans)
        os.utime(staged, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=orphans)
        os.rename(staged, ASIDE, src_dir_fd=orphans, dst_dir_fd=orphans)
    except BaseException:
        leftovers.discard(orphans, staged)
        raise


def _put_back(branch: OpenBranch, root: int, orphans: int) -> None:
    try:
        _restore(root, orphans)
    except OSError as error:  # a second error must not hide the first; the union shows the same all the same
        log.error("%s: the next mount undoes a commit: %s", branch.path, error.strerror)


def restore(path: int) -> int:
    """Undo an unfinished emptying of the branch behind `path` (O_PATH will do); return how many entries came back.

    A name that the branch has again, as entry or whiteout, stays: the union has changed it since, and what was set aside lies
    folded in the other branch.
    """
    root = os.open(".", LIST_DIRECTORY, dir_fd=path)
    try:
        try:
            orphans = os.open(whiteout.ORPHAN_DIR, LIST_DIRECTORY, dir_fd=root)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        try:
            return _restore(root, orphans)
        finally:
            os.close(orphans)
    finally:
        os.close(root)


def _restore(root: int, orphans: int) -> int:
    aside = whiteout.exists(orphans, ASIDE)
    if aside is None or not stat.S_ISDIR(aside.st_mode):
        return 0
    count = 0
    with contextlib.suppress(FileNotFoundError):  # it was all put back already
        entries = os.open(ASIDE + b"/" + _ENTRIES, LIST_DIRECTORY, dir_fd=orphans)
        try:
            names = [os.fsencode(name) for name in os.listdir(entries)]
            back = [name for name in names if not _is_superseded(root, name)]
            for name in back:
                os.rename(name, name, src_dir_fd=entries, dst_dir_fd=root)
            count = len(back)
            if len(back) == len(names):
                restore_times(root, aside)
        finally:
            os.close(entries)
    leftovers.remove_tree(orphans, ASIDE)
    return count


def _is_superseded(root: int, name: bytes) -> bool:
    plain = name.removeprefix(whiteout.PREFIX)
    return any(whiteout.exists(root, one) is not None for one in (plain, whiteout.PREFIX + plain))
