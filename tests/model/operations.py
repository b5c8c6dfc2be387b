# SPDX-License-Identifier: Apache-2.0
"""Random layers and random operations."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from tests.support import syscalls

NAMES = ("a", "b", "c")
SLOTS = (0, 1, 2)  # descriptors that stay open
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


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
_sizes = st.sampled_from((0, 1, 10, 4096, 5000, 20000))
data = st.binary(min_size=1, max_size=20) | st.just(b"z" * 9000)
_flags = st.sampled_from((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND))
_rename_flags = st.sampled_from((0, 0, 0, syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE))

_allocations = st.sampled_from(
    (
        0,
        syscalls.FALLOC_FL_KEEP_SIZE,
        syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE,
        syscalls.FALLOC_FL_ZERO_RANGE,
        syscalls.FALLOC_FL_ZERO_RANGE | syscalls.FALLOC_FL_KEEP_SIZE,
    )
)

Operation = tuple[object, ...]


def operation(name: str, *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Operation]:
    """Return operations of that name with drawn arguments."""
    return st.tuples(st.just(name), *arguments)


_slots = st.sampled_from(SLOTS)
_any_session = [
    operation("create", paths, data, st.sampled_from(MODES)),
    operation("append", paths, data),
    operation("overwrite", paths, data),
    operation("truncate", paths, _sizes),
    operation("read", paths),
    operation("mkdir", paths, st.sampled_from(MODES)),
    operation("rmdir", paths),
    operation("rmtree", paths),
    operation("unlink", paths),
    operation("rename", paths, paths, _rename_flags),
    operation("rename", paths, paths, _rename_flags),
    operation("link", paths, paths),
    operation("symlink", paths),
    operation("fifo", paths),
    operation("chmod", paths, st.sampled_from(MODES)),
    operation("chown", paths, st.sampled_from(OWNERS)),
    operation("setxattr", paths, st.sampled_from(XATTRS), st.binary(min_size=1, max_size=8)),
    operation("removexattr", paths, st.sampled_from(XATTRS)),
    operation("utime", paths),
    operation("list", paths),
    operation("stat", paths),
    operation("open", _slots, paths, _flags),
    operation("pwrite", _slots, _sizes, data),
    operation("pread", _slots, _sizes),
    operation("ftruncate", _slots, _sizes),
    operation("fstat", _slots),
    operation("fsync", _slots),
    operation("close", _slots),
    operation("write", _slots, data),
    operation("next", _slots, _sizes),
    operation("fchmod", _slots, st.sampled_from(MODES)),
    operation("seek", _slots, _sizes, st.sampled_from((os.SEEK_DATA, os.SEEK_HOLE))),
    operation("map", _slots),
    operation("poke", _slots, _sizes, data),
    operation("peek", _slots),
]
_direct_session = [
    operation("tmpfile", _slots, paths, st.sampled_from(MODES)),
    operation("fallocate", _slots, _allocations, _sizes, _sizes),
    operation("fallocate", _slots, _allocations, _sizes, _sizes),
    operation("linkat", _slots, paths),
    operation("copy_range", _slots, _slots, _sizes, _sizes, _sizes),
]


def known_operations(session: str) -> list[st.SearchStrategy[Operation]]:
    """Return what the session can do: pyfuse3 has no fallocate, O_TMPFILE and copy_file_range."""
    return _any_session + (_direct_session if session == "direct" else [])


def operations(session: str) -> st.SearchStrategy[list[Operation]]:
    """Return lists of what the session can do."""
    return st.lists(st.one_of(known_operations(session)), max_size=30)
