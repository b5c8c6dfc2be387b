# SPDX-License-Identifier: Apache-2.0
"""Who gets the server's last descriptors: names and listings, rather than one more open file of a client.

What clients keep open is counted, for all unions of the process, as its limit is. Above their share there is a reserve for what
is open for the length of an operation, or can be closed at any time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator

_LEAST, _MOST = 64, 1024  # of a reserve; never more than half of all
_SPARES = 4
_MOST_ORIGINS = 4096  # each keeps an inode in memory
_MOST_OF_ALL = 1 << 20
# Of a server itself: standard streams, log, device, event loop, control socket, spares. Of a branch: its root, its lock.
_OWN, _OF_BRANCH = 24, 2


def raise_limit() -> None:
    """Let this process, which is to be a server, open as many files as it may: it opens those of all its clients.

    The hard limit is a client's, too. Root has it raised, as with a kernel's filesystem there would be none; who wants a server
    to keep to it takes CAP_SYS_RESOURCE from it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(_MOST_OF_ALL, _most_of_a_process())
    if 0 <= hard < most and _set_limit(most, most):
        return
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if 0 <= soft < wanted:
        _set_limit(wanted, hard)


def _set_limit(soft: int, hard: int) -> bool:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (ValueError, OSError):
        return False
    return True


def _most_of_a_process() -> int:
    try:
        with open("/proc/sys/fs/nr_open", encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return _MOST_OF_ALL


class Room:
    """How many descriptors are held for clients, and how many may be."""

    def __init__(self) -> None:
        self.held = 0
        self.set_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def set_limit(self, limit: int) -> None:
        """Share out so many descriptors."""
        reserve = min(limit // 2, max(_LEAST, min(limit // 4, _MOST)))
        self._files = limit - reserve
        self._removed = limit - reserve * 3 // 4
        self._directories = limit - reserve // 2
        self._caches = limit - reserve // 4

    def begin(self, branches: int) -> int:
        """Count what a union with so many branches has open by itself; return what is to be taken off `held` at its end."""
        self.set_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        own = _OWN + _OF_BRANCH * branches
        self.held += own
        return own

    def check_file(self) -> None:
        """Raise ENFILE if one more open file would be too much; to be called before anything is done."""
        if self.held >= self._files:
            raise _exhausted()

    def check_removed(self) -> None:
        """Raise ENFILE if removing one more open file would be too much: it is held by one more descriptor."""
        if self.held >= self._removed:
            raise _exhausted()

    def check_directory(self) -> None:
        """Raise ENFILE if one more open directory would be too much."""
        if self.held >= self._directories:
            raise _exhausted()

    def may_hold_origin(self, held: int) -> bool:
        """Tell whether a union that holds so many lower files, of which it has copies, may hold one more."""
        return held < min(_MOST_ORIGINS, self._files // 4) and self.held < self._files

    @property
    def for_caches(self) -> int:
        """Return how many descriptors are left for what is only kept for speed."""
        return self._caches - self.held


def _exhausted() -> OSError:
    return OSError(errno.ENFILE, os.strerror(errno.ENFILE))


class Spares:
    """Descriptors that are kept to be closed when an operation that found none is to be undone."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._lock = threading.Lock()  # threads tidy up too

    def stock(self) -> None:
        """Open as many as are missing, if that is possible."""
        with self._lock, contextlib.suppress(OSError):
            while len(self._fds) < _SPARES:
                self._fds.append(os.open("/", os.O_PATH | os.O_CLOEXEC))

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Have so many descriptors more in the block."""
        with self._lock:
            fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        try:
            yield
        finally:
            self.stock()


# The process's.
room = Room()
spares = Spares()


def is_exhausted(error: OSError) -> bool:
    """Tell whether an operation found no descriptor of ours."""
    return error.errno == errno.EMFILE
