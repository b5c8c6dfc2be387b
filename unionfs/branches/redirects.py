# SPDX-License-Identifier: Apache-2.0
"""Overlayfs' marks that lead elsewhere: a directory's lower copies under another path, a file's data in a lower layer.

They are followed as the kernel follows them (Documentation/filesystems/overlayfs.rst, fs/overlayfs/namei.c), on branches with
`+ovl`, which is how the user says that the layers can be trusted. What is not followed is refused by name, never passed over:
the rest of a directory, or the data of a file, would be missing without a word. Pure reading; knows nothing of nodes.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.whiteout import Layers

log = logging.getLogger(__name__)

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TRUSTED, _USER = "trusted.overlay.", "user.overlay."
# What overlayfs writes and a reader of a stopped layer need not know: where a copy came from, link counts and flags of an
# overlay that had the layer as its upper one, names of index entries.
_HARMLESS = frozenset(("origin", "impure", "nlink", "upper", "uuid", "protattr"))
_KNOWN = _HARMLESS | {"opaque", "whiteout", "redirect", "metacopy"}
_ESCAPED = "overlay."  # marks of an overlay inside an overlay: that one's business
_METACOPY_HEADER = 4  # version, length, flags, algorithm of the digest that follows
_TOLD_MOST = 1024

_told: set[tuple[str, str]] = set()


class Place(NamedTuple):
    """Where a layer has a directory: components from the layer's root, or one name beside the directory that redirects."""

    absolute: bool
    parts: tuple[bytes, ...]

    def open(self, root: int, parent: int | None, flags: int) -> int:
        """Open the directory with `flags`, component by component and through no link; ENOENT where the parent has no copy."""
        if not self.absolute:
            if parent is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            return os.open(self.parts[0], flags, dir_fd=parent)
        fd, opened = root, -1
        try:
            for part in self.parts[:-1]:
                following = os.open(part, _PATH | os.O_DIRECTORY, dir_fd=fd)
                if opened >= 0:
                    os.close(opened)
                fd = opened = following
            return os.open(self.parts[-1], flags, dir_fd=fd)
        finally:
            if opened >= 0:
                os.close(opened)


class Stack(NamedTuple):
    """What marks may lead to: the roots of all branches, top first, and which kinds of marks are followed."""

    roots: Layers
    redirects: bool = True  # overlayfs' redirect_dir=follow
    metacopy: bool = True  # overlayfs' metacopy=on


class Refused(OSError):
    """A mark is not followed."""


def refuse(number: int, reason: str, what: bytes, branch: OpenBranch) -> Refused:
    """Return the error of a mark that is not followed, and say so in the log, once for each place."""
    name = os.fsdecode(what)
    if (branch.path, name) not in _told and len(_told) < _TOLD_MOST:
        _told.add((branch.path, name))
        log.warning("branch %s: %s: %s", branch.path, name, reason)
    return Refused(number, f"{reason} (branch {branch.path})", name)


def check_known(marks: tuple[str, ...], what: bytes, branch: OpenBranch) -> None:
    """Refuse (EPERM) marks of a later overlayfs, which may change what is to be seen."""
    for mark in marks:
        for space in (_TRUSTED, _USER):
            kind = mark.removeprefix(space)
            if kind != mark and kind not in _KNOWN and not kind.startswith(_ESCAPED):
                raise refuse(errno.EPERM, f"unknown mark {mark}", what, branch)


def is_redirected(marks: tuple[str, ...], what: bytes, branch: OpenBranch) -> bool:
    """Tell whether a directory that has `marks` has another path in lower layers; EPERM for a mark that nobody knows."""
    check_known(marks, what, branch)
    return any(mark.endswith(".redirect") for mark in marks)


def is_metacopy(marks: tuple[str, ...], path: bytes, what: bytes, branch: OpenBranch) -> bool:
    """Tell whether a regular file, which has `marks` and is at `path`, has its data in a lower layer.

    EPERM for a mark that anybody may set, EIO for one that is not understood. A digest in it is not compared with that of
    fs-verity, as in the kernel without verity=on.
    """
    check_known(marks, what, branch)
    if _USER + "metacopy" in marks:
        raise refuse(errno.EPERM, "refusing to follow user.overlay.metacopy", what, branch)
    if _TRUSTED + "metacopy" not in marks:
        return False
    value = os.getxattr(path, _TRUSTED + "metacopy")
    if value and (len(value) < _METACOPY_HEADER or value[0] != 0 or value[1] != len(value)):
        raise refuse(errno.EIO, "trusted.overlay.metacopy of an unknown version", what, branch)
    return True


def _redirect(marks: tuple[str, ...], path: bytes, what: bytes, branch: OpenBranch) -> bytes | None:
    """Return the value of a redirect; EPERM for a mark that anybody may set, EINVAL for a value that is no path."""
    if _USER + "redirect" in marks:
        raise refuse(errno.EPERM, "refusing to follow user.overlay.redirect", what, branch)
    if _TRUSTED + "redirect" not in marks:
        return None
    value = os.getxattr(path, _TRUSTED + "redirect")
    parts = value[1:].split(b"/") if value[:1] == b"/" else [value]
    if b"\0" in value or any(part in (b"", b".", b"..") or b"/" in part for part in parts):
        raise refuse(errno.EINVAL, f"invalid redirect {os.fsdecode(value)!r}", what, branch)
    return value


def has_redirect(fd: int) -> bool:
    """Tell whether the directory `fd` has a redirect, valid or not."""
    return any(mark.endswith(".redirect") for mark in whiteout.overlay_marks(fd, b"."))


