# SPDX-License-Identifier: Apache-2.0
"""Find the run-time directories of live unions, and believe none that somebody else may have planted.

A directory counts if it belongs to root or to whom the mount belongs, and if nobody else could have put it there: every
directory on the way to it is theirs (or root's), and is writable by others only as /tmp is, where names cannot be taken
away. It is walked to and read by descriptors, so that what was checked is what is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from unionfs.errors import UserError
from unionfs.kernel import mount_table

SOCKET = "control"
SHARED = Path("/run/unionfs")
_PATIENCE = 5.0  # seconds for a server that is mounted but has not said so yet
_MOST = 1 << 16  # bytes of one file: a branch's path is the longest thing in there


class NotOurs(UserError):
    """The server answers its owner and root, and this user is neither."""


def bases() -> list[Path]:
    """Return the directories that may hold the si_<id> ones of this user, the first choice first.

    A place may have been planted or be unusable: who looks in it, or puts something there, checks that (`open_trusted`).
    """
    places = [SHARED] if _is_root() else []
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        places.append(Path(given) / "unionfs")
    places.append(Path(f"/tmp/unionfs-{_outer_uid()}/unionfs"))
    return places


def _is_root() -> bool:
    """Tell whether this is the machine's root, or a container's with a /run of its own; not that of a bare user namespace."""
    return os.geteuid() == 0 and os.access(SHARED if SHARED.exists() else SHARED.parent, os.W_OK)


def _outer_uid() -> int:
    """Return this user's number outside of the user namespace where it is root."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path("/proc/self/uid_map").read_text().split()[1])
    return os.geteuid()


def bases_of(uid: int) -> list[Path]:
    """Return where unions of `uid` may have their run-time directories."""
    users = [Path(f"/run/user/{uid}/unionfs"), Path(f"/tmp/unionfs-{uid}/unionfs")]
    return list(dict.fromkeys([*bases(), SHARED, *users]))


@dataclass(slots=True)
class Entry:
    """One run-time directory, held by a descriptor; a context manager that closes it."""

    path: Path
    fd: int

    def __enter__(self) -> Entry:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def read(self, name: str) -> str:
        """Return the text of one file without its line end; "" where it is missing or no regular file."""
        try:
            # O_NONBLOCK: a FIFO would keep us waiting.
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return ""
        try:
            return os.fsdecode(os.read(file, _MOST)).rstrip("\n")
        except OSError:
            return ""
        finally:
            os.close(file)

    @property
    def pid(self) -> int:
        """Return the server's process, 0 if that is not known."""
        text = self.read("pid")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    def connect(self, connection: socket.socket) -> None:
        """Connect to the server's control socket; OSError if nobody answers there, or not to us (EACCES)."""
        connection.connect(f"/proc/self/fd/{self.fd}/{SOCKET}")


def open_trusted(path: Path, owner: int) -> int:
    """Open a directory of `owner`, or of root, that nobody else could have put in its place; PermissionError if one could.

    What is not theirs is never followed, a symbolic link neither.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    # Links on the way to where such directories always are, such as /tmp, are the administrator's.
    anchor = Path(os.path.realpath(path.parent.parent)) / path.parent.name / path.name
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, name in enumerate(anchor.parts[1:], 1):
            last = depth == len(anchor.parts) - 1
            below = os.open(name, flags if last else flags | os.O_PATH, dir_fd=fd)
            os.close(fd)
            fd = below
            _check(os.fstat(fd), owner, anchor, on_the_way=depth < len(anchor.parts) - 2)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_owned(path: Path, owner: int) -> None:
    """Raise PermissionError unless a directory is the owner's, or root's, and nobody else may write it."""
    _check(os.lstat(path), owner, path, on_the_way=False)


def _check(status: os.stat_result, owner: int, path: Path, *, on_the_way: bool) -> None:
    """Raise PermissionError for a directory that is neither the owner's nor root's, or that others may write.

    `on_the_way`: others may write it if names are safe there, and in a user namespace root may be nobody.
    """
    shared = on_the_way and status.st_mode & stat.S_ISVTX
    theirs = status.st_uid in (0, owner) or (on_the_way and status.st_uid == _nobody())
    if not theirs or (status.st_mode & 0o022 and not shared):
        raise PermissionError(errno.EPERM, "others than its owner and root may change it", str(path))


def _nobody() -> int:
    """Return the number that owners from outside of this user namespace have; -1 outside of one."""
    with contextlib.suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
            return int(Path("/proc/sys/kernel/overflowuid").read_text())
    return -1


def entries(parent: Path, owner: int) -> Iterator[Entry]:
    """Yield the run-time directories in `parent` that are believed, each open until the next one is asked for."""
    try:
        directory = open_trusted(parent, owner)
    except OSError:
        return
    try:
        for name in sorted(os.listdir(directory)):
            if name.startswith("si_"):
                yield from _entry(parent / name, directory, owner)
    finally:
        os.close(directory)


def _entry(path: Path, directory: int, owner: int) -> Iterator[Entry]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path.name, flags, dir_fd=directory)
    except OSError:
        return
    with Entry(path, fd) as entry:
        try:
            _check(os.fstat(fd), owner, path, on_the_way=False)
        except PermissionError:
            return
        yield entry


def find(path: str) -> Entry:
    """Return the run-time directory of the union that is mounted at (or holds) `path`, to be closed by the caller.

    The mount is found in the mount table, so that a dead or hung server is not asked. UserError if there is none, if its
    server is dead, or if it does not answer to this user.
    """
    mounted = mount_table.containing(mount_table.canonical(path))
    if mounted is not None and mounted.fstype.startswith("fuse"):
        end = time.monotonic() + _PATIENCE
        while True:
            found, begins = _find(mounted)
            if found is not None:
                return found
            if not begins or time.monotonic() > end:
                break
            time.sleep(0.02)
        if mounted.is_union and mounted.fstype != "fuse":
            raise _unanswered(path, mounted)
    raise UserError(f"{path} is not on a union mounted by unionfs", "see: findmnt -t fuse.unionfs")


def _find(mounted: mount_table.Mount) -> tuple[Entry | None, bool]:
    """Return the mount's directory, and whether it may be one of those that do not say yet whose they are."""
    begins = False
    for parent in bases_of(mounted.user):
        for entry in entries(parent, mounted.user):
            device = entry.read("dev")
            if device == mounted.device and _answers(entry, mounted.target):
                return Entry(entry.path, os.dup(entry.fd)), False
            begins = begins or (not device and not is_unlocked(entry.fd))
    return None, begins


