# SPDX-License-Identifier: Apache-2.0
"""Path resolution in a root that somebody changes meanwhile: nothing is ever made, or found, outside of it."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.oci.rootfs import resolve
from unionfs.kernel.syscalls import RENAME_EXCHANGE, renameat2

ROUNDS = 3000


class Place:
    """A root beside a directory that nothing may reach."""

    def __init__(self, top: Path) -> None:
        self.root = top / "root"
        self.outside = top / "outside"
        for directory in (self.root, self.outside):
            directory.mkdir()
        (self.outside / "secret").write_text("secret")
        self.fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY)

    def is_inside(self, fd: int) -> bool:
        """Tell whether a descriptor is of something in the root."""
        return (os.readlink(f"/proc/self/fd/{fd}") + "/").startswith(f"{self.root}/")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a root; at the end nothing new may be beside it."""
    made = Place(tmp_path)
    yield made
    os.close(made.fd)
    assert os.listdir(made.outside) == ["secret"]
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


def hammer(act: Callable[[], object], attack: Callable[[], object]) -> int:
    """Run `act` many times while a thread repeats `attack`; errors are allowed. Return how often `act` succeeded."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            attack()

    thread = threading.Thread(target=repeat)
    thread.start()
    done = 0
    try:
        for _ in range(ROUNDS):
            try:
                act()
                done += 1
            except OSError:
                pass
    finally:
        stop.set()
        thread.join()
    return done


@pytest.mark.parametrize(
    "text", ["../outside", "{outside}", "../../../../../../..{outside}", "/proc/self/cwd"]
)
def test_make_file_while_directory_becomes_link_stays_inside(place: Place, text: str) -> None:
    """A directory that is exchanged with a link to the outside all the time leads to no file there."""
    (place.root / "a").mkdir()
    (place.root / "b").symlink_to(text.format(outside=place.outside))

    def swap() -> None:
        renameat2(b"a", b"b", src_dir_fd=place.fd, dst_dir_fd=place.fd, flags=RENAME_EXCHANGE)

    numbers = iter(range(ROUNDS))

    def make() -> None:
        fd = resolve.make_file(place.fd, f"/a/new/{next(numbers)}/file")
        try:
            assert place.is_inside(fd)
        finally:
            os.close(fd)

    assert hammer(make, swap) > 0


def test_make_directory_while_parents_move_stays_inside(place: Place) -> None:
    """`..` goes back the way that was walked, also if the directory is somewhere else by now."""
    (place.root / "deep/er").mkdir(parents=True)

    def move() -> None:
        os.rename(place.root / "deep/er", place.root / "er")
        os.rename(place.root / "er", place.root / "deep/er")

    numbers = iter(range(ROUNDS))

    def make() -> None:
        fd = resolve.make_directory(place.fd, f"/deep/er/../../../../outside/{next(numbers)}")
        try:
            assert place.is_inside(fd)
        finally:
            os.close(fd)

    assert hammer(make, move) > 0


def test_find_while_file_becomes_link_stays_inside(place: Place) -> None:
    """What is found is the root's, whatever a name is at the moment."""
    (place.root / "file").write_text("mine")
    (place.root / "link").symlink_to("../outside/secret")

    def swap() -> None:
        renameat2(b"file", b"link", src_dir_fd=place.fd, dst_dir_fd=place.fd, flags=RENAME_EXCHANGE)

    def find() -> None:
        fd = resolve.find(place.fd, "/file", flags=os.O_RDONLY)
        if fd is not None:
            with open(fd) as stream:
                assert stream.read() == "mine"

    assert hammer(find, swap) > 0


def test_make_while_somebody_removes_gives_up_with_an_error(place: Place) -> None:
    """Two who make and remove the same name do not keep each other busy for ever."""

    def remove() -> None:
        try:
            os.rmdir(place.root / "x")
        except OSError:
            pass

    def make() -> None:
        os.close(resolve.make_directory(place.fd, "/x"))

    assert hammer(make, remove) > 0


def test_make_file_through_dangling_link_makes_its_target_inside(place: Place) -> None:
    """A link whose target is missing is followed as in the container, and the target is made (as /etc/resolv.conf often is)."""
    (place.root / "etc").mkdir()
    (place.root / "etc/resolv.conf").symlink_to("../run/resolver/stub.conf")
    (place.root / "etc/absolute").symlink_to(f"{place.outside}/new")
    os.close(resolve.make_file(place.fd, "/etc/resolv.conf"))
    os.close(resolve.make_file(place.fd, "/etc/absolute"))
    assert (place.root / "run/resolver/stub.conf").is_file()
    assert (place.root / f".{place.outside}/new").is_file()


def test_make_with_loop_of_links_fails(place: Place) -> None:
    """A loop of links is ELOOP, not an endless walk."""
    (place.root / "a").symlink_to("b")
    (place.root / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        resolve.make_directory(place.fd, "/a/x")


def test_make_without_links_refuses_them_anywhere(place: Place) -> None:
    """Where no link is allowed, one in the middle and one at the end are refused."""
    (place.root / "real").mkdir()
    (place.root / "link").symlink_to("real")
    for path in ("/link", "/link/new", "/real/../link/new"):
        with pytest.raises(OSError, match="symbolic links"):
            resolve.make_directory(place.fd, path, links=False)
    assert os.listdir(place.root / "real") == []
