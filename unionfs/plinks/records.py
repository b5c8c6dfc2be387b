# SPDX-License-Identifier: Apache-2.0
"""The names in `.wh..wh.plnk`: pseudo-links, and notes of changes that are under way (docs/formats.md has the forms).

Reads and writes names only, so that a mount, `check` and people come to the same answer. Knows nothing of nodes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass

from unionfs.branches import whiteout
from unionfs.branches.identity import INO_MASK

_RECORD = re.compile(rb"\A([0-9]{1,20})\.([0-9]{1,20})(?:\.([0-9]{1,10})(?:\.([0-9]{1,20}))?)?\Z")
_NOTE = re.compile(rb"\A([0-9]+\.[0-9]+\.[0-9]+(?:\.[0-9]+)?)\.(?:gone|made)\Z")
GONE, MADE = b".gone", b".made"
# A full disk or a path that no symbolic link holds: without its note a kill leaves the count one too high, which is safe.
_WITHOUT_NOTE = (errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Record:
    """What the name of a pseudo-link says: the union's number, the copy's inode, how many names, and when the file was made that
    was copied (nanoseconds since 1970); None of what older versions or filesystems do not tell.
    """

    ino: int
    copy: int
    count: int | None
    birth: int | None

    @property
    def name(self) -> bytes:
        """Return the name in the directory of pseudo-links."""
        return record_name(self.ino, self.copy, self.count, self.birth)


def record_name(ino: int, copy: int, count: int | None, birth: int | None) -> bytes:
    """Return the name of a pseudo-link; without a count it has no birth."""
    numbers = [ino, copy, *([] if count is None else [count] if birth is None else [count, birth])]
    return b".".join(b"%d" % number for number in numbers)


def parse_record(name: bytes) -> Record | None:
    """Return what a name says, None if it is not one of ours: AUFS' own have numbers that no file of a union has."""
    match = _RECORD.match(name)
    if match is None or int(match[1]) <= INO_MASK:
        return None
    ino, copy, count, birth = (int(text) if text is not None else None for text in match.groups())
    assert ino is not None and copy is not None
    return Record(ino, copy, count, birth)


def noted_record(name: bytes) -> bytes | None:
    """Return the pseudo-link that a note is about, None if the name is not one of a note."""
    match = _NOTE.match(name)
    return match[1] if match is not None else None


def write_note(directory: int, note: bytes, path: bytes, present: os.stat_result | None) -> None:
    """Note that `path` (from the branch's root), where `present` is now, is about to be taken or given.

    OSError, but not if the note has no room.
    """
    text = b"%d/%b" % (present.st_ino if present is not None else 0, path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(note, dir_fd=directory)
    try:
        os.symlink(text, note, dir_fd=directory)
    except OSError as error:
        if error.errno not in _WITHOUT_NOTE:
            raise


def is_one_less(directory: int, root: int, note: bytes) -> bool:
    """Tell whether the file has one name less than the pseudo-link that a note is about says.

    That is so if the name that was to go went, or the one that was to come did not. `directory` has the note, `root` is the
    root of its branch.
    """
    try:
        before, _, path = os.readlink(note, dir_fd=directory).partition(b"/")
        present = whiteout.exists(root, path)
        ino = present.st_ino if present is not None else 0
        if note.endswith(MADE):
            return b"%d" % ino != note.split(b".")[1]
        if ino or before != b"0":
            return b"%d" % ino != before
        head, _, name = path.rpartition(b"/")
        return whiteout.exists(root, (head + b"/" if head else b"") + whiteout.PREFIX + name) is not None
    except OSError:
        return False
