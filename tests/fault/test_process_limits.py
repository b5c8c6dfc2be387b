# SPDX-License-Identifier: Apache-2.0
"""A server that cannot start a thread or a program: every request is answered, and what must wait is made up for later."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.oci.cgroups import Group, open_group
from tests.support.groups import OURS, can_group
from tests.support.tree import remove_tree
from tests.support.union import Union, Workshop, eventually, is_mounted, program

pytestmark = pytest.mark.skipif(not can_group(), reason="control groups cannot be made here")

BIG = os.urandom(1 << 20)  # more than is copied up within a request
EXPECTED = r"no thread can be started"
# Each way to come to need threads: what the kernel does by itself, what comes to the server, what the server is told by inotify.
OPTIONS = ["udba=none", "nopassthrough", "coherence=aufs,udba=notify"]


@pytest.fixture
def group() -> Iterator[Group]:
    """Give a control group; to be asked for before the union, whose server must not end with it."""
    group = open_group({"linux": {"cgroupsPath": f"/{OURS}-processes"}}, "unused")
    group.create()
    yield group
    group.destroy()


@contextmanager
def _no_more_processes(u: Union, group: Group) -> Iterator[None]:
    """Let the server have as many processes and threads as it has, and no other one, during the block."""
    u.allowed_log.append(EXPECTED)
    group.join(u.pid)
    group.update({"pids": {"limit": 1}})
    try:
        yield
    finally:
        group.update({"pids": {"limit": -1}})


def _mount(union: Workshop, options: str) -> Union:
    upper = union.block_device("B0", 64)
    lower = union.block_device("B1", 64, "ext4")
    for n in range(4):
        (lower / f"big{n}").write_bytes(BIG)
        (lower / f"d{n}").mkdir()
        for entry in range(40):
            (lower / f"d{n}" / f"f{entry}").write_bytes(b"f")
    return union.mount(options, branches={"B0": upper, "B1": lower})


def _uncache(path: Path) -> None:
    """Drop a file's pages, so that reading it waits for the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def _read(u: Union) -> None:
    _uncache(u.branch(1) / "big0")
    assert (u / "big0").read_bytes() == BIG


def _copy_up(u: Union) -> None:
    with (u / "big1").open("ab") as file:
        file.write(b"more")
    assert (u.branch(0) / "big1").read_bytes() == BIG + b"more"


def _synchronize(u: Union) -> None:
    fd = os.open(u / "new", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"new")
    os.fsync(fd)
    os.posix_fallocate(fd, 0, 8192)
    os.lseek(fd, 0, os.SEEK_HOLE)
    os.copy_file_range(fd, fd, 3, 0, 100)
    os.close(fd)
    fd = os.open(u.mnt, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert (u.branch(0) / "new").read_bytes()[100:103] == b"new"


def _write_through(u: Union) -> None:
    fd = os.open(u / "big2", os.O_RDWR | os.O_SYNC)
    os.pwrite(fd, b"through", 0)
    os.close(fd)
    assert (u.branch(0) / "big2").read_bytes()[:7] == b"through"


def _remove_and_rename(u: Union) -> None:
    remove_tree(u / "d0")
    os.rename(u / "big3", u / "renamed")
    assert not (u / "d0").exists()
    assert (u / "renamed").read_bytes() == BIG


@pytest.mark.parametrize("options", OPTIONS)
def test_request_without_a_thread_is_answered(group: Group, union: Workshop, options: str) -> None:
    """Reads that miss the cache, copies, fsync and deletions are done although no thread can be had, and the server goes on."""
    u = _mount(union, options)
    with _no_more_processes(u, group):
        for call in (_read, _copy_up, _synchronize, _write_through, _remove_and_rename):
            call(u)
        assert EXPECTED in u.log.read_text()
    (u / "afterwards").write_bytes(b"a")


def test_branch_added_without_a_thread_shows_when_there_is_one(group: Group, union: Workshop) -> None:
    """The kernel is told of a new branch as soon as a thread can be had for that; requests are answered meanwhile."""
    u = _mount(union, "udba=none")
    added = union.directory("B2", {"added": b"added"})
    assert not (u / "added").exists()
    with _no_more_processes(u, group):
        command = [*program(), "branch", "append", str(u.mnt), f"{added}=ro"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        eventually(lambda: EXPECTED in u.log.read_text(), "the server to want a thread")
        assert (u / "d1" / "f0").read_bytes() == b"f"
    assert process.wait(60) == 0
    assert (u / "added").read_bytes() == b"added"


def test_signal_without_a_process_unmounts_when_there_is_one(group: Group, union: Workshop) -> None:
    """SIGTERM is obeyed as soon as the program that unmounts can be started; requests are answered meanwhile."""
    u = _mount(union, "udba=none")
    with _no_more_processes(u, group):
        os.kill(u.pid, signal.SIGTERM)
        eventually(lambda: EXPECTED in u.log.read_text(), "the server to want a thread")
        assert (u / "d1" / "f0").read_bytes() == b"f"
    assert u.process is not None
    assert u.process.wait(60) == 0
    assert not is_mounted(u.mnt)
