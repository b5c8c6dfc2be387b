# SPDX-License-Identifier: Apache-2.0
"""What whiteouts in the copies of a directory hide of the branches below, and whether those still show a name."""

from __future__ import annotations

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.lookup.find import find
from unionfs.tree.directories import Directories
from unionfs.tree.nodes import Node
from unionfs.tree.pristine import Fresh


class Whiteouts:
    """The whiteouts of one union."""

    def __init__(self, directories: Directories, left: Fresh) -> None:
        """`left`: the directories that have whiteouts of AUFS' form, on branches that had none when they came."""
        self._directories = directories
        self._dirs, self._known = directories.dirs, directories.known
        self._left = left
        self.form = "aufs"  # in which new ones are made

    def known_directory(self, parent: Node, name: bytes) -> Node | None:
        """Return the directory that is known to be at a name, where its branches need not be asked again."""
        child = parent.children.get(name) if self._directories.trust and parent.children else None
        if child is None or child.dirs is None or child.parent is None:
            return None
        return child

    def marks_of(self, parent: Node, branch: OpenBranch, fd: int) -> set[bytes] | None:
        """Return the names that `branch`, whose copy of `parent` is `fd`, may hide; None if they are not known."""
        if parent.contents and not branch.overlay:
            if len(parent.contents) == 1 and self._directories.trust:
                return parent.contents[0].marks if parent.contents[0] is not None else None
            for known, (candidate, _) in zip(parent.contents, self._dirs(parent), strict=True):
                if candidate is branch:
                    return known.marks if known is not None and known.is_current(fd) else None
        return None

    def is_hidden(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> bool:
        """Tell whether `branch`, whose copy of `parent` is `fd`, hides `name` of the branches below it."""
        return self.may_hide(parent, branch, fd, name) and whiteout.is_whited_out(branch, fd, name)

    def may_hide(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> bool:
        """Tell whether a whiteout of `name` may be in the copy `fd` of `parent` on `branch`; False is certain."""
        marks = self.marks_of(parent, branch, fd)
        if marks is not None:
            return name in marks
        if self._left.holds(parent, branch) is False:
            return False
        if self._directories.trust and len(self._dirs(parent)) == 1:
            # Looking for names there does not count (`find`), as only changes have a use for its whiteouts.
            self._known.of(parent, self._dirs(parent), True)
        return True

    def shows_below(
        self, parent: Node, name: bytes, branch: OpenBranch, *, without: OpenBranch | None = None
    ) -> bool:
        """Tell whether a branch below `branch` still shows `name` (any type), so that hiding it needs a whiteout.

        A branch that is lost may. `without` is a branch below on which the name is about to go.
        """
        layers = self._dirs(parent)
        if layers[-1][0] is branch:
            return bool(self._directories.lost) and self._directories.in_doubt(parent, name) is not None
        child = self.known_directory(parent, name) if without is None else None
        if (
            child is not None
            and child.layers[-1] is not branch
            and branch in child.layers
            and child.places is None  # else lower copies may have other names
        ):
            return True
        start = 0
        for position, (candidate, _) in enumerate(layers):
            if candidate is branch:
                start = position + 1
        lower = layers[start:]
        known = parent.contents[start:] if self._directories.trust else ()
        if without is not None:
            lower, known = tuple(pair for pair in lower if pair[0] is not without), ()
        below = find(
            lower,
            name,
            last_mark=not self._directories.trust,
            contents=known,
            stack=self._directories.stack,
        )
        if below is None and self._directories.lost:
            return self._directories.in_doubt(parent, name) is not None
        return below is not None

    def make_whiteout(self, parent: Node, branch: OpenBranch, fd: int, name: bytes) -> None:
        """Hide `name` of the branches below `branch`, whose copy of `parent` is `fd`."""
        marks = self.marks_of(parent, branch, fd)
        if marks is not None and name not in marks:
            marks.add(name)
            self._known.grew(parent)
        self._left.leave(branch, fd)
        whiteout.make(branch, fd, name, self.form)
