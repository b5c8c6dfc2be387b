# SPDX-License-Identifier: Apache-2.0
"""Take up the pseudo-links that a killed server left: which copies they are of, and how many names these have.

What the branches hold decides, never what lies on other branches of this mount: those may be others than before.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.plinks.records import Record, is_one_less, noted_record, parse_record, record_name
from unionfs.tree.plink_table import Plink
from unionfs.tree.union import Union

# A branch with its directory of pseudo-links.
Places = Sequence[tuple[OpenBranch, int]]


def take_up(union: Union, places: Places) -> None:
    """Enter the pseudo-links of branches, given top first, bring their counts up to date, remove the notes; OSError."""
    union.plinks.clear()
    listed = [(branch, directory, _names(directory)) for branch, directory in places]
    less: set[bytes] = set()
    notes = []
    for branch, directory, names in listed:
        for name in names:
            record = noted_record(name)
            if record is not None:
                notes.append((directory, name))
                if is_one_less(directory, branch.root, name):
                    less.add(record)
    for branch, directory, names in listed:
        for record_, status in _records(directory, names):
            _take_up(union, branch, directory, record_, status, one_less=record_.name in less)
    for directory, name in notes:
        _unlink(directory, name)


def _names(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]


def _records(directory: int, names: Sequence[bytes]) -> list[tuple[Record, os.stat_result]]:
    """Return the pseudo-links; of two of one number the one comes first that was published, or made later."""
    found = []
    for name in names:
        record = parse_record(name)
        status = whiteout.exists(directory, name) if record is not None else None
        if record is not None and status is not None and not stat.S_ISDIR(status.st_mode):
            found.append((record, status))
    return sorted(found, key=lambda entry: (entry[1].st_nlink, entry[1].st_ctime_ns), reverse=True)


def _take_up(
    union: Union,
    branch: OpenBranch,
    directory: int,
    record: Record,
    status: os.stat_result,
    *,
    one_less: bool,
) -> None:
    links = status.st_nlink - 1  # names that physically are the copy
    known = union.plinks.get(record.ino)
    if known is not None:
        if (
            known.branch is not branch
        ):  # a copy of this copy, on a higher branch: killed before this one's entry went
            _add_origin(union, known, directory, record.name)
            _unlink(directory, record.name)
        elif links == 0:  # of a copy that was never published
            _unlink(directory, record.name)
        return
    counted = record.count is not None
    nlink = max(record.count - one_less if record.count is not None else 1, links)
    if nlink == 0:
        _unlink(directory, record.name)
        return
    name = record_name(record.ino, record.copy, nlink, record.birth) if counted else record.name
    if name != record.name:
        os.rename(record.name, name, src_dir_fd=directory, dst_dir_fd=directory)
    plink = Plink(record.ino, branch, name, nlink, union.identity_of(status))
    plink.recovered, plink.counted, plink.birth = True, counted, record.birth
    union.plinks.add(plink)


def _add_origin(union: Union, plink: Plink, directory: int, name: bytes) -> None:
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        union.plinks.add_origin(plink, union.identity_of(os.fstat(fd)), fd)
    finally:
        os.close(fd)


def _unlink(directory: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
