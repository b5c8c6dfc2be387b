# SPDX-License-Identifier: Apache-2.0
"""Build directory trees from a description, and describe trees: the eyes with which tests look into branches."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

BOOKKEEPING = frozenset({".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph"})


@dataclass(frozen=True)
class File:
    """A regular file; `hole` bytes of nothing come before the content."""

    content: str | bytes = b""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: float | None = None
    hole: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dir:
    """A directory; one that only serves as a parent needs no entry of its own."""

    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime: float | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Symlink:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class HardLink:
    """Another name of an entry that was named before it."""

    to: str


@dataclass(frozen=True)
class Special:
    """A FIFO, socket or device: `kind` is one of stat.S_IF*."""

    kind: int
    device: int = 0
    mode: int = 0o644


Node = str | bytes | File | Dir | Symlink | HardLink | Special
Tree = Mapping[str, Node]


def build(root: Path, tree: Tree) -> None:
    """Make `root` and in it what `tree` names; times are set last, from the leaves to the root."""
    root.mkdir(parents=True, exist_ok=True)
    for name, node in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(root, path, node)
    for name, node in reversed(list(tree.items())):
        if isinstance(node, File | Dir) and node.mtime is not None:
            os.utime(root / name, (node.mtime, node.mtime))


def _make(root: Path, path: Path, node: Node) -> None:
    if isinstance(node, str | bytes):
        node = File(node)
    if isinstance(node, Symlink):
        path.symlink_to(node.target)
    elif isinstance(node, HardLink):
        path.hardlink_to(root / node.to)
    elif isinstance(node, Special):
        os.mknod(path, node.kind | node.mode, node.device)
    else:
        _make_with_attributes(path, node)


def _make_with_attributes(path: Path, node: File | Dir) -> None:
    if isinstance(node, Dir):
        path.mkdir()
    else:
        content = node.content.encode() if isinstance(node.content, str) else node.content
        with path.open("wb") as file:
            file.seek(node.hole)
            file.write(content)
    os.chown(path, *node.owner)
    path.chmod(node.mode)
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value)


class Entry(NamedTuple):
    """What can be compared between two trees; `group` is the first name of a hard link group."""

    kind: str
    mode: int
    owner: tuple[int, int]
    size: int
    content: str
    rdev: int
    group: str
    xattrs: tuple[tuple[str, bytes], ...]
    mtime: int


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def walk(root: Path, *, all_entries: bool = False) -> Iterator[tuple[str, os.DirEntry[bytes]]]:
    """Yield (relative name, entry) of everything under `root`; AUFS' bookkeeping only with `all_entries`."""
    pending = [(b"", os.fsencode(root))]
    while pending:
        prefix, directory = pending.pop()
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name = prefix + entry.name
            if not prefix and not all_entries and os.fsdecode(entry.name) in BOOKKEEPING:
                continue
            yield os.fsdecode(name), entry
            if entry.is_dir(follow_symlinks=False):
                pending.append((name + b"/", entry.path))


def names(root: Path) -> set[str]:
    """Return the relative names of everything under `root` but AUFS' bookkeeping."""
    return {name for name, _ in walk(root)}


def snapshot(root: Path, *, times: bool = False, all_entries: bool = False) -> dict[str, Entry]:
    """Describe everything under `root`, the root itself as "." included; mtime is 0 unless `times`."""
    groups: dict[tuple[int, int], str] = {}
    result = {".": _describe(os.fsencode(root), root.lstat(), ".", times)}
    for name, entry in sorted(walk(root, all_entries=all_entries), key=lambda pair: pair[0]):
        status = os.lstat(entry.path)
        group = groups.setdefault((status.st_dev, status.st_ino), name)
        result[name] = _describe(entry.path, status, group, times)
    return result


def _describe(path: bytes, status: os.stat_result, group: str, times: bool) -> Entry:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    content = ""
    if kind == "file":
        content = _digest(path)
    elif kind == "symlink":
        content = os.fsdecode(os.readlink(path))
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        size=0 if kind == "dir" else status.st_size,
        content=content,
        rdev=status.st_rdev if kind in ("char", "block") else 0,
        group="" if kind == "dir" else group,
        xattrs=tuple(
            sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in _xattrs(path))
        ),
        mtime=status.st_mtime_ns if times else 0,
    )


def _xattrs(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []  # a filesystem without extended attributes


def _digest(path: bytes) -> str:
    digest = hashlib.blake2b(digest_size=12)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_tree(root: Path) -> None:
    """Remove a tree of any depth; os-level recursion by name would stop at PATH_MAX."""
    shutil.rmtree(root) if not _is_deep(root) else _remove_by_hops(root)


def _is_deep(root: Path) -> bool:
    depth = 0
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            children = [e.name for e in os.scandir(directory) if e.is_dir(follow_symlinks=False)]
            if len(children) != 1 or depth > 200:
                return depth > 200
            child = os.open(children[0], os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = child
            depth += 1
    finally:
        os.close(directory)


def _remove_by_hops(root: Path) -> None:
    """Remove by moving each child directory next to the root, so that no path grows long."""
    trash = root.with_name(root.name + ".trash")
    root.rename(trash)
    while True:
        children = [entry for entry in os.scandir(trash) if entry.is_dir(follow_symlinks=False)]
        for entry in os.scandir(trash):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
        if not children:
            break
        following = trash.with_name(trash.name + "+")
        os.rename(children[0].path, following)
        shutil.rmtree(trash)
        following.rename(trash)
    trash.rmdir()
