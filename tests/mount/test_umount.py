# SPDX-License-Identifier: Apache-2.0
"""`unionfs umount` of a mount that is busy: for a moment, or because somebody uses it."""

import mmap
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.union import Union, Workshop, eventually, is_mounted, program, unionfs

Hold = Callable[[Union], None]  # in a process of its own

_SLEEPS = {"x86_64": "230", "aarch64": "115"}.get(os.uname().machine, "")  # clock_nanosleep


def _file(u: Union) -> None:
    os.open(u / "file", os.O_RDONLY)


def _directory(u: Union) -> None:
    os.chdir(u.mnt)


def _mapping(u: Union) -> None:
    fd = os.open(u / "file", os.O_RDONLY)
    global _mapped
    _mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)


def _root(u: Union) -> None:
    os.chroot(u.mnt)


_mapped: mmap.mmap | None = None


@contextmanager
def _held(u: Union, hold: Hold) -> Iterator[None]:
    """Let another process hold the mount during the block."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            hold(u)
            os.write(ready[1], b"r")
            os.close(go[1])
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        assert os.read(ready[0], 1) == b"r"
        yield
    finally:
        os.close(go[1])
        os.waitpid(pid, 0)
        os.close(ready[0])
        os.close(go[0])


@pytest.mark.parametrize("hold", [_file, _directory, _mapping, _root])
def test_umount_of_a_used_mount_is_busy(union: Workshop, hold: Hold) -> None:
    """A descriptor, a mapping, a working or a root directory there: umount says so, and the mount goes on."""
    u = union.mount(B0={}, B1={"file": b"low"})
    with _held(u, hold):
        done = unionfs("umount", u.mnt, check=False)
        assert (done.returncode, "is busy: a process has" in done.stderr) == (1, True)
        assert (u / "file").read_bytes() == b"low"
    unionfs("umount", u.mnt)
    assert not is_mounted(u.mnt)


def test_umount_of_a_mount_with_one_below_is_busy(union: Workshop) -> None:
    """A mount on a directory of the union keeps it, although no process is there."""
    u = union.mount(B0={}, B1={"d/file": b"low"})
    syscalls.mount("none", str(u / "d"), "tmpfs", 0, "")
    done = unionfs("umount", u.mnt, check=False)
    assert (done.returncode, "is busy" in done.stderr) == (1, True)
    syscalls.umount2(str(u / "d"))
    unionfs("umount", u.mnt)


@pytest.mark.skipif(not _SLEEPS, reason="the number of clock_nanosleep is not known here")
def test_umount_waits_for_what_no_process_holds(union: Workshop) -> None:
    """What passes by itself, as a file on its way between processes, or one that only ends to be closed, is waited for."""
    u = union.mount(B0={}, B1={"file": b"low"})
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        fd = os.open(u / "file", os.O_RDONLY)
        socket.send_fds(ours, [b"f"], [fd])
        os.close(fd)
        process = subprocess.Popen([*program(), "umount", str(u.mnt)], stdin=subprocess.DEVNULL)
        call = Path(f"/proc/{process.pid}/syscall")
        eventually(lambda: call.read_text().split()[0] == _SLEEPS, "umount to find the mount busy")
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        os.close(fds[0])
        assert process.wait(60) == 0
    assert not is_mounted(u.mnt)
