# SPDX-License-Identifier: Apache-2.0
"""What to believe of a name after a step failed that may have been done all the same: what its branches say now."""

from __future__ import annotations

import logging
import os

from unionfs.lookup.find import Found
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

log = logging.getLogger(__name__)


def ask_again(union: Union, parent: Node, name: bytes) -> None:
    """Forget what is known of a name and is not so, here and in the kernel. For error paths: it raises nothing."""
    union.known.forget(parent)
    child = parent.children.get(name) if parent.children else None
    if child is not None:
        union.directories.close(child)
        try:
            is_there = _is_at(union, child, union.find(parent, name), parent, name)
        except OSError as error:
            log.warning("cannot look %s up after an error: %s", os.fsdecode(name), error.strerror)
        else:
            if not is_there:
                child.remove_name(parent, name)
                union.nodes.release(child)
    union.session.name_changed(parent, name)


def _is_at(union: Union, node: Node, found: Found | None, parent: Node, name: bytes) -> bool:
    """Tell whether what was found at a name is the node that is known to be there."""
    if found is None:
        return False
    if node.is_directory:
        return found.is_directory
    return union.leads_to(node, parent, name, found)
