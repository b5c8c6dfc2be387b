# SPDX-License-Identifier: Apache-2.0
"""What a directory shows, with everything that a fault could spoil, as values that compare and whose differences read well."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

# Everything that a test makes has older times; what is younger was changed by the operation itself.
OLD = 1_600_000_000
_YOUNGER = 1_700_000_000 * 10**9
NOW = -1

_PRIVATE = ("trusted.unionfs.", "user.unionfs.")


class _Any:
    """Equal to everything: what is not judged."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "any"


_ANY = _Any()


class Seen(NamedTuple):
    """One name; what could not be read is the errno's name in its place."""

    kind: str
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    mtime: int = 0  # in ns, or NOW
    data: object = None  # size and digest, target, or names
    xattrs: object = None
    links: object = (1, "")  # their number, and the first name of the group


View = dict[str, Seen]


def look(root: str, *, private: bool = False) -> View:
    """Describe everything below `root`; `private`: with the union's own attributes (of branches)."""
    view: View = {}
    _look(root, ".", view, {}, private)
    return view


def _look(path: str, name: str, view: View, groups: dict[int, str], private: bool) -> None:
    try:
        status = os.lstat(path)
    except OSError as error:
        view[name] = Seen(_word(error))
        return
    is_directory = stat.S_ISDIR(status.st_mode)
    data = _data(path, status)
    links = (1, "") if is_directory else (status.st_nlink, groups.setdefault(status.st_ino, name))
    view[name] = Seen(
        kind=oct(stat.S_IFMT(status.st_mode)),
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime=NOW if status.st_mtime_ns > _YOUNGER else status.st_mtime_ns,
        data=data,
        xattrs=_xattrs(path, private),
        links=links if links[0] > 1 else (links[0], ""),
    )
    if is_directory and isinstance(data, tuple):
        for entry in data:
            _look(f"{path}/{entry}", f"{name}/{entry}", view, groups, private)


def _data(path: str, status: os.stat_result) -> object:
    try:
        if stat.S_ISDIR(status.st_mode):
            return tuple(sorted(os.listdir(path)))
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
            digest = hashlib.blake2b(content, digest_size=4).hexdigest()
            return len(content), status.st_size, digest
    except OSError as error:
        return _word(error)
    return None


def _xattrs(path: str, private: bool) -> object:
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in names
            if private or not name.startswith(_PRIVATE)
        )
    except OSError as error:
        return _word(error)


def _word(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def without_times(view: View, *, of_directories: bool = False) -> View:
    """Return a view without times, or without those of directories only."""

    def is_kept(seen: Seen) -> bool:
        return of_directories and seen.kind != oct(stat.S_IFDIR)

    return {name: seen if is_kept(seen) else seen._replace(mtime=0) for name, seen in view.items()}


def without_lower_links(view: View, upper: Path) -> View:
    """Return a view without links of files that are not on the upper branch: that names of theirs went is known until umount."""

    def is_lower(name: str) -> bool:
        return not os.path.lexists(upper / name)

    return {name: seen._replace(links=_ANY) if is_lower(name) else seen for name, seen in view.items()}


def differences(wanted: View, got: View) -> list[str]:
    """Return what differs, a line a name."""
    lines = []
    for name in sorted(wanted.keys() | got.keys()):
        one, other = wanted.get(name), got.get(name)
        if one == other:
            continue
        if one is None or other is None:
            lines.append(f"{name}: {'gone' if other is None else 'new'}")
            continue
        parts = [
            f"{field} {before!r} → {after!r}"
            for field, before, after in zip(Seen._fields, one, other, strict=True)
            if before != after
        ]
        lines.append(f"{name}: {', '.join(parts)}")
    return lines
