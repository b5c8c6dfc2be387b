# SPDX-License-Identifier: Apache-2.0
"""Hard links: link(2) in the union, and pseudo-links, which keep names on lower branches one file with its copy.

A pseudo-link is `<union ino>.<branch ino>` in `.wh..wh.plnk` of the copy's branch, a hard link of the copy. As union numbers
are a function of the lower inode, pseudo-links survive a crash: the next mount finds them again (AUFS loses them).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.nodes import Node, Plink
from unionfs.union import Union

log = logging.getLogger(__name__)


def add_plink(union: Union, node: Node, branch: OpenBranch, fd: int, origin: os.stat_result) -> None:
    """Make the copy behind `fd` reachable as a pseudo-link for the other names of the lower file `origin`."""
    name = b"%d.%d" % (node.ino, os.fstat(fd).st_ino)
    directory = union.plink_dir(branch)
    with contextlib.suppress(FileExistsError):
        os.link(whiteout.proc_path(fd), name, dst_dir_fd=directory, follow_symlinks=True)
    nlink = max(1, origin.st_nlink - node.hidden_links)
    union.plinks[node.ino] = Plink(branch, name, nlink, (origin.st_dev, origin.st_ino))


def recover_plinks(union: Union) -> None:
    """Take up the pseudo-links that a killed server left on writable branches."""
    for branch in union.branches:
        if not branch.writable:
            continue
        try:
            directory = os.open(
                whiteout.PLINK_DIR,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=branch.root,
            )
        except OSError:
            continue
        try:
            for entry in os.listdir(directory):
                number, _, ino = entry.partition(".")
                if number.isdigit() and ino.isdigit():
                    status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
                    union.plinks[int(number)] = Plink(
                        branch, os.fsencode(entry), max(1, status.st_nlink - 1), (0, 0)
                    )
        finally:
            os.close(directory)


def drop_name(union: Union, node: Node) -> None:
    """Count one name less of a pseudo-linked file; the last one takes the pseudo-link with it."""
    plink = union.plinks.get(node.ino)
    if plink is None:
        return
    plink.nlink -= 1
    if plink.nlink <= 0:
        drop_entry(union, node.ino)


def drop_entry(union: Union, ino: int) -> None:
    """Remove a pseudo-link from disk and memory."""
    plink = union.plinks.pop(ino)
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


def is_entry_of(node: Node, dirfd: int, name: bytes) -> bool:
    """Tell whether `name` in a branch directory physically is the node's copy."""
    status = whiteout.exists(dirfd, name)
    return status is not None and (status.st_dev, status.st_ino) == node.identity


def link_file(union: Union, node: Node, source_fd: int, source: bytes, parent_fd: int, name: bytes) -> None:
    """Make one more physical name of a file on its branch; EMLINK and ENOSPC come from the branch."""
    if node.removed:
        os.link(whiteout.proc_path(union.held_fd(node)), name, dst_dir_fd=parent_fd, follow_symlinks=True)
    else:
        os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)


def not_permitted() -> OSError:
    """Return EPERM, what link(2) says of directories."""
    return OSError(errno.EPERM, os.strerror(errno.EPERM))
