# SPDX-License-Identifier: Apache-2.0
"""What a node knows of those who have its file open: their handles, and what the kernel passes them through to."""

from __future__ import annotations

from typing import Protocol


class Followed(Protocol):
    """A lower file that is open in such a way that its readers follow a copy-up."""

    published: bool  # the copy is the one that the union shows: what is opened may be written to

    def release(self) -> None:
        """Count one user less."""


class Backing:
    """A branch file that open files of one nodeid pass through to, registered with the kernel while there are any.

    With `followed` it is the file as a private overlay shows it, and its readers follow a copy-up.
    """

    __slots__ = ("branch_id", "followed", "id", "nodeid", "opens")

    def __init__(self, backing_id: int, nodeid: int, branch_id: int, followed: Followed | None) -> None:
        self.id = backing_id
        self.nodeid = nodeid
        self.branch_id = branch_id
        self.followed = followed
        self.opens = 0

    def is_on(self, branch_id: int, present_id: int) -> bool:
        """Tell whether its readers or writers use a branch, where `present_id` is the branch of the visible copy."""
        return branch_id == self.branch_id or (self.followed is not None and branch_id == present_id)


class OpenFile(Protocol):
    """A handle of an open file, as far as its node is concerned."""

    flags: int
    writes: bool  # opened for writing
    pid: int
    size: int  # when it was opened; -1: not known
    elsewhere: bool  # `fd` is of the lower file that has the data of an overlay's metacopy
    backing: Backing | None

    @property
    def fd(self) -> int:
        """Return the descriptor on a branch."""
        ...

    def reopen(self, source_fd: int) -> int:
        """Open the writable copy behind `source_fd` with the caller's access mode, and return the descriptor."""
        ...

    def use(self, fd: int) -> None:
        """Point the handle's own descriptor at what `fd` has open."""


class Handles(set[OpenFile]):
    """The handles of a file that is open."""

    __slots__ = ("backing",)

    def __init__(self) -> None:
        self.backing: Backing | None = (
            None  # of those whose opens pass through to the file that is visible now
        )
