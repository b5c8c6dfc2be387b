# SPDX-License-Identifier: Apache-2.0
"""The lock of a writable branch: one live union writes to it, and a mount waits for the one before to end.

It is a flock of the branch's own directory, so that it holds over mount and pid namespaces and ends with its holder. Who may
only read a directory can lock it as well; such a lock is nobody's that could write there, and does not count.
Source: overlayfs' "upperdir is in-use by another mount" (fs/overlayfs/super.c), which is a refusal here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from unionfs.branches.branch import OpenBranch
from unionfs.errors import UserError
from unionfs.live import registry

log = logging.getLogger(__name__)

# Seconds that a mount waits for a union that has been unmounted and flushes its pseudo-links, and for one of which nothing is
# known: it may begin, end, or be a container's.
_PATIENCE_ENDING, _PATIENCE_UNKNOWN = 60.0, 10.0
_PATIENCE_STRANGER = (
    5.0  # a server that ends is a stranger for a moment, as is one to which a lock was handed
)
_SAY_AFTER = 2.0
_STEP = 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has locked a directory: `pid` (0 if it is not seen from here), its union's mount point if known, whether that lives."""

    pid: int
    mountpoint: str | None = None
    mounted: bool = False

    def __str__(self) -> str:
        process = f"pid {self.pid}" if self.pid else "in another pid namespace"
        if self.mountpoint is None:
            return f"another union or container ({process})"
        return f"the union at {self.mountpoint} ({process})"


class BranchLocks:
    """The locks of one union's writable branches, by the branch's id; owns their descriptors.

    `held` is a descriptor of a directory that the caller has locked already and keeps.
    """

    def __init__(self, held: int = -1) -> None:
        self._given = held
        self._held: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._shared: set[int] = set()

    def take(self, branch: OpenBranch, *, share: bool = False, wait: bool = True) -> None:
        """Lock a branch; EBUSY if another live union has it, unless it is to be `share`d (it is not ours alone then).

        With `wait` False (a server must not wait, perhaps for itself) one that is just ending is EBUSY too.
        """
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=branch.root)
        try:
            given = self._given >= 0 and os.path.samestat(os.fstat(fd), os.fstat(self._given))
            alone = given or acquire(fd, branch.path, share=share, wait=wait)
            if not alone:
                _share_later(fd)
        except BaseException:
            os.close(fd)
            raise
        self._held[branch.id] = fd
        if not share:
            self._since[branch.id] = time.time_ns()
        if not alone:
            self._shared.add(branch.id)

    def is_alone(self, branch: OpenBranch) -> bool:
        """Tell whether no other union wrote to the branch when it was locked, so that what lies there is nobody else's."""
        return branch.id not in self._shared

    def alone_since(self, branch: OpenBranch) -> int:
        """Return the time (in ns) since when all stages in the branch are this union's; 0: it is not locked, or shared."""
        return self._since.get(branch.id, 0)

    def drop(self, branch: OpenBranch) -> None:
        """Unlock a branch that goes or becomes read-only."""
        fd = self._held.pop(branch.id, -1)
        self._since.pop(branch.id, None)
        self._shared.discard(branch.id)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Unlock all."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()


def _share_later(fd: int) -> None:
    """Share the lock as soon as who has it alone gives it up, so that after that nobody else gets it alone.

    Nothing but a call that waits is told when that is. Without a thread for it the branch stays unlocked.
    """
    own = os.dup(fd)  # with the same lock, which lasts as long as one of the two is open

    def wait() -> None:
        try:
            fcntl.flock(own, fcntl.LOCK_SH)
        finally:
            os.close(own)

    try:
        threading.Thread(target=wait, name="branch lock", daemon=True).start()
    except RuntimeError:
        os.close(own)
        log.warning("no thread can be started: a shared branch is not locked")


