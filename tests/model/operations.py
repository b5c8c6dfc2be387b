# SPDX-License-Identifier: Apache-2.0
"""Random layers and random operations, and how to carry one operation out under a given root."""

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from tests.support import syscalls

NAMES = ("a", "b", "c")
SLOTS = (0, 1)
XATTRS = ("user.x", "user.y")
MODES = (0o600, 0o644, 0o755, 0o4755, 0o2770, 0o1777)
OWNERS = ((0, 0), (1, 2), (1000, 1000))


class Node(NamedTuple):
    """One entry of a layer; `children` of a directory, `content` of the others."""

    kind: str  # dir, opaque, file, link (to the layer's file before), symlink, fifo, whiteout
    mode: int
    owner: tuple[int, int]
    content: bytes
    children: dict[str, "Node"]


_contents = st.binary(max_size=40) | st.integers(1, 3).map(lambda n: b"0123456789abcdef" * 700 * n)


def _leaves() -> st.SearchStrategy[Node]:
    kinds = st.sampled_from(["file", "file", "file", "link", "symlink", "fifo", "whiteout"])
    return st.builds(Node, kinds, st.sampled_from(MODES), st.sampled_from(OWNERS), _contents, st.just({}))


def _directories(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        st.sampled_from(["dir", "dir", "dir", "opaque"]),
        st.sampled_from((0o755, 0o700, 0o2775, 0o1777)),
        st.sampled_from(OWNERS),
        st.just(b""),
        st.dictionaries(st.sampled_from(NAMES), children, max_size=3),
    )


_nodes = st.recursive(_leaves(), _directories, max_leaves=8)
layers = st.lists(st.dictionaries(st.sampled_from(NAMES), _nodes, max_size=3), min_size=3, max_size=3)


def make_layer(layer: Path, content: dict[str, Node], below: Path) -> None:
    """Write one layer; `below` is the flat tree under it.

    AUFS merges directories around a file in the middle (case 19), applying tars does not: so a directory that comes
    where the flat tree has something else gets an opaque mark, as the tools that make layers do.
    """
    layer.mkdir(exist_ok=True)
    files: list[Path] = []
    for name, node in content.items():
        _make(layer / name, node, below / name, files)


def _make(path: Path, node: Node, below: Path, files: list[Path]) -> None:
    if node.kind == "whiteout":
        path.with_name(f".wh.{path.name}").touch()
        return
    if node.kind in ("dir", "opaque"):
        path.mkdir()
        for name, child in node.children.items():
            _make(path / name, child, below / name, files)
        replaces = os.path.lexists(below) and not stat.S_ISDIR(below.lstat().st_mode)
        if node.kind == "opaque" or replaces:
            (path / ".wh..wh..opq").touch()
    elif node.kind == "symlink":
        path.symlink_to(node.content[:20].hex() or "nowhere")
        return
    elif node.kind == "fifo":
        os.mkfifo(path)
    elif node.kind == "link" and files:
        path.hardlink_to(files[-1])
        return
    else:
        path.write_bytes(node.content)
        files.append(path)
    os.chown(path, *node.owner)
    path.chmod(node.mode)


_paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
_sizes = st.sampled_from((0, 1, 10, 4096, 5000, 20000))
_data = st.binary(min_size=1, max_size=20) | st.just(b"z" * 9000)
_flags = st.sampled_from((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND))
_rename_flags = st.sampled_from((0, 0, 0, syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE))

Operation = tuple[object, ...]


def _operation(name: str, *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(name), *arguments)


operations: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        _operation("create", _paths, _data, st.sampled_from(MODES)),
        _operation("append", _paths, _data),
        _operation("overwrite", _paths, _data),
        _operation("truncate", _paths, _sizes),
        _operation("read", _paths),
        _operation("mkdir", _paths, st.sampled_from(MODES)),
        _operation("rmdir", _paths),
        _operation("rmtree", _paths),
        _operation("unlink", _paths),
        _operation("rename", _paths, _paths, _rename_flags),
        _operation("rename", _paths, _paths, _rename_flags),
        _operation("link", _paths, _paths),
        _operation("symlink", _paths),
        _operation("fifo", _paths),
        _operation("chmod", _paths, st.sampled_from(MODES)),
        _operation("chown", _paths, st.sampled_from(OWNERS)),
        _operation("setxattr", _paths, st.sampled_from(XATTRS), st.binary(min_size=1, max_size=8)),
        _operation("removexattr", _paths, st.sampled_from(XATTRS)),
        _operation("utime", _paths),
        _operation("list", _paths),
        _operation("stat", _paths),
        _operation("open", st.sampled_from(SLOTS), _paths, _flags),
        _operation("pwrite", st.sampled_from(SLOTS), _sizes, _data),
        _operation("pread", st.sampled_from(SLOTS), _sizes),
        _operation("ftruncate", st.sampled_from(SLOTS), _sizes),
        _operation("fstat", st.sampled_from(SLOTS)),
        _operation("fsync", st.sampled_from(SLOTS)),
        _operation("close", st.sampled_from(SLOTS)),
    ),
    max_size=25,
)


