# SPDX-License-Identifier: Apache-2.0
"""Flush pseudo-links: give every name of a copied-up hard link its real link, then drop the entries (AUFS' auplink)."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable

from unionfs.branches import whiteout
from unionfs.branches.emptiness import open_list, raw_entries
from unionfs.branches.identity import number_of
from unionfs.branches.redirects import Refused
from unionfs.lookup.find import find
from unionfs.operations.copyup import CopyUps
from unionfs.plinks.pseudolinks import drop_entry, drop_leftovers, is_elsewhere, materialize
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

log = logging.getLogger(__name__)

_DT_DIR = 4
_DT_UNKNOWN = 0
# A direct change on a branch took the entry or directory away.
_GONE = (errno.ENOENT, errno.ESTALE)


class PlinkFlusher:
    """Flushes the pseudo-links of one union."""

    def __init__(self, union: Union, copyups: CopyUps) -> None:
        self._union = union
        self._copyups = copyups
        self._running = False
        self._ended = False

    def end(self) -> None:
        """End the flush that is at work, if there is one, and let no other begin; for signal handlers.

        Pseudo-links that are left stay on their branch, and the next mount takes them up.
        """
        self._ended = self._ended or self._running

    def flush(self) -> int:
        """Make real links for all names that are still on lower branches; return how many were made.

        A name that cannot be linked keeps its pseudo-link, and the first error is raised in the end. One found after a crash
        whose lower file is on no branch of this mount is kept too: it is needed where that branch is. EINTR if `end` was called.
        """
        if not self._union.plinks and not self._union.plinks.leftovers:
            return 0
        self._running = True
        try:
            return self._flush()
        finally:
            self._running = False

    def _check_end(self) -> None:
        if self._ended:
            raise InterruptedError(errno.EINTR, "ended by a signal")

    def _flush(self) -> int:
        union = self._union
        made = 0
        failed: dict[int, OSError] = {}
        lower: dict[int, list[tuple[Node, bytes]]] = {}
        try:
            self._find_lower_names(lower)
            for ino, names in lower.items():
                plink = union.plinks[ino]
                for parent, name in names:
                    try:
                        self._check_end()
                        fd = self._copyups.directory_on(parent, plink.branch)
                        materialize(union, plink, parent, fd, name)
                        made += 1
                    except OSError as error:
                        failed.setdefault(ino, error)
                    union.trim()
        finally:
            for names in lower.values():
                for parent, _ in names:
                    self._let_go(parent)
        for ino in [ino for ino in union.plinks if ino not in failed]:
            node = union.nodes.of_number(ino)
            try:
                if is_elsewhere(union, union.plinks[ino]):
                    continue
                if node is not None:
                    self._rehome(node)
                drop_entry(union, ino)
            except OSError as error:
                # Its copy stays where it is for the next flush. What a direct change took away is nobody's failure.
                if error.errno not in _GONE:
                    failed.setdefault(ino, error)
        if failed:
            raise next(iter(failed.values()))
        drop_leftovers(union)
        return made

    def _hold(self, directory: Node) -> Node:
        """Keep a directory that a walk needs, as if it were opened once more: the kernel may have forgotten it."""
        directory.opens += 1
        return directory

    def _let_go(self, directory: Node) -> None:
        directory.opens -= 1
        self._union.nodes.release(directory)

    def _rehome(self, node: Node) -> None:
        """Let the node's home be a name that physically is its copy, now that the pseudo-link goes."""
        union = self._union
        for parent, name in list(node.names()):
            fd = union.fd_on(parent, node.branch)
            status = whiteout.exists(fd, name) if fd is not None else None
            if status is not None and union.identity_of(status) == node.identity:
                node.make_home(parent, name)
                return
        union.bury(node)

    def _find_lower_names(self, result: dict[int, list[tuple[Node, bytes]]]) -> None:
        """Walk the union's directories and add to `result` the names whose visible copy is a pseudo-linked lower file.

        Files are compared by the inode number in their listing; only candidates are looked up. Each name's directory is held
        for the caller to let go, also after an error.
        """
        union = self._union
        if not union.plinks:
            return
        pending = [self._hold(union.root)]
        try:
            while pending:
                self._check_end()
                directory = pending.pop()
                try:
                    if not directory.removed:
                        self._scan(directory, pending, result)
                except OSError as error:
                    if error.errno not in _GONE:  # a directory taken away directly has no names
                        raise
                finally:
                    self._let_go(directory)
                union.trim()
        finally:
            for directory in pending:
                self._let_go(directory)

    def _scan(
        self, directory: Node, pending: list[Node], result: dict[int, list[tuple[Node, bytes]]]
    ) -> None:
        """Add the directory's sub-directories to `pending` and its names that are wanted to `result`."""
        union = self._union
        layers = union.dirs(directory)
        for name in self._candidates(directory, layers):
            try:
                found = find(layers, name, stack=union.directories.stack)
            except Refused:
                continue  # so nobody has come to a name in there
            if found is None:
                continue
            if found.is_directory:
                pending.append(self._hold(union.node_for(directory, name, found)))
                continue
            identity = union.identity_of(found.status)
            number = union.numbers.of_entry(directory, found.branch, name, identity)
            plink = union.plink_of(number, found, identity, directory, name)
            if plink is not None and found.branch is not plink.branch:
                result.setdefault(plink.ino, []).append((self._hold(directory), name))

    def _candidates(self, directory: Node, layers: whiteout.Layers) -> Iterable[bytes]:
        """Return the names that may be sub-directories or of a pseudo-linked file, each once, from all copies that are there."""
        union = self._union
        names: dict[bytes, None] = {}
        for branch, fd in layers:
            # After a crash a copy of a copy is known by its recorded number only.
            recorded = union.plinks.has_recovered() and union.numbers.is_impure(directory, branch)
            try:
                readable = open_list(fd)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                continue  # taken away directly; the other copies have their names all the same
            try:
                device = os.fstat(readable).st_dev
                for ino, _, kind, name, _ in raw_entries(readable):
                    if name in (b".", b"..") or name.startswith(whiteout.PREFIX):
                        continue
                    if kind in (_DT_DIR, _DT_UNKNOWN) or recorded or self._may_be_linked(device, ino):
                        names[name] = None
            finally:
                os.close(readable)
        return names

    def _may_be_linked(self, device: int, ino: int) -> bool:
        plinks = self._union.plinks
        identity = self._union.identities.of_inode(device, ino)
        plink = plinks.get(number_of(identity))
        if plink is not None:
            plink.seen = True  # also of a name that does not show
        return plink is not None or plinks.of_file(identity) is not None
