# SPDX-License-Identifier: Apache-2.0
"""What clients may ask of a mount on its control socket."""

from __future__ import annotations

import errno
import functools
import os
from typing import Any

from unionfs.branches.branch import Branch
from unionfs.options.aufs import parse
from unionfs.server import control as channel
from unionfs.server import remount
from unionfs.server.served import ServedMount


class Commands:
    """What one conversation on the control socket can ask for."""

    def __init__(self, server: ServedMount) -> None:
        self._server = server
        self._filesystem = server.filesystem

    def table(self) -> dict[str, channel.Command]:
        """Return the commands by name."""
        names = (
            "status",
            "stats",
            "add",
            "delete",
            "modify",
            "busy",
            "flush",
            "which",
            "move_down",
            "refresh",
            "set_options",
            "commit_begins",
            "freeze_begins",
            "folded",
            "commit_ended",
        )
        return {name: functools.partial(self._run, getattr(self, f"do_{name}")) for name in names}

    def _run(self, command: channel.Command, **arguments: Any) -> Any:
        """Run a command; once more if it failed because a branch was lost, without which it may be done."""
        try:
            return command(**arguments)
        except OSError as error:
            if not self._filesystem.notice(error):
                raise
        return command(**arguments)

    def do_status(self) -> dict[str, Any]:
        """Return everything that `unionfs status` shows."""
        return self._server.shown()

    def do_stats(self) -> dict[str, Any]:
        """Return request counts and latencies."""
        return self._server.statistics.snapshot()

    def do_add(self, index: int | None, branch: str) -> None:
        """Insert a branch given as DIR[=PERM]."""
        wanted = Branch.parse(branch)
        self._refuse_own(wanted.path)
        self._filesystem.add_branch(index, wanted)
        self._server.show_branches()

    def _refuse_own(self, path: str) -> None:
        """Refuse a directory inside this very mount without touching it: the server would wait for itself for ever.

        Clients have checked the real path before they send it.
        """
        mountpoint = self._server.mountpoint
        if mountpoint is not None and os.path.abspath(path).startswith(mountpoint.rstrip("/") + "/"):
            raise OSError(errno.EINVAL, "it is inside the same union", path)

    def do_delete(self, path: str) -> None:
        """Remove a branch."""
        self._refuse_own(path)
        self._filesystem.delete_branch(path)
        self._server.show_branches()

    def do_modify(self, path: str, permission: str) -> None:
        """Change a branch's permission."""
        self._refuse_own(path)
        self._filesystem.modify_branch(path, permission)
        self._server.show_branches()

    def do_busy(self, path: str) -> list[tuple[int, str]]:
        """Return who holds a branch."""
        self._refuse_own(path)
        return self._filesystem.busy(self._filesystem.find_branch(path))

    def do_flush(self) -> int:
        """Flush pseudo-links."""
        return self._filesystem.flush_plinks()

    def do_which(self, path: str) -> list[dict[str, Any]]:
        """Return per branch what is at a path of the union."""
        return self._filesystem.which(os.fsencode(path))

    def do_move_down(self, path: str, overwrite: bool = False, keep: bool = False) -> str:
        """Move a file down one writable branch."""
        return self._filesystem.move_down(os.fsencode(path), overwrite=overwrite, keep=keep)

    def do_commit_begins(self, target: str) -> None:
        """Note that the client folds the top branch into `target`; if it goes away before the end, that is undone."""
        self._server.committing.begin(self, target)

    def do_freeze_begins(self) -> None:
        """Note that the client makes the mount read-only until the end."""
        self._server.committing.freeze(self)

    def do_folded(self, keep_top: bool = False) -> str:
        """Empty the top branch, all of it or nothing, and look at the branches anew; return what the client is to delete."""
        return self._server.committing.fold(self, keep_top=keep_top)

    def do_commit_ended(self) -> None:
        """Note that nothing is left to be undone."""
        self._server.committing.end(self)

    async def left(self) -> None:
        """Undo what a client that died left."""
        await self._server.committing.left(self)

    def do_set_options(self, text: str) -> None:
        """Apply an option string's words to the options in force, left to right; branches are other commands' matter."""
        options = parse(text, remount=True).applied_to(self._filesystem.options)
        remount.set_options(self._filesystem, options)

    def do_refresh(self) -> None:
        """Forget what the kernel cached: AUFS' bare remount."""
        self._filesystem.invalidate_all()
