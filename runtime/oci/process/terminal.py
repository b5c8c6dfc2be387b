# SPDX-License-Identifier: Apache-2.0
"""The terminal of a container and the socket over which its other end is handed to the caller.

Imported only for a process with a terminal, by the parent, before imports are forbidden.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from runtime.oci import console
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.rootfs import resolve
from runtime.oci.rootfs import syscalls as mounts

_TIOCGPTN = 0x80045430
_LONGEST_PAYLOAD = 256


def connect(path: str) -> int:
    """Return a descriptor connected to the console socket at `path`; called by the parent, before the fork."""
    directory, name = os.path.split(path)
    try:
        # An address has 108 bytes; a path may have more.
        parent = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            connection.connect(f"/proc/self/fd/{parent}/{name}" if len(path) > 100 else path)
        finally:
            os.close(parent)
    except OSError as error:
        raise Failure(f"cannot connect to console socket {path}: {_reason(error)}") from None
    return connection.detach()


def _reason(error: OSError) -> str:
    error.filename = None
    return describe(error)


def pair() -> tuple[int, int]:
    """Return two connected sockets for a caller that keeps the terminal itself: (for `receive`, for `attach`)."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    return ours.detach(), theirs.detach()


def receive(descriptor: int) -> int | None:
    """Wait for a terminal sent by `attach` and return it; None if the other end has gone without sending one."""
    connection = _socket.socket(fileno=descriptor)
    try:
        data, controls, _, _ = connection.recvmsg(
            _LONGEST_PAYLOAD, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
        )
    finally:
        connection.detach()
    if not data:
        return None
    for level, kind, content in controls:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int(struct.unpack("=i", content[:4])[0])
    return None


def send(descriptor: int, text: bytes, passed: int) -> None:
    """Send the descriptor `passed` with `text` over the socket `descriptor`."""
    connection = _socket.socket(fileno=descriptor)
    try:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", passed))
        connection.sendmsg([text], [rights])
    finally:
        connection.detach()


def send_pidfd(path: str, pid: int) -> None:
    """Send a pidfd of the process `pid` to the socket at `path`, as a terminal is sent."""
    pidfd = os.pidfd_open(pid)
    connection = connect(path)
    with Step("send the pidfd"):
        send(connection, b"pidfd", pidfd)
    os.close(connection)
    os.close(pidfd)


def attach(descriptor: int, window: tuple[int, int] | None, owner: int, *, console_device: bool) -> None:
    """Make a terminal of the container's devpts this session leader's, and send its master over the socket `descriptor`.

    Called by the child in its new root. `console_device` binds it over /dev/console too: a container's first process.
    """
    with Step(
        "cannot make a terminal", "mount devpts on /dev/pts with the options newinstance,ptmxmode=0666"
    ):
        master, slave = console.open_terminal(window)
    number = struct.unpack("=I", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
    if console_device:
        with Step("cannot bind the terminal on /dev/console"):
            _bind_console(slave)
    with Step("cannot send the terminal to the console socket"):
        send(descriptor, b"/dev/pts/%d" % number, master)
    os.close(master)
    with Step("cannot make the terminal the controlling one"):
        console.adopt(slave, owner)
    os.close(slave)


def _bind_console(slave: int) -> None:
    """Show the terminal as /dev/console: from descriptor to descriptor, so that no link leads elsewhere (CVE-2025-52565)."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target = resolve.make_file(root, "dev/console", links=False)
    finally:
        os.close(root)
    copy = mounts.open_tree("", dir_fd=slave)
    mounts.move_mount(copy, target)
    os.close(copy)
    os.close(target)
