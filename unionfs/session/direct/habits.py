# SPDX-License-Identifier: Apache-2.0
"""Guess whether a process will look at what it lists: `ls -l` does, `find` does not, and looking up in vain is expensive.

The kernel asks for the first entries of each directory with attributes (READDIRPLUS), as it cannot know either. What it asks
for next tells: READDIRPLUS again if entries were looked at by then, as `ls -l` does, else READDIR. Programs that read all names
before they look at any (`tar`, `du`) are known by the lookups that follow a listing without attributes.

The first directory of a process is answered with few entries and no attributes: what the kernel asks for next decides for the
others. A process that lists only, or looks only, costs nothing more from there on; one that changes its ways is noticed at once
if it looks at entries while it lists, else by listing without attributes now and then.
"""

from __future__ import annotations

from enum import Enum

# Lookups of files in a directory that was listed without attributes, until a process is taken to want them.
_ENOUGH = 3
# After so many listings one finds out whether a process that looks at entries later still does; each time after twice as many.
_FIRST_PROBE, _LAST_PROBE = 32, 4096
# Processes that are remembered.
_MOST = 128


class Way(Enum):
    """How to answer the beginning of a listing."""

    FEW = "few entries without attributes"
    PLAIN = "without attributes"
    FULL = "with attributes"


class _Process:
    """What was seen of one process."""

    __slots__ = ("at_once", "directory", "given", "looked", "since", "trust", "wants")

    def __init__(self) -> None:
        self.wants = False
        self.at_once = False  # it looks at entries before it asks for more
        self.directory = 0  # what it listed last
        self.given = Way.FEW  # and how
        self.looked = 0  # files that it looked up there
        self.since = 0  # listings with attributes, since that was last seen to be right
        self.trust = _FIRST_PROBE  # how many there may be


class Habits:
    """What the processes that list directories were seen to do."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}

    def begins(self, pid: int, directory: int) -> Way:
        """Tell how to answer process `pid`, which begins to list `directory` (a nodeid)."""
        process = self._processes.get(pid)
        if process is None:
            if len(self._processes) >= _MOST:
                del self._processes[next(iter(self._processes))]
            process = self._processes[pid] = _Process()
            way = Way.FEW
        elif not process.wants:
            way = Way.PLAIN
        elif process.at_once:
            way = Way.FULL
        elif process.since < process.trust:
            process.since += 1
            way = Way.FULL
        elif process.given is Way.FULL:
            way = Way.PLAIN
        else:  # the listing before was to find out, and nothing was looked up after it
            process.wants = False
            process.trust = _FIRST_PROBE
            way = Way.PLAIN
        process.directory, process.given, process.looked = directory, way, 0
        return way

    def goes_on(self, pid: int, directory: int, *, advised: bool) -> bool:
        """Learn how a process asks for more of a directory, or whether there is more; tell whether it wants attributes.

        `advised`: the kernel has seen that entries were looked at. They may have been directories, to be entered.
        """
        process = self._processes.get(pid)
        if process is None or process.directory != directory:
            return advised
        if process.given is Way.FULL:
            if process.at_once and not advised:
                process.wants = process.at_once = False
            return advised
        if advised and process.looked:
            process.wants = process.at_once = True
            return True
        return False

    def saw_nothing(self, pid: int) -> None:
        """Learn nothing from what a process is listing: there is nothing to look at."""
        process = self._processes.get(pid)
        if process is not None:
            process.given = Way.PLAIN

    def looked_up(self, pid: int, directory: int) -> None:
        """Learn that a process looked up a file."""
        process = self._processes.get(pid)
        if process is not None and process.directory == directory and process.given is not Way.FULL:
            process.looked += 1
            if process.looked == _ENOUGH:
                if process.wants and not process.at_once:
                    process.trust = min(2 * process.trust, _LAST_PROBE)
                process.wants = True
                process.since = 0

    def clear(self) -> None:
        """Begin anew: what was listed is forgotten by the kernel too."""
        self._processes.clear()
