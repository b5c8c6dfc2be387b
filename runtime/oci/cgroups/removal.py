# SPDX-License-Identifier: Apache-2.0
"""Removing a group: at once if it is empty, else after the end of what is in it."""

from __future__ import annotations

import errno
import os
import select
import time

from runtime.oci.cgroups.creation import MARK
from runtime.oci.cgroups.files import tree
from runtime.oci.cgroups.freezer import kill
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from runtime.oci.cgroups.directories import Directories

_SIGKILL = 9
_SECONDS = 10.0
_A_DYING_PROCESS = 1.0
_PAUSE = 0.002
_INSTANTS = (0.00005, 0.0001, 0.0002, 0.0004)


def destroy(group: Directories, kept: Collection[str] = ()) -> None:
    """Remove the directories but those `kept`; groups made below them and processes left in any of them go too."""
    left = []
    for top in group.directories():
        left += [directory for directory in tree(top) if directory != top] if top in kept else [top]
    left = _remove_empty(left)
    deadline = time.monotonic() + _SECONDS
    pids = group.processes() if left or kept else []
    while left or pids:
        if pids:
            kill(group, _SIGKILL)
            _wait_for_end(pids, 0.05)
        left = [top for top in left if not _removed_with_all_below(top)]
        pids = group.processes()
        if (left or pids) and time.monotonic() > deadline:
            raise Failure(f"the cgroup {[*left, *kept][0]} stays busy", f"processes in it: {_listed(pids)}")
        if left and not pids:
            time.sleep(_PAUSE)


def _remove_empty(directories: list[str]) -> list[str]:
    """Remove directories without processes and return the others; one that has just ended keeps them busy for an instant."""
    for pause in _INSTANTS:
        directories = [directory for directory in directories if not _removed(directory)]
        if not directories:
            break
        time.sleep(pause)
    return directories


def remove(directories: list[str]) -> None:
    """Remove directories in which no process is left, or one that is just ending; what cannot be removed stays."""
    deadline = time.monotonic() + _A_DYING_PROCESS
    for directory in directories:
        try:
            while not _removed(directory) and time.monotonic() < deadline:
                time.sleep(_PAUSE)
        except OSError:
            continue


def withdraw(group: Directories, found: Collection[str]) -> None:
    """Remove the directories that a creation has made before it was killed, and nothing of anybody else's.

    What was `found` there before is not ours, nor what lacks our mark; the one process that may have been in it dies with
    its parent.
    """
    remove([path for path in group.directories() if path not in found and _has_mark(path)])


def _has_mark(directory: str) -> bool:
    try:
        return bool(os.stat(directory).st_mode & MARK)
    except OSError:  # not made
        return False


def _listed(pids: list[int]) -> str:
    return ", ".join(str(pid) for pid in pids[:10]) or "none"


def _removed_with_all_below(top: str) -> bool:
    removed = True
    for directory in tree(top):  # deepest first; those beside a busy one go nevertheless
        removed = _removed(directory) and removed
    return removed


def _removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _wait_for_end(pids: list[int], seconds: float) -> None:
    """Wait until one of the processes has ended, at most `seconds`; works for other people's children too."""
    poll = select.poll()
    descriptors = []
    try:
        for pid in pids:
            try:
                descriptors.append(os.pidfd_open(pid))
            except OSError:
                return
            poll.register(descriptors[-1], select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        for fd in descriptors:
            os.close(fd)
