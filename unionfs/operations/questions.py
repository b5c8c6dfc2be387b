# SPDX-License-Identifier: Apache-2.0
"""What everybody who sees a union may ask of it, through the mount: extended attributes that are no file's.

The control socket obeys the union's owner and root alone. Here the kernel has checked, with the caller's own rights, that he may
go to the file; so nothing is told of what he could not see, nothing has to be judged, and it works where the run-time directory
cannot be reached. A value has at most 64 KiB: longer ones come in pages, which the names count.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unionfs.tree.nodes import Node
    from unionfs.tree.union import Union

# Of the root, for which the kernel asks for the right to read it, and so whether the mount is open to the caller at all; of any
# other file the way to it is enough (the kernel leaves `system.` to the filesystem).
_AT_ROOT, _BELOW = "unionfs.", "system.unionfs."
PREFIXES = (_AT_ROOT, _BELOW)
PAGE = 60000
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


def attribute(question: str, page: int, *, at_root: bool) -> str:
    """Return the name by which a page of an answer is asked for."""
    return f"{_AT_ROOT if at_root else _BELOW}{question}.{page}"


def parse(name: str, *, at_root: bool) -> tuple[str, int]:
    """Return (question, page) of an attribute's name; ENODATA if it asks nothing that may be asked there."""
    prefix = _AT_ROOT if at_root else _BELOW
    question, _, page = name.removeprefix(prefix).partition(".")
    known = ("status", "which") if at_root else ("which",)
    if not name.startswith(prefix) or question not in known or not (page.isdecimal() and page.isascii()):
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return question, int(page[:9])


def page_of(answer: Any, page: int) -> bytes:  # Any: what JSON carries
    """Return a page of an answer; one that is not full is the last."""
    return json.dumps(answer).encode()[page * PAGE : (page + 1) * PAGE]


def which(union: Union, node: Node) -> list[dict[str, Any]]:
    """Return a row of `which` for each branch that the union shows a file of, without the path, which the caller knows.

    What is hidden below is left out: the caller cannot see it. ENODATA for a removed file.
    """
    if node.removed:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    branches = [branch for branch, _ in union.dirs(node)] if node.is_directory else [node.branch]
    kind = stat.S_IFDIR if node.is_directory else node.traits.kind
    return [
        {
            "index": union.index(branch),
            "branch": str(branch),
            "path": "",
            "present": True,
            "kind": _KINDS.get(kind, "special file"),
            "whiteout": False,
            "opaque": False,
            "visible": True,
            "lost": None,
        }
        for branch in branches
        if branch is not None
    ]
