# SPDX-License-Identifier: Apache-2.0
"""`UnionFilesystem` is all that sessions, servers and commands know of a union: nobody reaches past it to the core's parts."""

import ast
from pathlib import Path
from types import BuiltinMethodType, MethodType

import pytest

from unionfs.branches.branch import Branch
from unionfs.filesystem import UnionFilesystem
from unionfs.options.aufs import Options
from unionfs.options.idmaps import IdMaps

ROOT = Path(__file__).parents[2]
OUTSIDE = ("unionfs/session", "unionfs/server", "unionfs/commit", "unionfs/cli", "runtime/engine")
# What may be asked of a value of the facade's without its help: these are plain values, not parts.
VALUES = {"options", "ids", "branches"}
# The modules of which objects do the core's work. Beside them there are values: Node, Attributes, Changes, Caller, Place …
PARTS = (
    "unionfs.tree.union unionfs.tree.copies unionfs.tree.node_maker unionfs.tree.whiteouts unionfs.tree.directories "
    "unionfs.tree.numbers unionfs.tree.held unionfs.tree.node_table unionfs.listing.unopened unionfs.handles.followed "
    "unionfs.operations.surgery unionfs.operations.copyup unionfs.operations.opening unionfs.operations.following "
    "unionfs.operations.inspection unionfs.operations.policy unionfs.operations.copy_jobs unionfs.operations.xattrs "
    "unionfs.operations.open_directories unionfs.operations.branch_list"
).split()


def _is_filesystem(node: ast.expr) -> bool:
    """Tell whether an expression is a facade by its name, as `filesystem` and `self._filesystem` are."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.strip("_") == "filesystem"


def _faults(source: str, path: str = "") -> list[str]:
    """Return what in a module goes past the facade."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _is_filesystem(node.value) and node.attr.startswith("_"):
            found.append(f"{path}:{node.lineno} filesystem.{node.attr}")
        inner = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(inner, ast.Attribute) and _is_filesystem(inner.value) and inner.attr not in VALUES:
            found.append(f"{path}:{inner.lineno} filesystem.{inner.attr}.{ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module in PARTS:
            found.append(f"{path}:{node.lineno} {node.module}")
    return found


def test_nobody_reaches_past_the_facade() -> None:
    """Sessions, servers and commands use its public names only, and import none of the parts behind them."""
    paths = [path for folder in OUTSIDE for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 40
    faults = [
        fault
        for path in paths
        for fault in _faults(path.read_text(), str(path.relative_to(ROOT)))
    ]  # fmt: skip
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "self._filesystem.union.look(parent, name)",
        "filesystem.listings.read(node, 0, 100)",
        "self.requests.filesystem.copyups.leave(job)",
        "nodes = filesystem._union",
        "filesystem.nodes.on_shrunk = f",
        "from unionfs.tree.union import Union",
    ],
)
def test_reach_past_the_facade_is_found(source: str) -> None:
    """Each of these was there once."""
    assert _faults(source)


@pytest.mark.parametrize("source", ["filesystem.options.udba", "self._filesystem.look(parent, name)"])
def test_use_of_the_facade_is_no_fault(source: str) -> None:
    """Its methods and its plain values are for everybody."""
    assert not _faults(source)


def test_facade_shows_no_part_of_the_core(tmp_path: Path) -> None:
    """What is public of it is a method, its own or a part's, or a plain value."""
    filesystem = UnionFilesystem.open([Branch(str(tmp_path), "rw")], Options())
    try:
        for name, value in vars(filesystem).items():
            plain = value is None or isinstance(value, Options | IdMaps | bool)
            callables = isinstance(value, MethodType | BuiltinMethodType)
            assert name.startswith("_") or plain or callables, name
    finally:
        filesystem.close()
