# SPDX-License-Identifier: Apache-2.0
"""The branches of a mounted union: add, remove and change them, and who keeps one busy.

`surgery` replaces the list; here is what a mounted union needs around that: pseudo-links are real links before a branch goes,
nobody keeps a branch that is to go, no listing reads it, the kernel forgets what it cached.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from unionfs.branches.branch import Branch, OpenBranch
from unionfs.kernel import syscalls
from unionfs.kernel.descriptor import Descriptor, Errand
from unionfs.listing.unopened import Listings
from unionfs.operations import surgery
from unionfs.operations.inspection import Inspector
from unionfs.tree.port import Host, NoHost
from unionfs.tree.union import Union


class BranchList:
    """The branches of one union, as commands change them."""

    def __init__(
        self, union: Union, listings: Listings, inspector: Inspector, flush: Callable[[], object]
    ) -> None:
        """`flush` turns pseudo-links into real links."""
        self._union = union
        self._listings = listings
        self._inspect = inspector
        self._flush = flush
        self.host: Host = NoHost()

    def add(self, index: int | None, branch: Branch) -> None:
        """Insert a branch at `index` (None: append); one that is there already is accepted silently. EDOM, EINVAL."""
        self._flush()
        if surgery.add(self._union, index, branch, self._union.options):
            self._union.session.all_changed()

    def delete(self, path: str) -> None:
        """Remove a branch; EBUSY while a file or directory on it is open, or if it is the last one."""
        if surgery.find_branch(self._union, path) is not None:
            self._flush()
        branch = surgery.find_branch(self._union, path)
        if branch is not None:
            self._listings.leave(branch)
        if surgery.delete(self._union, path, self.busy(branch)):
            self._union.session.all_changed()

    def modify(self, path: str, text: str) -> None:
        """Change a branch's permission and attributes (`rw`, `ro+wh` …)."""
        self._flush()
        if surgery.modify(self._union, path, text, self._union.options):
            self._union.session.all_changed()

    def find(self, path: str) -> OpenBranch | None:
        """Return the branch that is at `path`, None if none is."""
        return surgery.find_branch(self._union, path)

    def busy(self, branch: OpenBranch | None) -> list[tuple[int, str]]:
        """Return (pid, path in the union) of what keeps a branch busy."""
        return self._inspect.busy(branch, self.host.open_inodes())

    def write_back_all(self) -> Errand:
        """Return what writes back the filesystems of all writable branches."""
        # Of our own: a branch may be removed meanwhile.
        roots = tuple(Descriptor(os.dup(branch.root)) for branch in self._union.branches if branch.writable)

        def work() -> None:
            for root in roots:
                syscalls.sync_filesystem(root.fd)

        return Errand(work, roots)
