# SPDX-License-Identifier: Apache-2.0
"""The server's side of `unionfs commit`: one at a time, and what a client leaves that dies at it is put right.

Owns who is at work on a mount. The folding itself is the client's (`commit`), emptying the top branch is `emptying`'s.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path

from unionfs.branches.emptying import empty
from unionfs.commit.fold_stage import leftovers
from unionfs.filesystem import UnionFilesystem
from unionfs.session import threads

log = logging.getLogger(__name__)

# The kernel writes back through the server when it remounts, so another process must ask for it.
_THAW = "import sys; from unionfs.session import device; device.remount(sys.argv[1], ('rw',))"


class Committing:
    """The commit that is at work on one mount, if any; `who` is the conversation that asked for it."""

    def __init__(self, filesystem: UnionFilesystem, mountpoint: str | None) -> None:
        self._filesystem = filesystem
        self._mountpoint = mountpoint
        self._who: object = None
        self._target = ""
        self._gone = b""  # what lies in the top's `.wh..wh.orph` to be deleted
        self._frozen = False
        self._undoing = False

    def begin(self, who: object, target: str) -> None:
        """Let `who` begin; EBUSY while another one is at work, EAGAIN while what a dead one left is put right."""
        if self._undoing:
            raise OSError(errno.EAGAIN, "a commit that was killed is being undone")
        if self._who is not None:
            raise OSError(errno.EBUSY, "another commit is at work")
        self._who, self._target, self._gone, self._frozen = who, target, b"", False

    def freeze(self, who: object) -> None:
        """Note that `who` makes the mount read-only, and is to make it writable again."""
        self._check(who)
        self._frozen = True

    def fold(self, who: object, *, keep_top: bool) -> str:
        """Drop what `who` has folded from the top branch, in one go, and look at both branches anew.

        Return the name of what is to be deleted in the top's `.wh..wh.orph`, "" for nothing.
        """
        self._check(who)
        try:
            if not keep_top:
                self._gone = _empty_top(self._filesystem)
        finally:
            self._filesystem.doubt()
        return os.fsdecode(self._gone)

    def end(self, who: object) -> None:
        """Note that all is done and undone; what the client could not delete is tried again."""
        self._check(who)
        self._who = None
        self._sweep()

    def _check(self, who: object) -> None:
        if who is not self._who:
            raise OSError(errno.EINVAL, "no commit was begun")

    async def left(self, who: object) -> None:
        """Put right what `who` left undone."""
        if who is not self._who:
            return
        self._undoing = True
        log.warning("a commit to %s died, and is undone", self._target)
        try:
            if self._frozen and self._mountpoint is not None:
                await _thaw(self._mountpoint)
            self._sweep()
        except OSError as error:
            log.error("a commit to %s cannot be undone: %s", self._target, error)
        finally:
            self._who, self._undoing = None, False

    def _sweep(self) -> None:
        """Delete what is left of the stage of a fold, and of the top branch's former content."""
        branches, later = self._filesystem.branches, self._filesystem.delete_later
        for branch in branches:
            if branch.path == self._target:
                for name in leftovers(branch.root):
                    later(branch.root, name)
        if self._gone:
            later(self._filesystem.orphans(branches[0]), self._gone)


def _empty_top(filesystem: UnionFilesystem) -> bytes:
    """Empty the top branch; EBUSY while something of it is open. Any error leaves it as it was."""
    top = filesystem.branches[0]
    holders = filesystem.busy(top)
    if holders:
        pid, name = holders[0]
        raise OSError(errno.EBUSY, f"the branch is busy: {name} (pid {pid})", top.path)
    return empty(top, filesystem.orphans(top))


async def _thaw(mountpoint: str) -> None:
    command = [sys.executable, "-c", _THAW, mountpoint]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    done = await threads.run_program(lambda: command, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        log.error("%s stays read-only: %s", mountpoint, done.stderr.decode(errors="replace").strip())
