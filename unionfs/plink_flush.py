# SPDX-License-Identifier: Apache-2.0
"""Flush pseudo-links: give every name of a copied-up hard link its real link, then drop the entries (AUFS' auplink)."""

from __future__ import annotations

import errno
import logging
import os

from unionfs import whiteout
from unionfs.copyup import CopyUps
from unionfs.emptiness import open_list, raw_entries
from unionfs.identity import number_of
from unionfs.lookup import find
from unionfs.nodes import Node
from unionfs.plinks import drop_entry, drop_leftovers, is_elsewhere, materialize
from unionfs.redirects import Refused
from unionfs.union import Union

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
        lower = self._lower_names()
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
        self._release(lower)
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

    def _release(self, lower: dict[int, list[tuple[Node, bytes]]]) -> None:
        """Let go of the directories that a walk kept."""
        for names in lower.values():
            for parent, _ in names:
                parent.opens -= 1
                self._union.nodes.release(parent)

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

    def _lower_names(self) -> dict[int, list[tuple[Node, bytes]]]:
        """Walk the union's directories and return the names whose visible copy is a pseudo-linked lower file.

        Files are compared by the inode number in their listing; only candidates are looked up. The directories of the result
        are kept, as if opened once for each name, until `_release`.
        """
        union = self._union
        result: dict[int, list[tuple[Node, bytes]]] = {}
        if not union.plinks:
            return result
        pending = [union.root]
        while pending:
            directory = pending.pop()
            try:
                self._check_end()
                if not directory.removed:
                    pending.extend(self._scan(directory, result))
            except OSError as error:
                if error.errno not in _GONE:  # a directory taken away directly has no names
                    self._release(result)
                    for waiting in (directory, *pending):
                        union.nodes.release(waiting)
                    raise
            union.nodes.release(directory)
            union.trim()
        return result

    def _scan(self, directory: Node, result: dict[int, list[tuple[Node, bytes]]]) -> list[Node]:
        union = self._union
        names: dict[bytes, bool] = {}
        layers = union.dirs(directory)
        for branch, fd in layers:
            # After a crash a copy of a copy is known by its recorded number only.
            recorded = union.plinks.has_recovered() and union.numbers.is_impure(directory, branch)
            readable = open_list(fd)
            try:
                device = os.fstat(readable).st_dev
                for ino, _, kind, name in raw_entries(readable):
                    if name in (b".", b"..") or name.startswith(whiteout.PREFIX):
                        continue
                    if kind in (_DT_DIR, _DT_UNKNOWN) or recorded or self._may_be_linked(device, ino):
                        names.setdefault(name, True)
            finally:
                os.close(readable)
        below = []
        for name in names:
            try:
                found = find(layers, name, stack=union.directories.stack)
            except Refused:
                continue  # so nobody has come to a name in there
            if found is None:
                continue
            if found.is_directory:
                child = union.node_for(directory, name, found)
                below.append(child)
                continue
            identity = union.identity_of(found.status)
            number = union.numbers.of_entry(directory, found.branch, name, identity)
            plink = union.plink_of(number, found, identity)
            if plink is not None and found.branch is not plink.branch:
                directory.opens += 1  # else it goes with the last directory below it, if the kernel forgot it
                result.setdefault(plink.ino, []).append((directory, name))
        return below

    def _may_be_linked(self, device: int, ino: int) -> bool:
        plinks = self._union.plinks
        identity = self._union.identities.of_inode(device, ino)
        plink = plinks.get(number_of(identity))
        if plink is not None:
            plink.seen = True  # also of a name that does not show
        return plink is not None or plinks.of_file(identity) is not None
