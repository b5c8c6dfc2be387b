# SPDX-License-Identifier: Apache-2.0
"""The run-time directory of a mount, `si_<id>`: AUFS' sysfs files and the control socket.

Its `dev` file holds the mount's major:minor, by which clients find it from a mount point even if the server is dead
(`registry`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from unionfs.branches.branch import OpenBranch
from unionfs.errors import UserError
from unionfs.live import registry


def escape(path: str) -> str:
    """Return a path as AUFS prints it: control characters, space, backslash and DEL in octal."""
    return "".join(f"\\{ord(c):03o}" if ord(c) <= 32 or c in "\\\x7f" else c for c in path)


def _make_base() -> Path:
    """Return the directory for the si_<id> ones, made if it is missing: the first place that clients will believe.

    UserError if there is none: others may write to where it would be, as /tmp is everybody's.
    """
    reasons = []
    for parent in registry.bases():
        try:
            _make_trusted(parent)
        except OSError as error:
            reasons.append(f"{error.filename or parent}: {error.strerror}")
        else:
            return parent
    raise UserError(
        f"no place for the run-time directory: {'; '.join(reasons)}",
        "let XDG_RUNTIME_DIR name a directory of this user alone (mode 0700)",
    )


def _make_trusted(parent: Path) -> None:
    """Make a directory for run-time ones where nobody else may write; OSError if clients would not believe it."""
    shared = parent == registry.SHARED
    if not shared:
        parent.parent.mkdir(mode=0o700, exist_ok=True)
    registry.check_owned(parent.parent, os.geteuid())
    parent.mkdir(mode=0o755 if shared else 0o700, exist_ok=True)
    os.close(registry.open_trusted(parent, os.geteuid()))


class RunDirectory:
    """One mount's directory; a context manager that removes it."""

    def __init__(self) -> None:
        parent = _make_base()
        sweep(parent)
        self.id = secrets.token_hex(8)
        self.path = parent / f"si_{self.id}"
        # Locked before it has its name: a lock, unlike a pid, is seen from every pid namespace.
        unnamed = parent / f".si_{self.id}"
        unnamed.mkdir(mode=0o700)  # nobody else can lock it first
        self._lock = os.open(unnamed, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.chmod(0o755)
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
        return self.path / registry.SOCKET

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

    def show_device(self, mountpoint: str, device: str) -> None:
        """Record which device number ("major:minor") the mount has."""
        self.write("dev", f"{device}\n")
        self.write("mountpoint", f"{escape(mountpoint)}\n")


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
