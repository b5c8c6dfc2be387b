# SPDX-License-Identifier: Apache-2.0
"""One client of the soak: random operations in a room of its own, and looks into the rooms of the others."""

import errno
import mmap
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOWER_FILES = 300  # of each room, in the lower branch
MAPPED = "mapped"  # likewise, for each room's own client alone
NEW_NAMES = 100
SLOTS = 8
BURST = 4  # reads or writes through one descriptor in a row
# What races between clients, and direct changes of a branch, may answer. Anything else ends the soak.
EXPECTED = frozenset({errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ESTALE, errno.ENODATA, errno.EINVAL})

Shared = Any  # an array of numbers that the processes share; ctypes' arrays have no type that says so


class Client:
    """Works in `root/room<number>`; `top` is the writable branch, where it sometimes takes copies away directly."""

    def __init__(self, root: Path, top: Path, number: int, clients: int) -> None:
        self._root = str(root)
        self._top = f"{top}/room{number}"
        self._room = f"{root}/room{number}"
        self._clients = clients
        self._random = random.Random(number)
        self._open: list[int | None] = [None] * SLOTS
        self.errors: Counter[str] = Counter()

    def run(self, counts: Shared, slot: int, stop: Shared) -> None:
        """Work until `stop[0]` is set; `counts[slot]` tells how many operations were done."""
        weighted: list[tuple[int, Callable[[], int]]] = [
            (12, self._use), (6, self._open_slot), (10, self._stat), (6, self._read), (5, self._create),
            (4, self._append), (3, self._unlink), (3, self._rename), (2, self._link), (1, self._truncate),
            (1, self._chmod), (1, self._xattr), (1, self._directory), (1, self._list), (1, self._map),
            (2, self._uncover),
        ]  # fmt: skip
        menu = [work for weight, work in weighted for _ in range(weight)]
        choose = self._random.choice
        while not stop[0]:
            try:
                counts[slot] += choose(menu)()
            except OSError as error:
                counts[slot] += 1
                self.errors[errno.errorcode[error.errno or 0]] += 1
                if error.errno not in EXPECTED:
                    raise
        for fd in filter(None, self._open):
            os.close(fd)

    def _lower(self) -> str:
        return f"f{self._random.randrange(LOWER_FILES)}"

    def _new(self) -> str:
        return f"{self._room}/n{self._random.randrange(NEW_NAMES)}"

    def _any(self) -> str:
        """A file of this room, or of another one now and then."""
        if self._random.random() < 0.2:
            return f"{self._root}/room{self._random.randrange(self._clients)}/{self._lower()}"
        return self._new() if self._random.random() < 0.5 else f"{self._room}/{self._lower()}"

    def _open_slot(self) -> int:
        slot = self._random.randrange(SLOTS)
        done = 1
        old, self._open[slot] = self._open[slot], None
        if old is not None:
            os.close(old)
            done += 1
        flags = self._random.choice((os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND))
        self._open[slot] = os.open(self._any(), flags)
        return done

    def _use(self) -> int:
        fd = self._random.choice(self._open)
        if fd is None:
            return 0
        offset = self._random.randrange(8192)
        for _ in range(BURST):
            os.pread(fd, 4096, offset)
        try:
            if os.fstat(fd).st_size < 65536:
                os.pwrite(fd, b"soak" * 64, offset)
        except OSError as error:
            if error.errno != errno.EBADF:  # opened for reading
                raise
        return BURST + 2

    def _stat(self) -> int:
        os.stat(self._any())
        return 1

    def _read(self) -> int:
        fd = os.open(self._any(), os.O_RDONLY)
        os.read(fd, 65536)
        os.close(fd)
        return 3

    def _create(self) -> int:
        fd = os.open(self._new(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, b"new" * self._random.randrange(2000))
        os.close(fd)
        return 3

    def _append(self) -> int:
        fd = os.open(self._any(), os.O_WRONLY | os.O_APPEND)
        if os.fstat(fd).st_size < 65536:
            os.write(fd, b"more")
        os.close(fd)
        return 4

    def _unlink(self) -> int:
        os.unlink(self._any())
        return 1

    def _rename(self) -> int:
        os.rename(self._any(), self._new())
        return 1

    def _link(self) -> int:
        os.link(self._any(), self._new())
        return 1

    def _truncate(self) -> int:
        os.truncate(self._any(), self._random.randrange(8192))
        return 1

    def _chmod(self) -> int:
        os.chmod(self._any(), self._random.choice((0o600, 0o644)))
        return 1

    def _xattr(self) -> int:
        path = self._any()
        os.setxattr(path, "user.soak", b"x")
        os.removexattr(path, "user.soak")
        return 2

    def _directory(self) -> int:
        path = f"{self._room}/d"
        os.mkdir(path)
        os.mkdir(f"{path}/e")
        os.rename(f"{path}/e", f"{path}/g")
        os.rmdir(f"{path}/g")
        os.rmdir(path)
        return 5

    def _list(self) -> int:
        os.listdir(self._room)
        return 1

    def _map(self) -> int:
        # Not of a file that others use: one that is truncated just then ends whoever writes through a mapping (SIGBUS).
        fd = os.open(f"{self._room}/{MAPPED}", os.O_RDWR)
        try:
            if os.fstat(fd).st_size:
                with mmap.mmap(fd, 0) as shared:
                    shared[0:1] = b"m"
                    shared.flush()
        finally:
            os.close(fd)
        return 4

    def _uncover(self) -> int:
        """Take copies and whiteouts of lower files away directly: so there is something to copy up for ever."""
        for name in (MAPPED, *(self._lower() for _ in range(BURST))):
            for path in (f"{self._top}/{name}", f"{self._top}/.wh.{name}"):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
        return 1
