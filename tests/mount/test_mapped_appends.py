# SPDX-License-Identifier: Apache-2.0
"""Records appended to a file whose last page another process changes through a mapping."""

import mmap
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tests.support.union import Union, Workshop

FILES = 12
SIZE = 1024
RECORDS = [b"APPEND%02d" % n for n in range(40)]
LOWER = {f"f{n}": b"o" * SIZE for n in range(FILES)}


def _append(path: Path, flags: int, done: threading.Event) -> None:
    fd = os.open(path, flags)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        for record in RECORDS:
            os.write(fd, record)
    finally:
        os.close(fd)
        done.set()


def _map(path: Path, done: threading.Event, started: threading.Barrier) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, SIZE) as pages:
            pages[:8] = b"M" * 8
            started.wait()
            while not done.is_set():
                for place in range(0, SIZE, 8):
                    pages[place : place + 8] = b"M" * 8
                    os.fstat(fd)  # may make the kernel write the page back, and drop it
            pages[:] = b"M" * SIZE
            pages.flush()
    finally:
        os.close(fd)


def _contend(path: Path, flags: int) -> None:
    """Append all records while the first bytes of the file change through a mapping."""
    done, started = threading.Event(), threading.Barrier(2)

    def append() -> None:
        started.wait()
        _append(path, flags, done)

    works: list[Callable[[], None]] = [append, lambda: _map(path, done, started)]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


def _check(u: Union, flags: int, *, held: bool) -> None:
    expected = b"M" * SIZE + b"".join(RECORDS)
    for name in LOWER:
        with _reader(u / name) if held else nullcontext():
            _contend(u / name, flags)
            assert (u / name).read_bytes() == expected
            assert (u.branch(0) / name).read_bytes() == expected


@contextmanager
def _reader(path: Path) -> Iterator[None]:
    """Keep a file open that was read."""
    with path.open("rb") as file:
        file.read()
        yield


@pytest.mark.parametrize("union", ["direct"], indirect=True)
@pytest.mark.parametrize(
    "options", ["udba=none", "coherence=aufs", "nopassthrough", "udba=none,nopassthrough"]
)
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_APPEND], ids=["w", "rw"])
def test_append_beside_a_changed_mapping_keeps_every_record(
    union: Workshop, options: str, flags: int
) -> None:
    """Neither the records nor what the mapping changed turn into zeros or into what was there before."""
    _check(union.mount(options, B0={}, B1=LOWER), flags, held=False)


@pytest.mark.parametrize("union", ["direct"], indirect=True)
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR], ids=["w", "rw"])
def test_write_at_the_end_beside_a_changed_mapping_of_a_file_that_was_read(
    union: Workshop, flags: int
) -> None:
    """With passthrough also who does not append by flag, and whatever a reader from before the copy-up has open."""
    _check(union.mount("udba=none", B0={}, B1=LOWER), flags, held=True)


def _write_at_end(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    for number, record in enumerate(RECORDS):
        os.pwrite(fd, record, SIZE + number * len(record))
    os.close(fd)


def _change_by_mapping(path: Path, _: int) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, SIZE) as pages:
        for place in range(0, SIZE, 8):
            pages[place : place + 8] = b"M" * 8
    os.close(fd)


def _for_all(call: Callable[[Path, int], None], u: Union, flags: int, barrier: Barrier) -> None:
    for name in LOWER:
        barrier.wait()
        call(u / name, flags)


@pytest.mark.parametrize("union", ["direct"], indirect=True)
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR], ids=["w", "rw"])
def test_write_at_the_end_beside_a_changed_mapping_of_a_lower_file(union: Workshop, flags: int) -> None:
    """With passthrough also who opened the file before it was copied up, which with AUFS' promise is at the first write."""
    u = union.mount("coherence=aufs", B0={}, B1=LOWER)
    fork = multiprocessing.get_context("fork")  # two processes, so that both open the file at once
    barrier = fork.Barrier(2)
    processes = [
        fork.Process(target=_for_all, args=(call, u, flags, barrier))
        for call in (_write_at_end, _change_by_mapping)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for name in LOWER:
        assert (u / name).read_bytes() == b"M" * SIZE + b"".join(RECORDS)
        assert (u.branch(0) / name).read_bytes() == (u / name).read_bytes()


def test_write_past_the_pages_comes_back_in_no_page(union: Workshop) -> None:
    """An appended record, what another descriptor writes over it, and what a mapping then changes are all kept in order."""
    u = union.mount("nopassthrough", B0={}, B1=LOWER)
    path = u / "f0"
    appender = os.open(path, os.O_WRONLY | os.O_APPEND)
    writer = os.open(path, os.O_RDWR)
    with mmap.mmap(writer, SIZE) as pages:
        pages[:4] = b"MMMM"
        os.write(appender, b"record 1")
        pages[4:8] = b"mmmm"
        os.pwrite(writer, b"RECORD", SIZE)
        os.write(appender, b"record 2")
        pages[8:12] = b"nnnn"
        pages.flush()
        os.ftruncate(writer, SIZE + 12)
        os.write(appender, b"third")
        pages[12:16] = b"NNNN"
    os.close(writer)
    os.close(appender)
    expected = b"MMMMmmmmnnnnNNNN" + b"o" * (SIZE - 16) + b"RECORD 1reco" + b"third"
    assert path.read_bytes() == expected
    assert (u.branch(0) / "f0").read_bytes() == expected
