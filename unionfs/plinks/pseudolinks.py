# SPDX-License-Identifier: Apache-2.0
"""Pseudo-links: they keep names on lower branches one file with its copy.

A pseudo-link is `<union ino>.<branch ino>.<count of names>.<birth>` in `.wh..wh.plnk` of the copy's branch, a hard link of the
copy. As union numbers are a function of the lower inode, and the count is kept, pseudo-links survive a crash: the next mount
finds them again (AUFS loses them), and the birth time tells it which lower file is no name of the copy but has the inode number.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.identity import number_of
from unionfs.branches.metadata import try_to_restore_times
from unionfs.plinks.records import GONE, MADE, parse_record, record_name, write_note
from unionfs.plinks.recovery import take_up
from unionfs.tree.nodes import Node
from unionfs.tree.plink_table import Plink, birth_of
from unionfs.tree.union import Union

log = logging.getLogger(__name__)

Place = tuple[Node, bytes]  # parent and name


class Origin(NamedTuple):
    """A file that is being copied up: a descriptor, which may be O_PATH, and its stat."""

    fd: int
    status: os.stat_result


@contextlib.contextmanager
def plinked(
    union: Union, node: Node, branch: OpenBranch, fd: int, origin: Origin, place: Place | None
) -> Iterator[None]:
    """Around the publication of the copy behind `fd`: let the other names of the lower file `origin` lead to it.

    With `place` the copy is published under a new name.
    """
    copy = os.fstat(fd)
    old = union.plinks.get(node.ino)
    nlink = old.nlink if old is not None else max(1, origin.status.st_nlink - node.traits.hidden_links)
    nlink += place is not None
    counted = old is None or old.counted
    identity = union.identity_of(origin.status)
    birth = old.birth if old is not None else birth_of(origin.fd) if number_of(identity) == node.ino else None
    name = record_name(node.ino, copy.st_ino, nlink if counted else None, birth)
    plink = Plink(node.ino, branch, name, nlink, union.identity_of(copy), {identity})
    plink.recovered, plink.counted, plink.birth = old is not None and old.recovered, counted, birth
    if place is not None:
        _note(union, plink, branch, MADE, place, None)
    try:
        directory = union.plink_dir(branch)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)  # of a branch that was copied with its bookkeeping
        os.link(whiteout.proc_path(fd), name, dst_dir_fd=directory, follow_symlinks=True)
        try:
            yield
        except BaseException:
            _clear(union, plink)
            raise
    finally:
        _end_note(union, plink)
    union.plinks.add(plink)
    union.plinks.hold(identity, origin.fd)
    if old is not None:
        _clear(union, old)
        _end_note(union, old)


def recover_plinks(union: Union) -> None:
    """Take up the pseudo-links that a killed server left on writable branches; those of another live union stay its own.

    A server flushes when umount(2) has returned: the locks of its branches are kept until that is done.
    """
    with contextlib.ExitStack() as stack:
        places = []
        for branch in union.branches:
            alone = branch.writable and union.locks.is_alone(branch)
            directory = _open_plink_dir(branch) if alone else None
            if directory is not None:
                stack.callback(os.close, directory)
                places.append((branch, directory))
        take_up(union, places)


def _open_plink_dir(branch: OpenBranch) -> int | None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(whiteout.PLINK_DIR, flags, dir_fd=branch.root)
    except OSError:
        return None


# -- the count of names, on disk ----------------------------------------------------------------------------------


@contextlib.contextmanager
def losing(
    union: Union, node: Node | None, parent: Node, name: bytes, branch: OpenBranch, fd: int
) -> Iterator[None]:
    """Around the removal of a name on `branch`, whose copy of `parent` is `fd`, and `drop_name`: keep the count over a kill.

    Nothing to do for files without a pseudo-link. What is on disk is never less than what is true.
    """
    plink = union.plinks.get(node.ino) if node is not None and union.plinks else None
    if plink is None or not plink.counted:
        yield
        return
    _write_count(union, plink)
    _note(union, plink, branch, GONE, (parent, name), whiteout.exists(fd, name))
    try:
        yield
    finally:
        _end_note(union, plink)


@contextlib.contextmanager
def gaining(union: Union, node: Node, parent: Node, name: bytes) -> Iterator[None]:
    """Around link(2) of a copy to a new name on its branch: count the name, so that a kill leaves no count that is too low."""
    plink = union.plinks.get(node.ino) if union.plinks else None
    if plink is None:
        yield
        return
    _write_count(union, plink)
    plink.nlink += 1
    try:
        _note(union, plink, plink.branch, MADE, (parent, name), None)
        _write_count(union, plink, clear=False)
        yield
    except BaseException:
        plink.nlink -= 1
        with contextlib.suppress(OSError):
            _write_count(union, plink, clear=False)
        raise
    finally:
        _end_note(union, plink)


def _note(
    union: Union, plink: Plink, branch: OpenBranch, kind: bytes, place: Place, present: os.stat_result | None
) -> None:
    """Note on `branch`, which a name is about to be taken from or given to, what the count depends on from now on."""
    if not plink.counted:
        return
    note = _current_name(plink) + kind
    parent, name = place
    path = b"/".join([*parent.path().split(b"/")[1:], name]) if parent.parent is not None else name
    write_note(union.plink_dir(branch), note, path, present)
    plink.note = branch, note


def _current_name(plink: Plink) -> bytes:
    record = parse_record(plink.name)
    return plink.name if record is None else record_name(record.ino, record.copy, plink.nlink, record.birth)


def _write_count(union: Union, plink: Plink, *, clear: bool = True) -> None:
    """Bring the count on disk up to date, then remove the note that an earlier change could not."""
    name = _current_name(plink) if plink.counted else plink.name
    if name != plink.name:
        directory = union.plink_dir(plink.branch)
        os.rename(plink.name, name, src_dir_fd=directory, dst_dir_fd=directory)
        plink.name = name
    if clear and plink.note is not None:
        _unlink(union, *plink.note)
        plink.note = None


def _end_note(union: Union, plink: Plink) -> None:
    """Remove the note of a change that is done, if the count on disk is right without it."""
    known = union.plinks.get(plink.ino) is plink
    if plink.note is None or (known and plink.name != _current_name(plink)):
        return
    try:
        _unlink(union, *plink.note)
        plink.note = None
    except OSError as error:
        # A note on disk has to go before the count can be what it is now once more: `_write_count` tries again.
        log.warning("cannot remove a note about a pseudo-link: %s", error)


def drop_name(union: Union, node: Node) -> None:
    """After a name of a pseudo-linked file was removed: count it; the last one takes the pseudo-link with it.

    Names that were removed once, were uncovered directly and are removed again are counted twice: so those that are real
    links of the copy are counted on its branch. The name is gone, so that what fails here is left to the next change or flush.
    """
    plink = union.plinks[node.ino]
    copy = whiteout.exists(union.plink_dir(plink.branch), plink.name)
    plink.nlink = max(plink.nlink - 1, copy.st_nlink - 1 if copy is not None else 0)
    if not plink.counted:
        plink.nlink = max(plink.nlink, 1)
    try:
        if plink.nlink > 0:
            _write_count(union, plink, clear=False)
        else:
            _drop_last(union, node)
    except OSError as error:
        log.warning("cannot change a pseudo-link: %s", error)


def _drop_last(union: Union, node: Node) -> None:
    if (
        node.parent is not None
    ):  # lower names that nobody counted: without the pseudo-link they are another file
        with contextlib.suppress(OSError):
            union.bury(node)
        union.drop_names(node)
    drop_entry(union, node.ino)


def drop_entry(union: Union, ino: int) -> None:
    """Remove a pseudo-link from disk, then from memory; OSError with both as they were."""
    plink = union.plinks[ino]
    _unlink(union, plink.branch, plink.name)
    if plink.note is not None:  # of a change after which it could not be removed
        _unlink(union, *plink.note)
        plink.note = None
    union.plinks.remove(ino)


def drop_leftovers(union: Union) -> None:
    """Remove the entries that could not be removed when they should have been; OSError."""
    leftovers = union.plinks.leftovers
    while leftovers:
        _unlink(union, *leftovers[-1])
        leftovers.pop()


def is_elsewhere(union: Union, plink: Plink) -> bool:
    """Tell whether a pseudo-link has names that this union does not see, so that it has to stay.

    One found after a crash may have them on branches that this union lacks, any on a branch that is lost.
    """
    in_doubt = bool(union.directories.lost)
    if not in_doubt and (not (plink.recovered and plink.counted) or plink.origins or plink.seen):
        return False
    copy = whiteout.exists(union.plink_dir(plink.branch), plink.name)
    return copy is not None and (not plink.counted or copy.st_nlink - 1 < plink.nlink)


def _clear(union: Union, plink: Plink) -> None:
    """Remove the entry of a pseudo-link that is none any more, now or at the next flush."""
    try:
        _unlink(union, plink.branch, plink.name)
    except OSError as error:
        log.warning("cannot remove a pseudo-link: %s", error)
        union.plinks.leftovers.append((plink.branch, plink.name))


def _unlink(union: Union, branch: OpenBranch, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=union.plink_dir(branch))


def materialize(union: Union, plink: Plink, parent: Node, parent_fd: int, name: bytes) -> None:
    """Make `name` a real hard link of a pseudo-linked file's copy, without moving times; one that is there already is fine."""
    # First: after a kill the name is to have the number of the others.
    union.numbers.mark(plink, parent, parent_fd)
    directory, times = union.plink_dir(plink.branch), os.fstat(parent_fd)
    try:
        os.link(plink.name, name, src_dir_fd=directory, dst_dir_fd=parent_fd, follow_symlinks=False)
    except FileExistsError:
        return
    try_to_restore_times(parent_fd, times)
    union.times_moved(parent)


def is_entry_of(union: Union, node: Node, dirfd: int, name: bytes) -> bool:
    """Tell whether `name` in a branch directory physically is the node's copy."""
    status = whiteout.exists(dirfd, name)
    return status is not None and union.identity_of(status) == node.identity
