# SPDX-License-Identifier: Apache-2.0
"""What happens to a union beside one client's operations: kills, another client, other hands on branches, few descriptors."""

import os
import stat
from pathlib import Path

from hypothesis import strategies as st

from tests.model.operations import NAMES, Operation, data, known_operations, operation, paths

Turn = tuple[int, Operation]  # which client, and what

crashes: st.SearchStrategy[Operation] = st.just(("crash",))
pressure = operation("hold", paths, st.sampled_from((20, 100, 300))) | st.just(("release",))

_layers = st.integers(0, 3)  # 3 is the writable branch
_modes = st.sampled_from((0o600, 0o644, 0o777))
_new_names = st.sampled_from(
    ("d", "e")
)  # never those of a directory, so that no layer gets a file between two
_new_paths = st.lists(st.sampled_from((*NAMES,)), max_size=2).flatmap(
    lambda parents: _new_names.map(lambda name: "/".join([*parents, name]))
)
behind = st.one_of(
    operation("behind", _layers, st.just("create"), _new_paths, data),
    operation("behind", _layers, st.just("replace"), paths, data),
    operation("behind", _layers, st.just("overwrite"), paths, data),
    operation("behind", _layers, st.just("remove"), paths),
    operation("behind", _layers, st.just("chmod"), paths, _modes),
)


def turns(session: str, *troubles: st.SearchStrategy[Operation]) -> st.SearchStrategy[list[Turn]]:
    """Return lists of what two clients do, a fifth of it the given troubles."""
    ordinary = st.one_of(known_operations(session))
    step = st.one_of([ordinary] * 4 + [st.one_of(troubles)]) if troubles else ordinary
    return st.lists(st.tuples(st.integers(0, 1), step), max_size=30)


def change_branch(layer: Path, kind: object, name: object, *arguments: object) -> None:
    """Change one file of a branch as somebody does who does not use the mount.

    OSError where there is no such file, or where `create` finds one.
    """
    path = layer / str(name)
    if kind == "create":
        _write(path, os.O_CREAT | os.O_EXCL, arguments[0])
        return
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(path)
    if kind == "overwrite":
        _write(path, os.O_TRUNC, arguments[0])
    elif kind == "replace":
        new = layer.with_name(f".{layer.name}.new")
        _write(new, os.O_CREAT, arguments[0])
        new.rename(path)
    elif kind == "remove":
        path.unlink()
    else:
        path.chmod(int(str(arguments[0])))


def _write(path: Path, flags: int, content: object) -> None:
    assert isinstance(content, bytes)
    with open(os.open(path, flags | os.O_WRONLY, 0o644), "wb") as file:
        file.write(content)