class Trail:
    """One search downwards through the layers, for the copies of a directory or for a file's data.

    It begins below an entry that has marks and changes its path at every redirect it meets, also of directories on the way.
    """

    def __init__(
        self, stack: Stack, layers: Layers, branch: OpenBranch, name: bytes, *, directory: bool
    ) -> None:
        self._stack = stack
        self._layers = layers
        self._branch = branch
        self._directory = directory
        self._place = Place(absolute=False, parts=(name,))
        self._name = name
        self._stopped = False
        self.needs_data = not directory  # nothing but marks of metacopy so far

    def turn(self, marks: tuple[str, ...], path: bytes) -> None:
        """Take in the redirect, if any, of the entry that the search begins at; EPERM if it is not to be followed, EINVAL."""
        value = _redirect(marks, path, self._name, self._branch)
        if value is not None:
            parts = self._turn(value, ())
            self._place = self._place._replace(parts=parts)

    def found(self) -> Iterator[tuple[OpenBranch, int, Place]]:
        """Yield the layers that have the entry, top first, with a descriptor (O_PATH), which the caller closes."""
        absolute = self._place.absolute
        layers = iter(_below(self._stack.roots if absolute else self._layers, self._branch))
        while not self._stopped and (layer := next(layers, None)) is not None:
            self._branch, base = layer
            place = self._place
            fd = self._look(base)
            if fd is None:
                continue
            if self._place.absolute and not absolute:
                absolute = True
                layers = iter(_below(self._stack.roots, self._branch))
            yield self._branch, fd, place

    def _look(self, base: int) -> int | None:
        """Walk the path in one layer from `base` and return what is at its end, if that continues the entry.

        A redirect on the way counts for the layers below even where this one does not have the rest of the path.
        """
        parts = self._place.parts
        fd, opened = base, -1
        prefix: tuple[bytes, ...] = ()
        for position, part in enumerate(parts):
            rest = parts[position + 1 :]
            following = self._enter(fd, part, directory=self._directory or bool(rest))
            try:
                if following is None:
                    return None
                prefix = self._pass(fd, part, following, prefix, rest)
                self._place = self._place._replace(parts=(*prefix, *rest))
            except BaseException:
                if following is not None:
                    os.close(following)
                raise
            finally:
                if opened >= 0:
                    os.close(opened)
            fd = opened = following
        return opened

    def _enter(self, fd: int, part: bytes, *, directory: bool) -> int | None:
        """Open one component; where something else or a whiteout is in its place, the search ends with this layer."""
        branch = self._branch
        try:
            status = whiteout.exists(fd, part)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return None
        if branch.marks and whiteout.is_whited_out(branch, fd, part):
            self._stopped = True  # what is beside its own whiteout in AUFS' form shows all the same
        if status is None or (branch.overlay and whiteout.is_overlay_whiteout(fd, part, status)):
            return None
        wanted = stat.S_ISDIR if directory else stat.S_ISREG
        if not wanted(status.st_mode):
            self._stopped = True
            return None
        return os.open(part, _PATH, dir_fd=fd)

    def _pass(
        self, fd: int, part: bytes, entered: int, prefix: tuple[bytes, ...], rest: tuple[bytes, ...]
    ) -> tuple[bytes, ...]:
        """Read the marks of one component; return the path to it in lower layers."""
        branch, last = self._branch, not rest
        path = whiteout.proc_path(entered)
        marks = whiteout.overlay_marks(fd, part) if branch.overlay else ()
        if last and not self._directory:
            self.needs_data = branch.overlay and is_metacopy(marks, path, part, branch)
            self._stopped = not self.needs_data
        elif whiteout.is_opaque(branch, entered):
            self._stopped = True
            return (*prefix, part)
        else:
            check_known(marks, part, branch)
        ends = last and not self._directory and not self.needs_data
        value = _redirect(marks, path, part, branch) if marks and not ends else None
        if value is None:
            return (*prefix, part)
        return self._turn(value, prefix)

    def _turn(self, value: bytes, prefix: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the path that a redirect beside the end of `prefix` leads to."""
        if not self._stack.redirects:
            raise refuse(errno.EPERM, "refusing to follow a redirect", self._name, self._branch)
        if value[:1] != b"/":
            return (*prefix, value)
        # An opaque directory on the way there does not matter to what is named from the root.
        self._stopped = False
        self._place = self._place._replace(absolute=True)
        return tuple(value[1:].split(b"/"))


def _below(layers: Layers, branch: OpenBranch) -> Layers:
    for position, (candidate, _) in enumerate(layers):
        if candidate is branch:
            return layers[position + 1 :]
    return ()


def open_data(
    stack: Stack, layers: Layers, branch: OpenBranch, name: bytes, marks: tuple[str, ...], path: bytes
) -> int:
    """Return a descriptor (O_PATH) of the file that has the data of `name`, a metacopy with `marks` at `path` on `branch`.

    `layers` are the copies of its directory. EPERM where such marks are not followed, EIO if no lower layer has the data.
    """
    if not stack.metacopy:
        raise refuse(errno.EPERM, "refusing to follow a metacopy", name, branch)
    trail = Trail(stack, layers, branch, name, directory=False)
    trail.turn(marks, path)
    for _, fd, _ in trail.found():
        if not trail.needs_data:
            return fd
        os.close(fd)
    raise refuse(errno.EIO, "a metacopy whose data is in no lower layer", name, branch)
