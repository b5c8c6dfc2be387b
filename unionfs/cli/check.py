# SPDX-License-Identifier: Apache-2.0
"""Find, in a branch that no union uses, what a crash may leave, and repair it: AUFS' auchk.

Looks at names and types only. A repair never removes what may be somebody's data, and changes nothing of what a union shows:
of an entry and its whiteout the whiteout goes, and a directory with content under a reserved name is renamed.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from unionfs.branches import emptying
from unionfs.branches.stage import is_stage
from unionfs.branches.whiteout import BASE, META_PREFIX, OPAQUE, ORPHAN_DIR, PLINK_DIR, PREFIX
from unionfs.errors import UserError
from unionfs.kernel.paths import absolute
from unionfs.kernel.syscalls import LIST_DIRECTORY
from unionfs.live import registry
from unionfs.plinks.records import noted_record, parse_record

_BOOKKEEPING_DIRS = (PLINK_DIR, ORPHAN_DIR)
_KEPT = "kept, as names on lower branches may be this file: mounting the union again recovers it"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `kind` for programs, `text` for people, `remedy` what a repair does."""

    kind: str
    path: str
    text: str
    remedy: str
    kept: bool = False  # a repair leaves it alone


def check_branch(path: str) -> list[Problem]:
    """Return what is wrong in the branch; UserError if it is no directory or cannot be read."""
    root = os.fsencode(absolute(path))
    if not os.path.isdir(root):
        raise UserError(f"branch {path} is not a directory")
    return list(_walk(root))


def _walk(root: bytes) -> Iterator[Problem]:
    pending = [root]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as scan:
            entries = {entry.name: entry for entry in scan}
        for name in sorted(entries):
            path = os.path.join(directory, name)
            if name.startswith(PREFIX):
                is_root = directory == root
                yield from _reserved(
                    path, name, entries[name].stat(follow_symlinks=False), set(entries), is_root
                )
            elif entries[name].is_dir(follow_symlinks=False):
                pending.append(path)


def _reserved(
    path: bytes, name: bytes, status: os.stat_result, names: set[bytes], is_root: bool
) -> Iterator[Problem]:
    """Judge one name that starts with `.wh.`."""
    if is_root and name in _BOOKKEEPING_DIRS and stat.S_ISDIR(status.st_mode):
        yield from _leftovers(path, name)
    elif name.startswith(META_PREFIX):
        yield from _meta(path, name, status, is_root)
    elif not stat.S_ISREG(status.st_mode):
        yield _problem("type", path, "a whiteout that is no regular file", "removed, or renamed if not empty")
    elif name[len(PREFIX) :] in names:
        yield _problem(
            "pair", path, "whiteout of an entry that is there", "whiteout removed, a directory made opaque"
        )


def _meta(path: bytes, name: bytes, status: os.stat_result, is_root: bool) -> Iterator[Problem]:
    if name in (OPAQUE, BASE):
        if not stat.S_ISREG(status.st_mode):
            yield _problem("type", path, "a mark that is no regular file", "removed, or renamed if not empty")
        elif name == BASE and not is_root:
            yield _problem("stray", path, "whiteout base outside the root", "removed")
    elif is_stage(name):
        yield _problem("stage", path, "leftover of an unfinished operation", "removed")
    else:
        yield _problem("stray", path, "unknown reserved name", "removed, or renamed if not empty")


def _leftovers(path: bytes, name: bytes) -> Iterator[Problem]:
    for entry in sorted(os.listdir(path)):
        if name == PLINK_DIR:
            yield _plink(os.path.join(path, entry), entry)
        elif entry == emptying.ASIDE:
            text = "commit that did not finish (mounting the union again undoes it)"
            yield _problem("commit", os.path.join(path, entry), text, "undone")
        else:
            yield _problem("orphan", os.path.join(path, entry), "orphan of a killed server", "removed")


def _plink(path: bytes, name: bytes) -> Problem:
    """Judge an entry among the pseudo-links as the next mount will: names that lower branches have may still depend on it."""
    record = parse_record(name)
    if noted_record(name) is not None:
        return _problem("plink", path, "change of a pseudo-link that was interrupted", _KEPT, kept=True)
    if record is None:
        return _problem(
            "plink", path, "pseudo-link that no mount recovers", "removed, or renamed if not empty"
        )
    links = os.lstat(path).st_nlink - 1
    if record.count is not None and links >= record.count:
        return _problem("plink", path, "pseudo-link whose names are all real links already", "removed")
    return _problem("plink", path, "pseudo-link that was not flushed", _KEPT, kept=True)


def _problem(kind: str, path: bytes, text: str, remedy: str, *, kept: bool = False) -> Problem:
    return Problem(kind, os.fsdecode(path), text, remedy, kept)


def repair(problem: Problem) -> None:
    """Put one problem right, unless that is a mount's task; OSError when that fails, UserError while a union uses the branch."""
    if problem.kept:
        return
    user = registry.user_of(problem.path)
    if user is not None:
        raise UserError(f"{problem.path} belongs to a branch of the union at {user}", "unmount it first")
    put_right(problem)


def put_right(problem: Problem) -> None:
    """Repair one problem of a branch that is known not to be in use; OSError."""
    path = os.fsencode(problem.path)
    if problem.kind == "pair":
        _make_opaque(path)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    elif problem.kind == "commit":
        _undo_commit(path)
    elif problem.kind in ("stage", "orphan"):
        shutil.rmtree(path)
    else:
        _remove_or_keep(path)


def _undo_commit(path: bytes) -> None:
    root = os.open(os.path.dirname(os.path.dirname(path)), LIST_DIRECTORY)
    try:
        emptying.restore(root)
    finally:
        os.close(root)


def _make_opaque(mark: bytes) -> None:
    """Let a directory hide the lower ones of its name by itself, as the whiteout beside it did so far."""
    head, name = os.path.split(mark)
    directory = os.path.join(head, name.removeprefix(PREFIX))
    status = os.lstat(directory)
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.path.join(directory, OPAQUE), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove_or_keep(path: bytes) -> None:
    """Remove an empty directory; rename one with content to a name without the reserved prefix."""
    try:
        os.rmdir(path)
        return
    except OSError:
        if not os.listdir(path):
            raise
    head, name = os.path.split(path)
    base = b"recovered." + name.removeprefix(META_PREFIX).removeprefix(PREFIX)
    for number in range(1000):
        new = os.path.join(head, base + (b".%d" % number if number else b""))
        if not os.path.lexists(new):
            os.rename(path, new)
            return
