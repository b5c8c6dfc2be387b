# SPDX-License-Identifier: Apache-2.0
"""One client that has very many files open: it is refused one more, and everybody else goes on."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.tree import HardLink, Tree
from tests.support.union import Union, Workshop, eventually, few_descriptors

LIMIT = 256  # of the server; the half would do for its own and the reserve
DIRECTORIES = 40
LOWER: Tree = {f"d{n}/sub/file": b"lower" for n in range(DIRECTORIES)}


def _may_raise_limits() -> bool:
    effective = Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0]
    return bool(int(effective, 16) >> 24 & 1)


def _mount(union: Workshop, options: str) -> Union:
    u = union.prepare(options, "", {"B0": {}, "B1": LOWER, "B2": LOWER})
    u.launcher = few_descriptors(LIMIT)
    u.start()
    return u


@contextmanager
def _all_taken(take: Callable[[int], int]) -> Iterator[list[int]]:
    """Take descriptors until the server refuses one, which is with ENFILE; close them after the block."""
    fds: list[int] = []
    try:
        while len(fds) < 4 * LIMIT:
            try:
                fds.append(take(len(fds)))
            except OSError as error:
                assert error.errno == errno.ENFILE
                break
        assert len(fds) < LIMIT
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def _names_are_usable(u: Union) -> None:
    """Look at, list and change what nobody has looked at before."""
    for n in range(DIRECTORIES):
        assert os.listdir(u / f"d{n}") == ["sub"]
        assert os.listdir(u / f"d{n}/sub") == ["file"]
        assert os.stat(u / f"d{n}/sub/file").st_size == 5
    for n in range(0, DIRECTORIES, 4):
        os.mkdir(u / f"d{n}/new")
        os.rename(u / f"d{n}/sub/file", u / f"d{n}/new/file")
        os.symlink("target", u / f"d{n}/link")
        os.chmod(u / f"d{n}/new/file", 0o600)
        os.truncate(u / f"d{n}/new/file", 3)
        assert sorted(os.listdir(u / f"d{n}")) == ["link", "new", "sub"]
        os.unlink(u / f"d{n}/link")
        os.rmdir(u / f"d{n}/sub")
        assert (u.branch(0) / f"d{n}/new/file").read_bytes() == b"low"
    os.mkdir(u / "fresh")
    os.rmdir(u / "fresh")


def _open_soon(path: Path) -> int:
    """Open a file for which there will be room when the server has been told that another one is closed."""
    opened: list[int] = []

    def opens() -> bool:
        try:
            opened.append(os.open(path, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.ENFILE
        return bool(opened)

    eventually(opens, "room for one more")
    return opened[0]


def _files_are_usable(u: Union, path: Path) -> None:
    path.write_bytes(b"again")
    assert path.read_bytes() == b"again"
    assert (u.branch(0) / path.name).read_bytes() == b"again"


@pytest.mark.skipif(not _may_raise_limits(), reason="hard limits are raised with CAP_SYS_RESOURCE only")
def test_server_of_root_opens_more_than_a_client_may(union: Workshop) -> None:
    """A hard limit of the processes that use the union is not that of all their files together."""
    u = union.prepare("", "", {"B0": {}})
    u.launcher = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    u.start()
    fds = [os.open(u / f"f{n}", os.O_RDWR | os.O_CREAT, 0o644) for n in range(2 * LIMIT)]
    for fd in fds:
        os.close(fd)
    limits = Path(f"/proc/{u.pid}/limits").read_text().split("Max open files")[1].split()
    assert int(limits[0]) == int(limits[1]) == min(1 << 20, int(Path("/proc/sys/fs/nr_open").read_text()))


@pytest.mark.parametrize("options", ["", "udba=none", "whiteout=overlay"])
def test_open_with_the_share_of_files_taken_is_enfile_and_names_stay_usable(
    union: Workshop, options: str
) -> None:
    """One process that opens what it can leaves others able to list and change; a file is not made without being opened."""
    u = _mount(union, options)

    def create(number: int) -> int:
        return os.open(u / f"f{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)

    with _all_taken(create) as fds:
        assert len(fds) > LIMIT // 4
        assert not (u.branch(0) / f"f{len(fds)}").exists()
        with pytest.raises(OSError) as raised:
            os.open(u / "d1/sub/file", os.O_RDWR | os.O_TRUNC)
        assert raised.value.errno == errno.ENFILE
        assert not (u.branch(0) / "d1").exists()
        os.write(fds[0], b"data")
        assert os.pread(fds[0], 4, 0) == b"data"
        _names_are_usable(u)
        os.close(fds.pop())
        fds.append(_open_soon(u / "d1/sub/file"))
    _files_are_usable(u, u / "f0")


def test_opendir_with_the_share_of_directories_taken_is_enfile_and_names_stay_usable(union: Workshop) -> None:
    """Open directories may use what is kept back from files, but not all of it."""
    u = _mount(union, "")

    def open_directory(number: int) -> int:
        return os.open(u / f"d{number % DIRECTORIES}", os.O_RDONLY | os.O_DIRECTORY)

    with _all_taken(open_directory):
        for n in range(DIRECTORIES):
            assert os.stat(u / f"d{n}/sub/file").st_size == 5
            os.mkdir(u / f"d{n}/made")
            os.rmdir(u / f"d{n}/made")
        with pytest.raises(OSError) as raised:
            os.open(u / "d1/sub/file", os.O_RDONLY)
        assert raised.value.errno == errno.ENFILE
    _names_are_usable(u)


def test_unlink_of_very_many_open_files_is_refused_before_names_suffer(union: Workshop) -> None:
    """A removed file is kept for who has it open; when too many are, the next one keeps its name, and nothing else fails."""
    u = _mount(union, "udba=none")

    def create(number: int) -> int:
        return os.open(u / f"f{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)

    with _all_taken(create) as fds:
        removed = 0
        for number in range(len(fds)):
            try:
                os.unlink(u / f"f{number}")
            except OSError as error:
                assert error.errno == errno.ENFILE
                break
            removed += 1
        assert removed > 0
        left = {f"f{number}" for number in range(removed, len(fds))}
        assert left <= set(os.listdir(u.mnt))
        assert left <= set(os.listdir(u.branch(0)))
        _names_are_usable(u)
    for name in left:
        os.unlink(u / name)
    _files_are_usable(u, u / "f0")


def test_flush_of_names_in_many_directories_needs_few_descriptors(union: Workshop) -> None:
    """One file has a name in each of more directories than the server can have open: all are linked when it ends."""
    names = [f"d{n}/sub/name" for n in range(DIRECTORIES)]
    lower: Tree = {"f": "old", **{name: HardLink("f") for name in names}}
    u = union.prepare("", "", {"B0": {}, "B1": lower, "B2": LOWER, "B3": LOWER})
    u.launcher = few_descriptors(96)
    u.start()
    (u / "f").write_text("new")
    u.stop()  # which looks into its log
    copy = (u.branch(0) / "f").stat().st_ino
    assert [(u.branch(0) / name).stat().st_ino for name in names] == [copy] * DIRECTORIES
