# SPDX-License-Identifier: Apache-2.0
"""Branches whose filesystem has gone: its server was killed, its host cannot be reached.

They stay in the branch list, as somebody has to decide, but are not asked. Knows branches alone; what that means for names
is `Directories.in_doubt`.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Sequence

from unionfs.branches.branch import OpenBranch

log = logging.getLogger(__name__)

# Only this is said of a FUSE mount whose own server is gone: a living union must not answer it.
_OF_THE_DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN)
# What calls fail with that go to a filesystem that cannot be reached; each may have other reasons.
_SUSPICIOUS = frozenset(
    (*_OF_THE_DEAD, errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET)
)
_PAUSE = 1.0  # seconds between two looks at branches that are known to be lost


class BranchLost(OSError):
    """What was asked depends on a branch that is lost (EIO)."""


def shown_errno(error: OSError) -> int:
    """Return the errno that a client of the union gets for an error."""
    number = error.errno or errno.EIO
    if number == errno.EMFILE:
        return errno.ENFILE  # the other one would be of the client's own limit
    return errno.EIO if number in _OF_THE_DEAD else number


class LostBranches:
    """Which branches of one union are lost, and why."""

    def __init__(self) -> None:
        self._reasons: dict[int, str] = {}  # by the branch's id
        self._looked = 0.0

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def reason(self, branch: OpenBranch) -> str | None:
        """Return why a branch is lost, None if it is not."""
        return self._reasons.get(branch.id)

    def error(self, branch: OpenBranch) -> BranchLost:
        """Return the error for what depends on a lost branch."""
        return BranchLost(errno.EIO, f"the branch is lost: {self._reasons[branch.id]}", branch.path)

    def living(self, branches: Sequence[OpenBranch]) -> tuple[OpenBranch, ...]:
        """Return the branches that can be asked; all if that would be none.

        A lost branch whose marks count ends the list: nobody knows which names of lower ones it hides.
        """
        found: list[OpenBranch] = []
        for branch in branches:
            if branch.id not in self._reasons:
                found.append(branch)
            elif branch.marks:
                break
        return tuple(found or branches)

    def first(self, branches: Sequence[OpenBranch]) -> OpenBranch | None:
        """Return the topmost lost branch."""
        return next((branch for branch in branches if branch.id in self._reasons), None)

    def keep(self, branches: Sequence[OpenBranch]) -> None:
        """Forget branches that are not among `branches` any more."""
        ids = {branch.id for branch in branches}
        self._reasons = {id: reason for id, reason in self._reasons.items() if id in ids}

    def look(self, branches: Sequence[OpenBranch], error: OSError) -> list[OpenBranch]:
        """After an error look which branches are lost; return those of which that has changed, and say so once."""
        if error.errno not in _SUSPICIOUS:
            return []
        now = time.monotonic()
        if isinstance(error, BranchLost) and now - self._looked < _PAUSE:
            return []
        self._looked = now
        changed = []
        for branch in branches:
            reason = _failure(branch)
            if (reason is None) == (branch.id not in self._reasons):
                continue
            changed.append(branch)
            if reason is None:
                del self._reasons[branch.id]
                log.warning("%s: the branch answers again", branch.path)
            else:
                self._reasons[branch.id] = reason
                log.warning("%s: the branch is lost: %s; the others stay usable", branch.path, reason)
        return changed


def _failure(branch: OpenBranch) -> str | None:
    """Return why a branch's filesystem cannot be reached, None if it can."""
    try:
        os.statvfs(branch.root)  # never cached, unlike stat; answered by a union of which a part is lost
    except OSError as error:
        return error.strerror if error.errno in _SUSPICIOUS else None
    return None
