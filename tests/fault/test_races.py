# SPDX-License-Identifier: Apache-2.0
"""Races, hammered by threads: every answer is one that some order of the operations gives, and nothing is left over."""

import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.tree import Dir, HardLink, Tree
from tests.support.union import Union, Workshop, eventually, unionfs

READERS = 3
BOTH = pytest.mark.parametrize("coherence", ["aufs", "overlay"])


def _left(u: Union) -> dict[str, int]:
    """Return what must be as before when all is closed and removed."""
    status = u.status()
    found = {name: status["counters"][name] for name in ("nodes", "handles", "descriptors", "plinks")}
    return found | {"registered": status.get("passthrough", {}).get("registered", 0)}


@contextmanager
def _nothing_left(u: Union) -> Iterator[None]:
    """Fail if the server keeps a node, a handle, a descriptor or a registration, once the kernel forgot all names."""
    before = _left(u)
    yield
    for name in os.listdir(u.mnt):
        shutil.rmtree(u / name)
    eventually(lambda: _left(u) == before, f"the counters to return to {before}; now {_left(u)}")


def _race(*works: Callable[[], None]) -> None:
    """Run all at once, each in a thread; fail with the first failure."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        start.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(run, work) for work in works]:
            future.result()


def _until(done: threading.Event, work: Callable[[], object]) -> Callable[[], None]:
    """Return what repeats `work` until the event is set, and then does it once more."""

    def repeat() -> None:
        while not done.is_set():
            work()
        work()

    return repeat


def _ending(done: threading.Event, work: Callable[[], None]) -> Callable[[], None]:
    """Return what does `work` and sets the event, also after a failure."""

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    return run


def _read(path: Path) -> bytes:
    return path.read_bytes()


@BOTH
def test_open_against_last_release(union: Workshop, coherence: str) -> None:
    """Threads open and close the same upper and lower file, to read and to write: each reads the whole content."""
    content = {"up": b"u" * 5000, "low": b"l" * 5000}
    u = union.mount(f"coherence={coherence}", B0={"d/up": content["up"]}, B1={"d/low": content["low"]})

    def use() -> None:
        for turn in range(300):
            name = ("up", "low")[turn % 2]
            # The lower file is opened to read at first: so it goes through copy-up in the middle of the test.
            flags = os.O_RDWR if turn % 5 == 4 and turn > 100 else os.O_RDONLY
            fd = os.open(u / "d" / name, flags)
            try:
                assert os.pread(fd, 8192, 0) == content[name]
                if flags == os.O_RDWR:
                    os.pwrite(fd, content[name][:10], 20)
            finally:
                os.close(fd)

    with _nothing_left(u):
        _race(use, use, use, use)


@BOTH
@pytest.mark.parametrize("size", [3000, 400_000], ids=["inline", "in a thread"])
def test_copy_up_against_open(union: Workshop, coherence: str, size: int) -> None:
    """Whoever opens while a file is copied up reads all of the old or all of the new; whoever opens later the new."""
    rounds = 60 if size < 10_000 else 25
    u = union.mount(f"coherence={coherence}", B0={}, B1={f"d/f{n}": b"o" * size for n in range(rounds)})
    old, new = b"o" * size, b"n" + b"o" * (size - 1)

    def copy_up(path: Path) -> None:
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, b"n", 0)
        os.close(fd)

    with _nothing_left(u):
        for turn in range(rounds):
            path, done = u / "d" / f"f{turn}", threading.Event()

            def read(path: Path = path) -> None:
                assert _read(path) in (old, new)

            _race(_ending(done, partial(copy_up, path)), *[_until(done, read)] * READERS)
            assert _read(path) == new
            assert _read(u.branch(0) / "d" / f"f{turn}") == new


@BOTH
def test_writers_against_copy_up_lose_nothing(union: Workshop, coherence: str) -> None:
    """Four threads append to the same lower file, the first write of all copies it up: no line is lost."""
    rounds, lines = 40, 5
    u = union.mount(f"coherence={coherence}", B0={}, B1={f"d/f{n}": b"0\n" for n in range(rounds)})

    def append(path: Path, who: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        for _ in range(lines):
            os.write(fd, b"%d\n" % who)
        os.close(fd)

    with _nothing_left(u):
        for turn in range(rounds):
            path = u / "d" / f"f{turn}"
            _race(*(partial(append, path, who) for who in range(1, 5)))
            expected = sorted(b"0" + b"1234" * lines)
            assert sorted(_read(path).replace(b"\n", b"")) == expected


def test_forget_against_lookup(union: Workshop) -> None:
    """Names are forgotten, as each remount has the kernel drop what it knows, while threads look them up and open them."""
    names = [f"f{n}" for n in range(40)]
    u = union.mount(B0={"d/up": "up"}, B1={f"d/{name}": name for name in names})
    done = threading.Event()
    turns = itertools.cycle(names)

    def look() -> None:
        name = next(turns)
        assert _read(u / "d" / name) == name.encode()
        assert (u / "d" / name).stat().st_size == len(name)
        with refused("ENOENT"):
            os.stat(u / "d/none")

    def forget() -> None:
        for _ in range(8):
            unionfs("remount", "-o", "warn_perm", u.mnt)

    with _nothing_left(u):
        _race(_ending(done, forget), *[_until(done, look)] * READERS)


def test_removal_and_creation_against_lookup(union: Workshop) -> None:
    """A name that comes and goes: each look finds the whole of one file, or nothing."""
    u = union.mount(B0={}, B1={"d/f": "lower", "d/g": "g"})
    done = threading.Event()

    def change() -> None:
        for turn in range(150):
            (u / "d/f").unlink()
            fd = os.open(u / "d/new", os.O_CREAT | os.O_WRONLY | os.O_EXCL)
            os.write(fd, b"upper")
            os.close(fd)
            if turn % 2:
                os.rename(u / "d/new", u / "d/f")
            else:
                os.link(u / "d/new", u / "d/f")
                os.unlink(u / "d/new")

    def look() -> None:
        try:
            assert _read(u / "d/f") in (b"lower", b"upper")
        except FileNotFoundError:
            pass
        assert "g" in os.listdir(u / "d")

    with _nothing_left(u):
        _race(_ending(done, change), *[_until(done, look)] * READERS)


def test_replacing_rename_against_open_never_goes_back(union: Workshop) -> None:
    """A file is replaced by rename over and over: readers never miss it, and never see an older one than before."""
    u = union.mount(B0={}, B1={"d/f": "0"})
    done = threading.Event()

    def replace() -> None:
        for generation in range(1, 250):
            (u / "d/next").write_text(str(generation))
            os.rename(u / "d/next", u / "d/f")

    def reader() -> Callable[[], None]:
        last = 0

        def read() -> None:
            nonlocal last
            now = int(_read(u / "d/f"))
            assert now >= last
            last = now

        return _until(done, read)

    with _nothing_left(u):
        _race(_ending(done, replace), *(reader() for _ in range(READERS)))
        assert _read(u / "d/f") == b"249"


def test_rename_of_lower_file_against_open_is_always_under_one_name(union: Workshop) -> None:
    """Who does not find the old name finds the new one: the whiteout does not come before the copy."""
    files: Tree = {f"d/a{n}": f"{n}" * 2000 for n in range(60)}
    u = union.mount(B0={}, B1=files)

    def rename(turn: int) -> None:
        os.rename(u / f"d/a{turn}", u / f"d/b{turn}")

    def read(turn: int) -> None:
        try:
            found = _read(u / f"d/a{turn}")
        except FileNotFoundError:
            found = _read(u / f"d/b{turn}")
        assert found == f"{turn}".encode() * 2000

    with _nothing_left(u):
        for turn in range(60):
            done = threading.Event()
            reading = _until(done, partial(read, turn))
            _race(_ending(done, partial(rename, turn)), *[reading] * READERS)


def test_umount_while_most_nodes_are_forgotten_ends_well(union: Workshop) -> None:
    """The flush of a pseudo-link at umount looks at many directories and lets go of them when the session is over."""
    many: Tree = {f"d{n}": Dir() for n in range(1000)}
    u = union.mount("udba=none", changing="B1", B0={}, B1={"f": "f", "g": HardLink("f"), **many})
    with (u / "f").open("a") as file:
        file.write("+")
    u.stop()
    assert (u.branch(0) / "g").read_text() == "f+"
