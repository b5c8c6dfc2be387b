# SPDX-License-Identifier: Apache-2.0
"""An unprivileged user with namespaces of its own, as rootless container engines have them: there both server and
client of a rootless target run.

A process of that user holds the user and mount namespace. Root in them is an ordinary user outside, with a range of
subordinate ids; /run is its own.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.machine import syscalls
from unionfs.kernel import mount_table
from unionfs.kernel import syscalls as mounts

_UID = 59_000  # nobody's, in the range of ordinary users
_SUBORDINATE = 1_000_000
_RANGE = 65_535


@dataclass(frozen=True, slots=True)
class User:
    """The user and the process that holds its namespaces."""

    uid: int
    holder: int

    def command(self) -> list[str]:
        """Return the words that make a command run in the namespaces as their root."""
        return [
            "nsenter",
            "--target",
            str(self.holder),
            "--user",
            "--mount",
            "--setuid",
            "0",
            "--setgid",
            "0",
            "--",
        ]

    def enter(self) -> None:
        """Move this process into the namespaces, for good; it must have one thread only."""
        kinds = (("user", syscalls.CLONE_NEWUSER), ("mnt", syscalls.CLONE_NEWNS))
        # Both are opened first: inside the one, this process may not look at the other any more.
        opened = [
            (os.open(f"/proc/{self.holder}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
            for name, kind in kinds
        ]
        for fd, kind in opened:
            syscalls.setns(fd, kind)
            os.close(fd)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)

    def has_mounted(self, directory: Path) -> bool:
        """Tell whether something is mounted on a directory in the user's mount namespace."""
        return any(mount.target == str(directory) for mount in mount_table.read(self.holder))

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Have what this process makes in the block belong to the user."""
        os.setegid(self.uid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


@cache
def missing() -> str:
    """Return why there can be no such user here, or nothing."""
    child = os.fork()
    if child == 0:
        try:
            _become_user()
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return (
        "unprivileged users may not make user namespaces here (sysctl user.max_user_namespaces)"
        if status
        else ""
    )


@contextmanager
def user(devices: Path) -> Iterator[User]:
    """Yield the user for the block; must be called in a private mount namespace. `devices` is an absent directory."""
    _offer_fuse(devices)
    up_reading, up_writing = os.pipe()
    down_reading, down_writing = os.pipe()
    holder = os.fork()
    if holder == 0:
        os.close(down_writing)
        _hold(up_writing, down_reading)
    try:
        os.close(up_writing)
        os.close(down_reading)
        _expect(up_reading)
        for name in ("uid", "gid"):
            ids = f"0 {_UID} 1\n1 {_SUBORDINATE} {_RANGE}\n"
            Path(f"/proc/{holder}/{name}_map").write_text(ids)
        os.write(down_writing, b"!")
        _expect(up_reading)
        yield User(_UID, holder)
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(up_reading)
        os.close(down_writing)


def _offer_fuse(devices: Path) -> None:
    """Give every user the FUSE device, as udev does on most systems, in our mount namespace only."""
    device = Path("/dev/fuse")
    if not device.exists() or device.stat().st_mode & stat.S_IWOTH:
        return
    devices.mkdir()
    mounts.mount("tmpfs", str(devices), "tmpfs", 0, "mode=0755")
    own = devices / "fuse"
    os.mknod(own, stat.S_IFCHR, device.stat().st_rdev)
    own.chmod(0o666)
    mounts.mount(str(own), str(device), None, mounts.MS_BIND)


def _become_user() -> None:
    os.setgroups([])
    os.setresgid(_UID, _UID, _UID)
    os.setresuid(_UID, _UID, _UID)
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)


def _hold(up: int, down: int) -> None:
    """Make the namespaces and keep them until this process is killed or its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _become_user()
        syscalls.set_parent_death_signal(signal.SIGKILL)  # only now, as a change of user clears it
        os.write(up, b"!")
        os.read(down, 1)  # the id maps are written
        mounts.mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
        os.write(up, b"!")
        os.read(down, 1)
    finally:
        os._exit(0)


def _expect(reading: int) -> None:
    if not os.read(reading, 1):
        raise OSError("the unprivileged user's namespaces could not be made")


def privileged(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that has `function` called by a process which keeps today's privileges.

    That process ends with the last holder of the pipe to it.
    """
    ask_reading, ask_writing = os.pipe()
    done_reading, done_writing = os.pipe()
    if os.fork() == 0:
        os.close(ask_writing)
        while os.read(ask_reading, 1):
            function()
            os.write(done_writing, b"!")
        os._exit(0)
    os.close(ask_reading)
    os.close(done_writing)

    def ask() -> None:
        os.write(ask_writing, b"!")
        _expect(done_reading)

    return ask
