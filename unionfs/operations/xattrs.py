# SPDX-License-Identifier: Apache-2.0
"""Extended attributes as a mount shows them: a file's own, ACLs with the mount's ids, and questions about the union."""

from __future__ import annotations

import errno
import os

from unionfs.operations import questions
from unionfs.operations.attributes import AttributeChanger
from unionfs.operations.create import Caller
from unionfs.operations.inspection import Inspector
from unionfs.options.idmaps import IdMaps
from unionfs.tree.nodes import Node
from unionfs.tree.port import Host, NoHost
from unionfs.tree.union import Union

_ACLS = "system.posix_acl_"


class Xattrs:
    """The extended attributes of one union's files."""

    def __init__(
        self, union: Union, change: AttributeChanger, inspector: Inspector, ids: IdMaps | None
    ) -> None:
        self._union = union
        self._change = change
        self._inspect = inspector
        self._ids = ids
        self.host: Host = NoHost()

    def get(self, node: Node, name: str) -> bytes:
        """Return an extended attribute, or the answer to a question about the union; ENODATA."""
        if name.startswith(questions.PREFIXES):
            return self._answer(node, name)
        value = self._change.get_xattr(node, name)
        if self._ids is not None and name.startswith(_ACLS):
            return self._ids.shown_acl(value)
        return value

    def _answer(self, node: Node, name: str) -> bytes:
        question, page = questions.parse(name, at_root=node is self._union.root)
        answer = self.host.status() if question == "status" else questions.which(self._union, node)
        if answer is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return questions.page_of(answer, page)

    def set(
        self, node: Node, name: str, value: bytes, flags: int = 0, *, caller: Caller | None = None
    ) -> None:
        """Set an extended attribute; an ACL set by a caller outside the file's group costs the set-group-ID bit."""
        if self._ids is not None and name.startswith(_ACLS):
            value = self._ids.kept_acl(value)
        self._change.set_xattr(node, name, value, flags)
        if (
            name == "system.posix_acl_access"
            and caller is not None
            and not self._inspect.is_in_group(node, caller, self._ids)
        ):
            self._change.strip_set_gid(node)