class Runner:
    """Carries operations out under one root, with its own open descriptors."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._descriptors: dict[object, int] = {}

    def run(self, operation: Operation) -> object:
        """Return ("ok", value) or the name of the errno; nothing else is compared."""
        name, *arguments = operation
        try:
            return "ok", getattr(self, f"_{name}")(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def close(self) -> None:
        """Close what is still open."""
        for fd in self._descriptors.values():
            os.close(fd)
        self._descriptors.clear()

    def path(self, name: str) -> str:
        """Return the path of a name of this tree."""
        return f"{self.root}/{name}"

    def _write_to(self, path: str, flags: int, data: bytes, mode: int = 0o644) -> int:
        # O_NONBLOCK: nobody reads the FIFOs of this test.
        fd = os.open(self.path(path), flags | os.O_WRONLY | os.O_NONBLOCK, mode)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def _create(self, path: str, data: bytes, mode: int) -> int:
        return self._write_to(path, os.O_CREAT | os.O_EXCL, data, mode)

    def _append(self, path: str, data: bytes) -> int:
        return self._write_to(path, os.O_APPEND, data)

    def _overwrite(self, path: str, data: bytes) -> int:
        return self._write_to(path, os.O_CREAT | os.O_TRUNC, data)

    def _truncate(self, path: str, size: int) -> None:
        os.truncate(self.path(path), size)

    def _read(self, path: str) -> bytes:
        fd = os.open(self.path(path), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 1 << 20)
        finally:
            os.close(fd)

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.path(path), mode)

    def _rmdir(self, path: str) -> None:
        os.rmdir(self.path(path))

    def _rmtree(self, path: str) -> None:
        # rmtree itself would open a FIFO, and wait.
        if not stat.S_ISDIR(os.lstat(self.path(path)).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        shutil.rmtree(self.path(path))

    def _unlink(self, path: str) -> None:
        os.unlink(self.path(path))

    def _rename(self, old: str, new: str, flags: int) -> None:
        syscalls.renameat2(self.path(old), self.path(new), flags)

    def _link(self, old: str, new: str) -> None:
        os.link(self.path(old), self.path(new), follow_symlinks=False)

    def _symlink(self, path: str) -> None:
        os.symlink("target", self.path(path))

    def _fifo(self, path: str) -> None:
        os.mkfifo(self.path(path))

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self.path(path), mode)

    def _chown(self, path: str, owner: tuple[int, int]) -> None:
        os.lchown(self.path(path), *owner)

    def _setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.path(path), name, value, follow_symlinks=False)

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.path(path), name, follow_symlinks=False)

    def _utime(self, path: str) -> tuple[float, float]:
        os.utime(self.path(path), (1e9, 1.5e9), follow_symlinks=False)
        status = os.lstat(self.path(path))
        return status.st_atime, status.st_mtime

    def _list(self, path: str) -> list[str]:
        return sorted(os.listdir(self.path(path)))

    def _stat(self, path: str) -> tuple[int, ...]:
        return _facts(os.lstat(self.path(path)))

    def _descriptor(self, slot: object) -> int:
        if slot not in self._descriptors:
            raise OSError(errno.EBADF, "not open")
        return self._descriptors[slot]

    def _open(self, slot: object, path: str, flags: int) -> None:
        self._close(slot)
        self._descriptors[slot] = os.open(self.path(path), flags | os.O_NONBLOCK | os.O_NOFOLLOW)

    def _pwrite(self, slot: object, offset: int, data: bytes) -> int:
        return os.pwrite(self._descriptor(slot), data, offset)

    def _pread(self, slot: object, offset: int) -> bytes:
        return os.pread(self._descriptor(slot), 1 << 20, offset)

    def _ftruncate(self, slot: object, size: int) -> None:
        os.ftruncate(self._descriptor(slot), size)

    def _fstat(self, slot: object) -> tuple[int, ...]:
        return _facts(os.fstat(self._descriptor(slot)))

    def _fsync(self, slot: object) -> None:
        os.fsync(self._descriptor(slot))

    def _close(self, slot: object) -> None:
        if slot in self._descriptors:
            os.close(self._descriptors.pop(slot))


def _facts(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_uid, status.st_gid, size, status.st_nlink == 0