def acquire(
    fd: int, path: str, *, share: bool = False, wait: bool = True, patience: float = _PATIENCE_UNKNOWN
) -> bool:
    """Lock the open directory `path` for the life of `fd`; tell whether nobody else has it, True but for a shared one.

    Waits for a union that was unmounted and still writes, and for `patience` seconds for one of which nothing is known. EBUSY.
    """
    begin = time.monotonic()
    said = False
    while True:
        try:
            if _try(fd, share=share):
                return True
        except OSError as error:
            log.debug("%s: the filesystem has no locks: %s", path, error.strerror)
            return True
        holders = find_holders(fd, path)
        waited = time.monotonic() - begin
        if holders == [] and (waited > _PATIENCE_STRANGER or not wait):
            log.warning("%s: locked by somebody who may not write there, which does not count", path)
            return True
        if holders != []:
            holder = holders[0] if holders else Holder(0)
            if holder.mounted or not wait or waited > (_PATIENCE_ENDING if holder.mountpoint else patience):
                if share:
                    return False
                raise OSError(errno.EBUSY, _refusal(holder), path)
            if waited > _SAY_AFTER and not said:
                log.warning("%s: waiting for %s, which still has it", path, holder)
                said = True
        time.sleep(_STEP)


@contextlib.contextmanager
def unused(path: str) -> Iterator[None]:
    """Keep unions from a directory for the length of the block; UserError if one writes to it, or to a directory around it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            acquire(fd, os.path.abspath(path), wait=False)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}", "unmount it first") from None
        around = find_enclosing(path)
        if around is not None:
            raise UserError(f"{path} lies inside a writable branch of {around}", "unmount it first")
        yield
    finally:
        os.close(fd)


def _try(fd: int, *, share: bool) -> bool:
    """Take the lock if it is free; True if it was. A shared one lets others in that share too, but nobody else."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if share:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    if share:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return True


def _refusal(holder: Holder) -> str:
    if holder.mounted or holder.mountpoint is None:
        return f"it is a writable branch of {holder}"
    return f"the server of {holder} still writes to it, although that is unmounted"


def find_holders(fd: int, path: str) -> list[Holder] | None:
    """Return who has locked the open directory `path` and could write to it, best known first; None if nobody is to be seen."""
    status = os.fstat(fd)
    pids = _lockers().get(status.st_ino, [])
    here = [pid for device, pid in pids if device == _device(status)] or [pid for _, pid in pids]
    if not here:
        return None
    found = [_holder(pid, path) for pid in here if _may_write(pid, status)]
    return sorted(found, key=lambda holder: (not holder.mounted, holder.mountpoint is None))


def find_enclosing(path: str) -> Holder | None:
    """Return the live union that has a directory above `path` as a writable branch, None if there is none to be seen."""
    lockers = _lockers()
    directory = os.path.realpath(path)
    while lockers and directory != "/":
        directory = os.path.dirname(directory)
        with contextlib.suppress(OSError):
            for _, pid in lockers.get(os.stat(directory).st_ino, []):
                served = registry.of_process(pid, directory)
                if served is not None and served.mounted and served.has_branch:
                    return Holder(pid, served.mountpoint, True)
    return None


def _lockers() -> dict[int, list[tuple[str, int]]]:
    """Return the kernel's table of flocks that are held: (device, process) by inode number.

    Btrfs has other devices there than in stat, so the number decides where no device fits.
    """
    found: dict[int, list[tuple[str, int]]] = {}
    with open("/proc/locks", encoding="ascii", errors="replace") as table:
        for line in table:
            words = line.split()
            if len(words) >= 6 and words[1] == "FLOCK":  # one that waits has "->" there
                device, _, number = words[5].rpartition(":")
                found.setdefault(int(number), []).append((device, int(words[4])))
    return found


def _device(status: os.stat_result) -> str:
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"


def _may_write(pid: int, status: os.stat_result) -> bool:
    """Tell whether a process could have the directory as a writable branch; who has ended holds nothing by himself."""
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
            # The real id: a set-user-ID program can be made to inherit a lock.
            real = next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))
    except (OSError, StopIteration):
        return _is_hidden(pid)
    return real in (0, os.geteuid(), status.st_uid)


def _is_hidden(pid: int) -> bool:
    """Tell whether a process is there although /proc does not show it to us (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _holder(pid: int, path: str) -> Holder:
    served = registry.of_process(pid, path)
    if served is not None:
        return Holder(pid, served.mountpoint, served.mounted)
    return Holder(pid, mounted=pid == os.getpid())  # of two unions of this server neither is seen yet
