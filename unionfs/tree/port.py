# SPDX-License-Identifier: Apache-2.0
"""What a union needs of those outside: the session that speaks with the kernel, and the server around it.

Each is handed over at one place (`UnionFilesystem.attach` and `attach_host`); without them a union works by itself, as in tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from unionfs.branches import leftovers
from unionfs.tree.nodes import Node


class Session(Protocol):
    """Tells the kernel what is no longer so, and takes over long work. Nothing here waits or raises, but for `settled`."""

    # The most bytes that are copied inside a request; None: everything.
    inline_limit: int | None
    # The kernel knows nodes by their st_ino, as the session cannot tell it two numbers.
    nodeids_are_numbers: bool

    def name_changed(self, parent: Node, name: bytes) -> None:
        """Make the kernel look a name up again."""

    def attributes_changed(self, nodeid: int) -> None:
        """Make the kernel ask for a node's attributes again."""

    def all_changed(self) -> None:
        """Drop what the kernel cached: branches or options are others."""

    def options_changed(self) -> None:
        """Take what depends on the options from those now in force."""

    def shrunk(self) -> None:
        """Most nodes were forgotten: a time to give memory back."""

    def delete_later(self, directory: int, name: bytes) -> None:
        """Delete what was set aside as `name` in `directory`, when nothing waits for us."""

    def state(self) -> dict[str, Any]:
        """Return what `status` shows of the session."""
        ...

    async def settled(self) -> None:
        """Wait until the kernel has been told all that it was to be told."""


class Host(Protocol):
    """The server that a mount belongs to."""

    def status(self) -> dict[str, Any] | None:
        """Return what everybody who sees the mount may know of it; None if nothing."""

    def open_inodes(self) -> Iterable[tuple[int, int]]:
        """Return (pid, number) of what processes use of the mount: at least all open and working directories."""
        ...


class NoSession:
    """Nobody's: a union without a mount, before one and after one."""

    inline_limit: int | None = None
    nodeids_are_numbers = False

    def name_changed(self, parent: Node, name: bytes) -> None:
        """Nobody remembers names."""

    def attributes_changed(self, nodeid: int) -> None:
        """Nor attributes."""

    def all_changed(self) -> None:
        """Nor anything."""

    def options_changed(self) -> None:
        """Nothing depends on options."""

    def shrunk(self) -> None:
        """Memory is left as it is."""

    def delete_later(self, directory: int, name: bytes) -> None:
        """Delete it now."""
        leftovers.discard(directory, name)

    def state(self) -> dict[str, Any]:
        """There is none."""
        return {}

    async def settled(self) -> None:
        """There is nobody to be told."""


class NoHost:
    """Nobody's: what serves several mounts, or none, without a run-time directory."""

    def status(self) -> dict[str, Any] | None:
        """Nothing may be known."""
        return None

    def open_inodes(self) -> Iterable[tuple[int, int]]:
        """Only what the handles tell."""
        return ()