def _unanswered(path: str, mounted: mount_table.Mount) -> UserError:
    if os.geteuid() not in (0, mounted.user):
        return NotOurs(f"{path}: the server of this union is another user's", "ask as that user, or as root")
    return UserError(
        f"{path}: the server of this union does not answer", f"run: unionfs umount --lazy {mounted.target}"
    )


def _answers(entry: Entry, target: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            entry.connect(probe)
        except BlockingIOError:
            return True  # more wait for it than it has answered: it is stopped, or very busy
        except PermissionError:
            raise NotOurs(
                f"{target}: the server of this union does not answer to this user",
                "ask as the user who mounted it, or as root",
            ) from None
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Served:
    """A union that a process serves: its mount point, whether that is mounted still, whether `path` is a branch of it."""

    mountpoint: str
    mounted: bool
    has_branch: bool


def of_process(pid: int, path: str) -> Served | None:
    """Return the union with the branch `path` that process `pid` serves, else any that it serves; None if none is known."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    found = None
    for parent in bases_of(owner):
        for entry in entries(parent, owner):
            if entry.pid == pid and (place := mount_table.decode(entry.read("mountpoint"))):
                has_branch = path in branches_of(entry)
                found = Served(place, _is_mounted(pid, entry.read("dev")), has_branch)
                if has_branch:
                    return found
    return found


def _is_mounted(pid: int, device: str) -> bool:
    """Tell whether the mount is in the namespace of its server, where it was mounted, or in ours."""
    for whose in (pid, "self"):
        with contextlib.suppress(OSError):
            if any(mount.device == device for mount in mount_table.read(whose)):
                return True
    return False


def branches_of(entry: Entry) -> Iterator[str]:
    """Yield the directories of a union's branches, top first."""
    index = 0
    while text := entry.read(f"br{index}"):
        yield mount_table.decode(text.rpartition("=")[0])
        index += 1


_SWEEP_TRIES = 30  # 10 ms each


def user_of(path: str) -> str | None:
    """Return the mount point of a live union of root's or of this user's that has a branch at or above `path`, or None."""
    real = os.path.realpath(path)
    owner = os.geteuid()
    for parent in dict.fromkeys((*bases(), SHARED)):
        for entry in entries(parent, owner):
            if is_unlocked(entry.fd):
                continue
            for branch in map(os.path.realpath, branches_of(entry)):
                is_in = real == branch or real.startswith(branch.rstrip("/") + "/")
                if is_in and _is_held(entry.fd):
                    return mount_table.decode(entry.read("mountpoint"))
    return None


def _is_held(directory: int) -> bool:
    """Tell whether a server holds a run-time directory, and not just another one that removes it as a dead server's."""
    for _ in range(_SWEEP_TRIES):
        if is_unlocked(directory):
            return False
        time.sleep(0.01)
    return True


def wait_for_end(directory: int, pid: int, seconds: float = 10) -> None:
    """Wait until the mount's branches are closed: its directory (open as `directory`) is unlocked, or its process has ended."""
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            for _ in range(int(seconds * 100)):
                if is_unlocked(directory) or select.select([process], [], [], 0.01)[0]:
                    return
        finally:
            os.close(process)


def is_unlocked(directory: int) -> bool:
    """Tell whether no server holds its run-time directory, open as `directory`, any more."""
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(directory, fcntl.LOCK_UN)
    return True
