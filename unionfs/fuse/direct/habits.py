# SPDX-License-Identifier: Apache-2.0
"""Guess whether a process will look at what it lists: `ls -l` does, `find` does not, and looking up in vain is expensive.

The kernel asks for a directory's first entries with attributes (READDIRPLUS), as it cannot know either. The first directory
of a process is answered so. The next one is listed only: if its files are then looked up, the process wants attributes and
gets them from there on, else it goes on without. Directories do not count, they are looked up to be entered.
"""

from __future__ import annotations

# Lookups of files in directories that were listed without attributes, until a process is taken to want them.
_ENOUGH = 3
# Processes that are remembered.
_MOST = 128


class Habits:
    """What the processes that list directories were seen to do."""

    def __init__(self) -> None:
        # By process: the directory it listed last without attributes (0: its first was with them), and files looked up.
        self._listed: dict[int, tuple[int, int]] = {}

    def wants_attributes(self, pid: int, directory: int) -> bool:
        """Tell whether to look up what process `pid` is listing of `directory` (a nodeid) from its start."""
        known = self._listed.get(pid)
        if known is None:
            if len(self._listed) >= _MOST:
                del self._listed[next(iter(self._listed))]
            self._listed[pid] = (0, 0)
            return True
        if known[1] >= _ENOUGH:
            return True
        self._listed[pid] = (directory, known[1])
        return False

    def clear(self) -> None:
        """Begin anew: what was listed is forgotten by the kernel too."""
        self._listed.clear()

    def looked_up(self, pid: int, directory: int) -> None:
        """Learn that a process looked up a file."""
        known = self._listed.get(pid)
        if known is not None and known[0] == directory:
            self._listed[pid] = (directory, known[1] + 1)
