# SPDX-License-Identifier: Apache-2.0
"""Pseudo-links: they keep names on lower branches one file with its copy.

A pseudo-link is `<union ino>.<branch ino>` in `.wh..wh.plnk` of the copy's branch, a hard link of the copy. As union numbers
are a function of the lower inode, pseudo-links survive a crash: the next mount finds them again (AUFS loses them).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.nodes import Node
from unionfs.plink_table import Plink
from unionfs.union import Union

log = logging.getLogger(__name__)

# So long (seconds) a mount waits for another server that is flushing the pseudo-links of a branch.
_PATIENCE = 10.0


@contextlib.contextmanager
def plinked(union: Union, node: Node, branch: OpenBranch, fd: int, origin: os.stat_result) -> Iterator[None]:
    """Around the publication of the copy behind `fd`: let the other names of the lower file `origin` lead to it."""
    copy = os.fstat(fd)
    name = b"%d.%d" % (node.ino, copy.st_ino)
    directory = union.plink_dir(branch)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)  # of a branch that was copied with its bookkeeping
    os.link(whiteout.proc_path(fd), name, dst_dir_fd=directory, follow_symlinks=True)
    try:
        yield
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise
    old = union.plinks.get(node.ino)
    nlink = max(1, origin.st_nlink - node.traits.hidden_links) if old is None else old.nlink
    union.plinks.add(
        Plink(node.ino, branch, name, nlink, union.identity_of(copy), {union.identity_of(origin)})
    )
    if old is not None:
        _remove(union, old)


def recover_plinks(union: Union) -> None:
    """Take up the pseudo-links that a killed server left on writable branches.

    A server flushes when umount(2) has returned, so a mount that follows at once waits for it.
    """
    for branch in union.branches:
        directory = _open_plink_dir(branch) if branch.writable else None
        if directory is None:
            continue
        try:
            _wait_for_flush(directory)
            for entry in os.listdir(directory):
                number, _, ino = entry.partition(".")
                if number.isdigit() and ino.isdigit():
                    status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
                    nlink, identity = max(1, status.st_nlink - 1), union.identity_of(status)
                    if int(number) not in union.plinks:
                        union.plinks.add(Plink(int(number), branch, os.fsencode(entry), nlink, identity))
        finally:
            os.close(directory)


@contextlib.contextmanager
def flushing(union: Union) -> Iterator[None]:
    """Around a flush: let mounts of the same branches wait."""
    held = []
    for branch in union.branches:
        directory = _open_plink_dir(branch) if branch.writable else None
        if directory is not None:
            held.append(directory)
            # Another mount may be reading it, and some filesystems have no locks.
            with contextlib.suppress(OSError):
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        for directory in held:
            os.close(directory)


def _open_plink_dir(branch: OpenBranch) -> int | None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(whiteout.PLINK_DIR, flags, dir_fd=branch.root)
    except OSError:
        return None


def _wait_for_flush(directory: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return  # a filesystem without locks
        else:
            return


def drop_name(union: Union, node: Node) -> None:
    """After a name of a pseudo-linked file was removed: count it; the last one takes the pseudo-link with it.

    Names that were removed once, were uncovered directly and are removed again are counted twice: so those that are real
    links of the copy are counted on its branch.
    """
    plink = union.plinks[node.ino]
    copy = whiteout.exists(union.plink_dir(plink.branch), plink.name)
    plink.nlink = max(plink.nlink - 1, copy.st_nlink - 1 if copy is not None else 0)
    if plink.nlink <= 0:
        if (
            node.parent is not None
        ):  # lower names that nobody counted: without the pseudo-link they are another file
            with contextlib.suppress(OSError):
                union.bury(node)
            union.drop_names(node)
        drop_entry(union, node.ino)


def drop_entry(union: Union, ino: int) -> None:
    """Remove a pseudo-link from disk and memory."""
    _remove(union, union.plinks.remove(ino))


def _remove(union: Union, plink: Plink) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(plink.name, dir_fd=union.plink_dir(plink.branch))


def materialize(union: Union, node: Node, parent_fd: int, name: bytes) -> None:
    """Make `name` a real hard link of a pseudo-linked file's copy; one that is there already is fine."""
    plink = union.plinks[node.ino]
    with contextlib.suppress(FileExistsError):
        os.link(
            plink.name,
            name,
            src_dir_fd=union.plink_dir(plink.branch),
            dst_dir_fd=parent_fd,
            follow_symlinks=False,
        )


def is_entry_of(union: Union, node: Node, dirfd: int, name: bytes) -> bool:
    """Tell whether `name` in a branch directory physically is the node's copy."""
    status = whiteout.exists(dirfd, name)
    return status is not None and union.identity_of(status) == node.identity
