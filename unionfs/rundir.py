# SPDX-License-Identifier: Apache-2.0
"""The run-time directory of a mount, `si_<id>`: AUFS' sysfs files and the control socket.

Its `dev` file holds the mount's major:minor, by which clients find it from a mount point even if the server is dead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from unionfs import mount_table
from unionfs.branch import OpenBranch
from unionfs.errors import UserError

SOCKET = "control"


def base() -> Path:
    """Return the directory that holds the si_<id> directories of this user."""
    if os.geteuid() == 0:
        return Path("/run/unionfs")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/unionfs-{os.geteuid()}") / "unionfs"


def escape(path: str) -> str:
    """Return a path as AUFS prints it: control characters, space, backslash and DEL in octal."""
    return "".join(f"\\{ord(c):03o}" if ord(c) <= 32 or c in "\\\x7f" else c for c in path)


class RunDirectory:
    """One mount's directory; a context manager that removes it."""

    def __init__(self) -> None:
        parent = base()
        parent.mkdir(mode=0o700 if os.geteuid() else 0o755, parents=True, exist_ok=True)
        sweep(parent)
        self.id = secrets.token_hex(8)
        self.path = parent / f"si_{self.id}"
        self.path.mkdir(mode=0o755)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def socket(self) -> Path:
        """Return the control socket's path."""
        return self.path / SOCKET

    def write(self, name: str, text: str) -> None:
        """Write a file by rename, so that readers see the old or the new one."""
        temporary = self.path / f".{name}"
        temporary.write_text(text)
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

    def show_device(self, mountpoint: str) -> None:
        """Record which device number the mount has."""
        device = os.stat(mountpoint).st_dev
        self.write("dev", f"{os.major(device)}:{os.minor(device)}\n")
        self.write("mountpoint", f"{escape(mountpoint)}\n")
        self.write("pid", f"{os.getpid()}\n")


def sweep(parent: Path) -> None:
    """Remove directories of servers that were killed."""
    for directory in parent.glob("si_*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int((directory / "pid").read_text())
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(directory, ignore_errors=True)


def find(mountpoint: str) -> Path:
    """Return the si_<id> directory of the union that is mounted at (or holds) `mountpoint`; UserError if there is none."""
    device = _device_of(mountpoint)
    if device is not None:
        for directory in base().glob("si_*"):
            with contextlib.suppress(OSError):
                if (directory / "dev").read_text().strip() == device and _answers(directory):
                    return directory
    raise UserError(f"{mountpoint} is not on a union mounted by unionfs", "see `mount -t fuse.unionfs`")


def _answers(directory: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(str(directory / SOCKET))
        return True
    return False


def _device_of(mountpoint: str) -> str | None:
    """Return major:minor from the mount table, so that a hung server is not asked."""
    path = mount_table.canonical(mountpoint)
    inside = [
        mount
        for mount in mount_table.read()
        if path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
    ]
    return max(inside, key=lambda mount: (len(mount.target), mount.id)).device if inside else None
