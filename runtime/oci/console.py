# SPDX-License-Identifier: Apache-2.0
"""Terminals of a container: a pair from the container's own devpts, made without resolving a path of the container."""

import errno
import fcntl
import os
import stat
import struct
import termios

from runtime.oci import syscalls

_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
_DEVPTS_MAGIC = 0x1CD1


def open_terminal(window: tuple[int, int] | None) -> tuple[int, int]:
    """Return (master, slave) of a new terminal from /dev/pts, of `window` (rows, columns).

    The slave comes from the master by ioctl, and both are checked to be what they claim (CVE-2025-52565).
    """
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(master)
        if syscalls.filesystem_magic(master) != _DEVPTS_MAGIC or status.st_rdev != os.makedev(5, 2):
            raise OSError(errno.ENXIO, "is not a terminal multiplexer", "/dev/pts/ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISCHR(os.fstat(slave).st_mode):
            raise OSError(errno.ENXIO, "is not a terminal", "/dev/pts")
        if window is not None:
            set_window(slave, window)
        return master, slave
    except BaseException:
        os.close(master)
        raise


def set_window(fd: int, window: tuple[int, int]) -> None:
    """Set the size of a terminal in rows and columns; the kernel sends SIGWINCH to its foreground group."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *window, 0, 0))


def window_of(fd: int) -> tuple[int, int]:
    """Return the size of a terminal as (rows, columns)."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


def own_window() -> tuple[int, int] | None:
    """Return the size of the terminal that we read from, or else write to; None if there is none."""
    return next((window_of(fd) for fd in (0, 1) if os.isatty(fd)), None)


def adopt(slave: int, owner: int) -> None:
    """Make `slave` the controlling terminal of this session leader and its three standard descriptors."""
    os.fchown(slave, owner, -1)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
