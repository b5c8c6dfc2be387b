# SPDX-License-Identifier: Apache-2.0
"""Fold the top branch of a mounted union into the branch below it: AUFS' aubrsync.

Runs in the client, on the branches' own directories, while the mount is read-only. Everything is copied before anything
is removed from the top, so a crash leaves the union as it was seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from unionfs import client, mount_table
from unionfs.branch import Branch
from unionfs.control import request
from unionfs.errors import UserError
from unionfs.fuse import device
from unionfs.stage import stage_name
from unionfs.whiteout import META_PREFIX, OPAQUE, PREFIX

_PRIVATE = ("user.unionfs.", "trusted.unionfs.")


@dataclass(slots=True)
class Summary:
    """What a commit did, in numbers of entries."""

    copied: int = 0
    removed: int = 0
    whiteouts: int = 0


def commit(mountpoint: str, target: str, *, keep_top: bool = False) -> Summary:
    """Fold the top branch of `mountpoint` into the branch `target` and empty the top (unless `keep_top`).

    UserError when the two are not neighbours, when a file is open for writing, or when the target would ignore whiteouts.
    """
    _check_owner(mountpoint)
    branches = [Branch.parse(row["branch"]) for row in request(mountpoint, "status")["branches"]]
    index = _check(mountpoint, branches, target)
    if not keep_top:
        _check_idle(mountpoint, branches[0])
    request(mountpoint, "flush")
    fold = _Fold(
        top=os.fsencode(branches[0].path),
        target=os.fsencode(branches[index].path),
        lower=tuple(os.fsencode(branch.path) for branch in branches[index + 1 :]),
    )
    with _frozen(mountpoint):
        fold.run(b"")
        if not keep_top:
            _empty(fold.top)
        # The same permission again: the server looks every name up anew.
        client.modify_branch(mountpoint, branches[0].path, str(branches[0]).rpartition("=")[2])
    return fold.summary


def _check_owner(mountpoint: str) -> None:
    """UserError for a union of somebody else: its server says which directories are copied and emptied, and we do it."""
    mounted = mount_table.containing(mount_table.canonical(mountpoint))
    if mounted is not None and mounted.user != os.geteuid():
        raise UserError(f"{mountpoint} was mounted by another user", "commit as that user")


def _check(mountpoint: str, branches: list[Branch], target: str) -> int:
    wanted = os.path.realpath(target)
    index = next((n for n, branch in enumerate(branches) if os.path.realpath(branch.path) == wanted), None)
    if index is None:
        raise UserError(f"{target} is not a branch of {mountpoint}", f"see: unionfs branch list {mountpoint}")
    top, lower = branches[0], branches[index]
    if index == 0 or top.permission != "rw":
        raise UserError(f"{target}: the target must lie below the top branch, and that must be rw")
    if index > 1:
        raise UserError(
            f"{target}: the branch {branches[1].path} lies between", f"commit to {branches[1].path}"
        )
    if "ovl" in top.attributes or "ovl" in lower.attributes:
        raise UserError(f"{target}: only AUFS' whiteouts can be folded, not overlayfs'")
    if lower.permission != "rw" and "wh" not in lower.attributes and len(branches) > 2:
        raise UserError(
            f"{target} ignores whiteouts and branches lie below it",
            f"unionfs branch mod {mountpoint} {target}=ro+wh",
        )
    if os.statvfs(lower.path).f_flag & os.ST_RDONLY:
        raise UserError(f"{target} is on a read-only filesystem")
    return index


def _check_idle(mountpoint: str, top: Branch) -> None:
    holders = client.busy(mountpoint, top.path)
    if holders:
        pid, name = holders[0]
        raise UserError(f"{mountpoint} is busy: {name} is open (pid {pid})", "close it, or use --copy")


@contextlib.contextmanager
def _frozen(mountpoint: str) -> Iterator[None]:
    """Keep the mount read-only for the length of the block; UserError while a file is open for writing."""
    mounted = mount_table.find(mountpoint)
    if mounted is None or "ro" in mounted.flags:
        yield
        return
    device.remount(mountpoint, ("ro",))
    try:
        yield
    finally:
        device.remount(mountpoint, ("rw",))


@dataclass(slots=True)
class _Fold:
    """One pass over the top branch; paths are relative to the branches' roots."""

    top: bytes
    target: bytes
    lower: tuple[bytes, ...]
    summary: Summary = field(default_factory=Summary)
    links: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def run(self, directory: bytes) -> None:
        """Fold one directory: what it hides first, then what it holds."""
        with os.scandir(os.path.join(self.top, directory)) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        names = {entry.name for entry in entries}
        if OPAQUE in names:
            self._clear(directory, keep=names)
        for entry in entries:
            if entry.name.startswith(PREFIX) and not entry.name.startswith(META_PREFIX):
                self._hide(os.path.join(directory, entry.name[len(PREFIX) :]))
        for entry in entries:
            if not entry.name.startswith(PREFIX):
                self._take(os.path.join(directory, entry.name), entry.stat(follow_symlinks=False))
        _copy_metadata(os.path.join(self.top, directory), os.path.join(self.target, directory))

    def _is_below(self, path: bytes) -> bool:
        return any(os.path.lexists(os.path.join(branch, path)) for branch in self.lower)

    def _clear(self, directory: bytes, keep: set[bytes]) -> None:
        """Make the target's directory hold nothing but what the opaque one brings."""
        for name in os.listdir(os.path.join(self.target, directory)):
            if name not in keep and not (not directory and name.startswith(META_PREFIX)):
                self._remove(os.path.join(self.target, directory, name))
        if self._is_below(directory):
            self._mark(os.path.join(self.target, directory, OPAQUE))

    def _hide(self, path: bytes) -> None:
        """Apply a whiteout: remove the target's entry, and hide what lies below the target."""
        self._remove(os.path.join(self.target, path))
        if self._is_below(path):
            self._mark(_whiteout(os.path.join(self.target, path)))

    def _mark(self, path: bytes) -> None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444))
        self.summary.whiteouts += 1

    def _remove(self, path: bytes) -> None:
        if not os.path.lexists(path):
            return
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        self.summary.removed += 1

    def _take(self, path: bytes, status: os.stat_result) -> None:
        """Bring one entry of the top to the target."""
        new = os.path.join(self.target, path)
        was_hidden = os.path.lexists(_whiteout(new))
        if stat.S_ISDIR(status.st_mode):
            if not (os.path.isdir(new) and not os.path.islink(new)):
                self._remove(new)
                os.mkdir(new, 0o700)
            if was_hidden and self._is_below(path):
                self._mark(os.path.join(new, OPAQUE))
            self.run(path)
        else:
            self._copy(path, new, status)
        if was_hidden:
            os.unlink(_whiteout(new))
        self.summary.copied += 1

    def _copy(self, path: bytes, new: bytes, status: os.stat_result) -> None:
        """Copy a non-directory under a temporary name and put it in place in one step."""
        head, name = os.path.split(new)
        staged = os.path.join(head, stage_name(name))
        source = os.path.join(self.top, path)
        identity = (status.st_dev, status.st_ino)
        try:
            if identity in self.links:
                os.link(self.links[identity], staged, follow_symlinks=False)
            else:
                _copy_node(source, staged, status)
                _copy_metadata(source, staged)
            if os.path.isdir(new) and not os.path.islink(new):
                self._remove(new)
            os.rename(staged, new)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
            raise
        if status.st_nlink > 1:
            self.links[identity] = new


