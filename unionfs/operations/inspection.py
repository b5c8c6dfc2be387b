# SPDX-License-Identifier: Apache-2.0
"""Answer questions about a union: statfs, who keeps a branch busy, where a path comes from, may this caller search here."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Any

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.handles.handles import FileHandle, HandleTable
from unionfs.operations.create import Caller
from unionfs.options.idmaps import IdMaps
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

_UNTOLD = 0xFFFFFFFF  # the uid in requests that make nothing, of a kernel that may map ids (FUSE_ALLOW_IDMAP)


class Inspector:
    """Reads one union; changes nothing."""

    def __init__(self, union: Union, handles: HandleTable) -> None:
        self._union = union
        self._handles = handles

    def statfs(self) -> os.statvfs_result:
        """Return the first branch's numbers, or with `sum` totals over distinct filesystems in the smallest block size."""
        branches = self._union.directories.lost.living(self._union.branches)
        if not self._union.options.sum:
            return self._result([os.statvfs(branches[0].root)])
        distinct = {branch.device: branch for branch in reversed(branches)}
        return self._result([os.statvfs(branch.root) for branch in distinct.values()])

    def _result(self, parts: list[os.statvfs_result]) -> os.statvfs_result:
        unit = min(part.f_frsize for part in parts)

        def total(field: str) -> int:
            return sum(getattr(part, field) * part.f_frsize // unit for part in parts)

        def count(field: str) -> int:
            return sum(getattr(part, field) for part in parts)

        values = (
            min(part.f_bsize for part in parts), unit,
            total("f_blocks"), total("f_bfree"), total("f_bavail"),
            count("f_files"), count("f_ffree"), count("f_favail"),
            parts[0].f_flag, self._union.name_max,
        )  # fmt: skip
        return os.statvfs_result(values)

    def busy(self, branch: OpenBranch | None, inodes: Iterable[tuple[int, int]]) -> list[tuple[int, str]]:
        """Return (pid, path) of open files that live on `branch` and open directories that it has.

        `inodes` are (pid, number) of what else is open; what is no directory is passed over.
        """
        if branch is None:
            return []
        holders = []
        directories = {
            node.ino: node for node in self._union.nodes if node.is_directory and branch in node.layers
        }
        for pid, ino in inodes:
            node = directories.get(ino)
            if node is not None and node is not self._union.root:
                holders.append((pid, os.fsdecode(node.path())))
        for handle in self._handles:
            node = handle.node
            if node is self._union.root:
                continue
            on_it = branch in node.layers if node.is_directory else node.branch is branch
            if isinstance(handle, FileHandle) and handle.backing is not None:
                assert node.branch is not None
                on_it = handle.backing.is_on(branch.id, node.branch.id)  # an old reader stays where it was
            if on_it:
                holders.append((handle.pid, os.fsdecode(node.path())))
        return sorted(set(holders))

    def which(self, path: bytes) -> list[dict[str, Any]]:
        """Return for each branch what it holds at `path`; the first with "visible" is what the union shows.

        ENOENT if a directory on the way is missing, ENOTDIR if it is none, EPERM and ENAMETOOLONG for names that no union has.
        """
        names = [part for part in path.split(b"/") if part]
        node = self._union.root
        for name in names[:-1]:
            node = self._union.lookup(node, name).node
            if not node.is_directory:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
        if not names:
            roots = dict(self._union.dirs(node))
            return [
                self._row(branch, roots.get(branch), b"", path, visible=branch in roots)
                for branch in self._union.branches
            ]
        name = names[-1]
        self._union.check_name(name)
        found = self._union.find(node, name)
        visible = {branch.id for branch, _ in found.entries} if found is not None else set()
        present = dict(self._union.dirs(node))
        rows = []
        for branch in self._union.branches:
            fd = present.get(branch)
            rows.append(self._row(branch, fd, name, path, visible=branch.id in visible))
        self._union.nodes.release(node)
        return rows

    def _row(
        self, branch: OpenBranch, fd: int | None, name: bytes, path: bytes, *, visible: bool
    ) -> dict[str, Any]:
        status = None
        hides = opaque = False
        if fd is not None and name:
            status = whiteout.exists(fd, name)
            hides = branch.marks and whiteout.is_whited_out(branch, fd, name)
            if status is not None and stat.S_ISDIR(status.st_mode) and branch.marks:
                inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    opaque = whiteout.is_opaque(branch, inner)
                finally:
                    os.close(inner)
        elif fd is not None:
            status = os.fstat(fd)
        kind = None if status is None else _KINDS.get(stat.S_IFMT(status.st_mode), "?")
        return {
            "index": self._union.index(branch),
            "branch": str(branch),
            "path": os.path.join(branch.path, os.fsdecode(path).lstrip("/")),
            "present": status is not None,
            "kind": kind,
            "whiteout": hides,
            "opaque": opaque,
            "visible": visible,
            "lost": self._union.directories.lost.reason(branch),
        }

    # -- nodirperm1: every copy of a directory must allow what the caller wants ----------------------------------

    def check_search(self, node: Node, caller: Caller) -> None:
        """EACCES unless every copy of the directory may be searched."""
        self._check(node, caller, 1)

    def check_read(self, node: Node, caller: Caller) -> None:
        """EACCES unless every copy of the directory may be listed."""
        self._check(node, caller, 4)

    def is_in_group(self, node: Node, caller: Caller, ids: IdMaps | None) -> bool:
        """Tell whether the caller is root or in the group that the file shows, so that set-group-ID may stay."""
        group = self._union.status(node).st_gid
        return caller.uid == 0 or (group if ids is None else ids.groups.shown(group)) in _groups(caller)

    def _check(self, node: Node, caller: Caller, wanted: int) -> None:
        if caller.uid == _UNTOLD:
            caller = _identify(caller)
        if caller.uid == 0:
            return
        groups = _groups(caller)
        for _, fd in self._union.dirs(node):
            status = os.fstat(fd)
            if caller.uid == status.st_uid:
                granted = status.st_mode >> 6
            elif status.st_gid in groups:
                granted = status.st_mode >> 3
            else:
                granted = status.st_mode
            if not granted & wanted:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _identify(caller: Caller) -> Caller:
    """Return the caller with the ids that procfs shows, where the kernel did not send them."""
    ids = {"Uid": caller.uid, "Gid": caller.gid}
    try:
        with open(f"/proc/{caller.pid}/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                kind, _, numbers = line.partition(":")
                if kind in ids:
                    ids[kind] = int(numbers.split()[3])  # real, effective, saved, filesystem
    except OSError:
        pass
    return caller._replace(uid=ids["Uid"], gid=ids["Gid"])


def _groups(caller: Caller) -> set[int]:
    """Return the caller's groups; FUSE does not carry the supplementary ones, procfs does."""
    groups = {caller.gid}
    try:
        with open(f"/proc/{caller.pid}/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("Groups:"):
                    groups.update(int(word) for word in line.split()[1:])
                    break
    except OSError:
        pass
    return groups
