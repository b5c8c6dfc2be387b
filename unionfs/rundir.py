# SPDX-License-Identifier: Apache-2.0
"""The run-time directory of a mount, `si_<id>`: AUFS' sysfs files and the control socket.

Its `dev` file holds the mount's major:minor, by which clients find it from a mount point even if the server is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import select
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from unionfs import mount_table
from unionfs.branch import OpenBranch
from unionfs.errors import UserError

SOCKET = "control"
_SHARED = Path("/run/unionfs")


def base() -> Path:
    """Return the directory that holds the si_<id> directories of this user."""
    if _is_root():
        return _SHARED
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/unionfs-{_outer_uid()}") / "unionfs"


def _is_root() -> bool:
    """Tell whether this is the machine's root, or a container's with a /run of its own; not that of a bare user namespace."""
    return os.geteuid() == 0 and os.access(_SHARED if _SHARED.exists() else _SHARED.parent, os.W_OK)


def _outer_uid() -> int:
    """Return this user's number outside of the user namespace where it is root."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path("/proc/self/uid_map").read_text().split()[1])
    return os.geteuid()


def escape(path: str) -> str:
    """Return a path as AUFS prints it: control characters, space, backslash and DEL in octal."""
    return "".join(f"\\{ord(c):03o}" if ord(c) <= 32 or c in "\\\x7f" else c for c in path)


def unescape(text: str) -> str:
    """Return what `escape` was given."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _make_base(parent: Path) -> None:
    """Make the directory above the si_<id> ones; UserError if it is not ours alone, as /tmp is everybody's."""
    if parent == _SHARED:
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    for directory in (parent.parent, parent):
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise UserError(
                f"{directory} is not a directory of this user alone", "remove it, or set XDG_RUNTIME_DIR"
            )


class RunDirectory:
    """One mount's directory; a context manager that removes it."""

    def __init__(self) -> None:
        parent = base()
        _make_base(parent)
        sweep(parent)
        self.id = secrets.token_hex(8)
        self.path = parent / f"si_{self.id}"
        # Locked before it has its name: a lock, unlike a pid, is seen from every pid namespace.
        unnamed = parent / f".si_{self.id}"
        unnamed.mkdir(mode=0o755)
        self._lock = os.open(unnamed, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(self.path)
        self.write("pid", f"{os.getpid()}\n")

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    @property
    def socket(self) -> Path:
        """Return the control socket's path."""
        return self.path / SOCKET

    def write(self, name: str, text: str) -> None:
        """Write a file by rename, so that readers see the old or the new one."""
        temporary = self.path / f".{name}"
        temporary.write_bytes(os.fsencode(text))
        temporary.chmod(0o444)
        temporary.rename(self.path / name)

    def show_branches(self, branches: Sequence[OpenBranch], xino: str) -> None:
        """Write br<N>, brid<N> and xi_path as in AUFS' sysfs."""
        for index, branch in enumerate(branches):
            path, _, permission = str(branch).rpartition("=")
            self.write(f"br{index}", f"{escape(path)}={permission}\n")
            self.write(f"brid{index}", f"{branch.id}\n")
        for file in self.path.glob("br[i0-9]*"):
            number = file.name.removeprefix("brid").removeprefix("br")
            if number.isdigit() and int(number) >= len(branches):
                file.unlink()
        self.write("xi_path", f"{xino}\n" if xino else "\n")

    def show_device(self, mountpoint: str, device: int) -> None:
        """Record which device number the mount has."""
        self.write("dev", f"{os.major(device)}:{os.minor(device)}\n")
        self.write("mountpoint", f"{escape(mountpoint)}\n")


def wait_for_end(directory: int, pid: int, seconds: float = 10) -> None:
    """Wait until the mount's branches are closed: its directory (open as `directory`) is unlocked, or its process has ended."""
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            for _ in range(int(seconds * 100)):
                if _is_unlocked(directory) or select.select([process], [], [], 0.01)[0]:
                    return
        finally:
            os.close(process)


def _is_unlocked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep(parent: Path) -> None:
    """Remove directories of servers that were killed: nobody holds their lock."""
    for directory in parent.glob("si_*"):
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(fd)


def find(path: str) -> Path:
    """Return the si_<id> directory of the union that is mounted at (or holds) `path`; UserError if there is none.

    The mount is found in the mount table, so that a dead or hung server is not asked.
    """
    mounted = mount_table.containing(mount_table.canonical(path))
    if mounted is not None and mounted.fstype.startswith("fuse"):
        for directory in _candidates():
            with contextlib.suppress(OSError):
                if (directory / "dev").read_text().strip() == mounted.device and _answers(directory):
                    return directory
        if mounted.is_union and mounted.fstype != "fuse":
            raise UserError(
                f"{path}: the server of this union does not answer",
                f"run: unionfs umount --lazy {mounted.target}",
            )
    raise UserError(f"{path} is not on a union mounted by unionfs", "see: findmnt -t fuse.unionfs")


def _candidates() -> Iterator[Path]:
    yield from base().glob("si_*")
    if os.geteuid() == 0:  # root may ask the servers of users
        yield from Path("/run/user").glob("*/unionfs/si_*")
        yield from Path("/tmp").glob("unionfs-*/unionfs/si_*")


def _answers(directory: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(str(directory / SOCKET))
        return True
    return False


def user_of(path: str) -> str | None:
    """Return the mount point of a live union that has a branch at or above `path`, or None."""
    real = os.path.realpath(path)
    for directory in _candidates():
        if not _answers(directory):
            continue
        for file in directory.glob("br[0-9]*"):
            with contextlib.suppress(OSError):
                branch = unescape(os.fsdecode(file.read_bytes()).rstrip("\n").rpartition("=")[0])
                branch = os.path.realpath(branch)
                if real == branch or real.startswith(branch.rstrip("/") + "/"):
                    return unescape(os.fsdecode((directory / "mountpoint").read_bytes()).rstrip("\n"))
    return None