def _whiteout(path: bytes) -> bytes:
    head, name = os.path.split(path)
    return os.path.join(head, PREFIX + name)


def _copy_node(source: bytes, new: bytes, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        _copy_data(source, new)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), new)
    else:
        os.mknod(new, status.st_mode, status.st_rdev)


def _copy_data(source: bytes, new: bytes) -> None:
    """Copy a file's data along its holes, and make it durable: the original is about to be removed."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    reading = os.open(source, os.O_RDONLY | flags)
    try:
        writing = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600)
        try:
            size = os.fstat(reading).st_size
            os.truncate(writing, size)
            for start, end in _extents(reading, size):
                _copy_range(reading, writing, start, end)
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: nothing but a hole is left
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position


def _copy_range(reading: int, writing: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(reading, min(end - start, 1 << 20), start)
        if not data:
            return
        view = memoryview(data)
        while view:
            count = os.pwrite(writing, view, start)
            view, start = view[count:], start + count


def _copy_metadata(source: bytes, new: bytes) -> None:
    """Carry owner, attributes, mode and times over; the owner first, as chown clears set-id bits."""
    status = os.lstat(source)
    os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)
    for name in _attributes(new):
        if name not in _attributes(source) and not name.startswith(_PRIVATE):
            os.removexattr(new, name, follow_symlinks=False)
    for name in _attributes(source):
        if not name.startswith(_PRIVATE):
            os.setxattr(new, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(new, stat.S_IMODE(status.st_mode))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _attributes(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []


def _empty(top: bytes) -> None:
    """Remove everything from the top branch but AUFS' bookkeeping."""
    with os.scandir(top) as scan:
        entries: list[os.DirEntry[Any]] = list(scan)
    for entry in entries:
        if entry.name.startswith(META_PREFIX) and entry.name != OPAQUE:
            continue
        path = os.path.join(top, entry.name)
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(path)
        else:
            os.unlink(path)
