# SPDX-License-Identifier: Apache-2.0
"""Clients that are killed while their requests wait for a thread: what was asked for reaches their own files or none.

A frozen filesystem keeps all of the server's threads busy; the kills fall into the queue behind them.
"""

import fcntl
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.union import Union, Workshop, eventually

pytestmark = pytest.mark.parametrize("union", ["direct"], indirect=True)  # pyfuse3 answers no request early

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
THREADS = 16  # of the server, for what has no data to move
BLOCKING = [f"blocking{n}" for n in range(THREADS)]
FILES = [f"killed{n}" for n in range(12)]
SIZE = 512 << 10  # half of it is more than the server copies itself
OWN = b"o" * SIZE

Call = Callable[[int, int], None]  # on the client's own file or directory and on a file to read from


def _punch(own: int, source: int) -> None:
    mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
    syscalls.fallocate(own, mode, 0, SIZE // 2)


def _copy(own: int, source: int) -> None:
    os.copy_file_range(source, own, SIZE // 2, 0, 0)


def _sync(own: int, source: int) -> None:
    os.fsync(own)


class _Client:
    """A process that opens its file, waits to be told to, makes one call on it, and ends."""

    def __init__(self, own: Path, source: Path, call: Call) -> None:
        ready, self._go = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                fds = os.open(own, os.O_RDONLY if own.is_dir() else os.O_RDWR), os.open(source, os.O_RDONLY)
                os.write(ready[1], b"r")
                os.read(self._go[0], 1)
                call(*fds)
            finally:
                os._exit(0)
        os.close(ready[1])
        assert os.read(ready[0], 1) == b"r"
        os.close(ready[0])

    def begin(self) -> None:
        """Let it make its call, and wait until that blocks."""
        eventually(lambda: self._blocked_in() is not None, "the client to wait")
        waiting = self._blocked_in()
        os.write(self._go[1], b"g")
        eventually(lambda: self._blocked_in() not in (None, waiting), "the client to wait in its call")

    def _blocked_in(self) -> str | None:
        call = Path(f"/proc/{self.pid}/syscall").read_text().split()[0]
        return None if call == "running" else call

    def end(self, *, kill: bool) -> None:
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for fd in self._go:
            os.close(fd)


@contextmanager
def _frozen(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)


def _descriptors(u: Union) -> int:
    return len(os.listdir(f"/proc/{u.pid}/fd"))


def _make_files(u: Union) -> None:
    (u / "source").write_bytes(b"s" * SIZE)
    for name in (*BLOCKING, *FILES):
        (u / name).write_bytes(OWN)


@contextmanager
def _kills_in_a_full_queue(
    u: Union, blocking_call: Call, killed_call: Call, own: Iterable[str]
) -> Iterator[None]:
    """Kill clients whose calls wait behind blocked ones; run the block after that, and then let the threads go on."""
    blocking = [_Client(u / name, u / "source", blocking_call) for name in BLOCKING]
    killed = [_Client(u / name, u / "source", killed_call) for name in own]
    with _frozen(u.branch(0)):
        for client in (*blocking, *killed):
            client.begin()
        os.statvfs(u.mnt)  # answered after the server has read all that was asked before
        for client in killed:
            client.end(kill=True)
        yield
    for client in blocking:
        client.end(kill=False)


@pytest.mark.parametrize("call", [_punch, _copy])
@pytest.mark.parametrize("options", ["udba=none", "nopassthrough", "coherence=aufs"])
def test_call_of_a_killed_client_reaches_no_other_file(union: Workshop, options: str, call: Call) -> None:
    """Files that are opened when the killed clients' are closed stay what they are, whatever numbers they got."""
    top = union.block_device("B0", 64)
    others = {f"other{n}": bytes([n + 1]) * SIZE for n in range(4 * len(FILES))}
    u = union.mount(f"br:{{B0}}=rw:{{B1}}=rw,{options}", changing="B1", branches={"B0": top, "B1": others})
    _make_files(u)
    before = _descriptors(u)
    with _kills_in_a_full_queue(u, call, call, FILES):
        opened = [os.open(u / name, os.O_RDWR) for name in others]
    for fd in opened:
        os.close(fd)
    eventually(lambda: _descriptors(u) <= before, "the descriptors to be closed")
    for name, content in others.items():
        assert (u.branch(1) / name).read_bytes() == content, name
    changed = (b"s" if call is _copy else b"\0") * (SIZE // 2) + OWN[SIZE // 2 :]
    for name in BLOCKING:
        assert (top / name).read_bytes() == changed
    for name in FILES:
        assert (top / name).read_bytes() in (OWN, changed)


def test_fsync_of_killed_clients_leaves_no_descriptor(union: Workshop) -> None:
    """Files and directories whose fsync never came to a thread are closed like others, and both can be synchronized on."""
    top = union.block_device("B0", 64)
    u = union.mount("udba=none", branches={"B0": top, "B1": {}})
    _make_files(u)
    directories = [f"directory{n}" for n in range(6)]
    for name in directories:
        (u / name).mkdir()
    before = _descriptors(u)
    with _kills_in_a_full_queue(u, _punch, _sync, [*FILES, *directories]):
        pass
    for name in (FILES[0], directories[0]):
        fd = os.open(u / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    eventually(lambda: _descriptors(u) <= before + len(directories), "the descriptors to be closed")
