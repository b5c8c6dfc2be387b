# SPDX-License-Identifier: Apache-2.0
"""Listings that the kernel keeps, of directories that it need not open (udba=none and notify); each of one copy and of two."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.syscalls import DirectoryStream, raw_entries
from tests.support.union import Union, Workshop, eventually, unionfs

pytestmark = pytest.mark.parametrize("copies", [1, 2])

SOME = 2_500  # several requests
MANY = 8_000
FS_IOC_GETFLAGS = 0x80086601


def _fill(directory: Path, numbers: range) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    try:
        for number in numbers:
            os.close(os.open(f"name{number:07}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    finally:
        os.close(fd)


def _mount(
    shop: Workshop, copies: int, count: int = 0, options: str = "udba=none", changing: str = ""
) -> Union:
    """Mount a union whose directory `d` has `count` files in so many copies below an empty writable branch."""
    branches = {f"B{number}": shop.directory(f"b{number}") for number in range(1, copies + 1)}
    for number, branch in enumerate(branches.values()):
        _fill(branch / "d", range(number, count, copies))
    return shop.mount(options, changing=changing, branches=branches, B0={})


@contextmanager
def _stream(path: Path) -> Iterator[DirectoryStream]:
    stream = DirectoryStream(str(path))
    try:
        yield stream
    finally:
        stream.close()


def _requests(u: Union) -> dict[str, int]:
    return {kind: row["count"] for kind, row in json.loads(unionfs("stats", "--json", u.mnt).stdout).items()}


def test_directories_are_listed_without_being_opened(union: Workshop, copies: int) -> None:
    """The direct session asks for no more opens, and a listing that the kernel has kept takes no request."""
    if union.session != "direct":
        pytest.skip("libfuse opens directories")
    u = _mount(union, copies, 10)
    names = [f"name{number:07}" for number in range(10)]
    for _ in range(3):
        assert sorted(os.listdir(u / "d")) == names
    before = _requests(u)
    for _ in range(3):
        assert sorted(os.listdir(u / "d")) == names
    after = _requests(u)
    assert "releasedir" not in after
    assert before == after
    (u / "d/more").touch()
    assert sorted(os.listdir(u / "d")) == ["more", *names]


def test_entries_removed_while_listed_do_not_end_the_listing(union: Workshop, copies: int) -> None:
    """Who looks at what it lists gets every entry that stays, also behind many that do not."""
    u = _mount(union, copies, MANY, "udba=reval")  # else the rest comes without attributes
    order: list[str] = []
    for _ in range(3):
        with _stream(u / "d") as stream:
            order = [name for name in iter(stream.next, None) if (u / "d" / name).stat()]
    with _stream(u / "d") as stream:
        first = [name for name in order[:100] if (u / "d" / str(stream.next())).stat()]
        for name in order[100:6000]:
            (u / "d" / name).unlink()
        rest = stream.rest()
    assert first == order[:100]
    assert set(rest) >= set(order[6000:])


@pytest.mark.parametrize("udba", ["none", "notify", "reval"])
def test_positions_lead_back_to_the_same_entries(union: Workshop, copies: int, udba: str) -> None:
    """telldir and seekdir, from the middle, after the end, and from a stream that has read nothing."""
    u = _mount(union, copies, SOME, f"udba={udba}")
    for _ in range(2):  # from the server, then from the kernel
        with _stream(u / "d") as stream, _stream(u / "d") as other:
            places = []
            while (name := stream.next()) is not None:
                places.append((name, stream.tell()))
            assert len(places) == SOME + 2
            stream.rewind()
            assert [name for name, _ in places] == stream.rest()
            for index in (SOME // 2, 5, SOME - 1):
                stream.seek(places[index][1])
                assert stream.next() == places[index + 1][0]
            assert stream.rest() == [name for name, _ in places[SOME + 1 :]]
            other.seek(places[SOME // 2][1])
            assert other.rest() == [name for name, _ in places[SOME // 2 + 1 :]]


def test_rewind_shows_what_is_new(union: Workshop, copies: int) -> None:
    """rewinddir promises the directory as it is now, also in the middle of a listing."""
    u = _mount(union, copies, SOME)
    with _stream(u / "d") as stream:
        assert stream.next()
        (u / "d/new").touch()
        (u / "d/name0000007").unlink()
        stream.rewind()
        names = stream.rest()
    assert len(names) == len(set(names)) == SOME + 2
    assert "new" in names
    assert "name0000007" not in names


def test_readers_at_the_same_time_see_each_entry_once(union: Workshop, copies: int) -> None:
    """Many streams at different places of one directory, while entries are made in it."""
    u = _mount(union, copies, SOME)
    streams = [DirectoryStream(str(u / "d")) for _ in range(12)]
    try:
        found: list[list[str]] = [[] for _ in streams]
        running = set(range(len(streams)))
        step = 0
        while running:
            for index in sorted(running):
                for _ in range(40 + 97 * index):
                    name = streams[index].next()
                    if name is None:
                        running.discard(index)
                        break
                    found[index].append(name)
            (u / f"d/new{step}").touch()
            step += 1
    finally:
        for stream in streams:
            stream.close()
    for names in found:
        old = [name for name in names if not name.startswith("new")]
        assert len(old) == len(set(old)) == SOME + 2


def test_sleeping_reader_goes_on_where_it_was(union: Workshop, copies: int) -> None:
    """A reader stops in the middle; meanwhile the directory changes, and hundreds of others are begun and left."""
    for number in range(300):
        _fill(union.directory("b1") / f"others/d{number}", range(2))
    u = _mount(union, copies, MANY)
    with _stream(u / "d") as stream:
        names = [stream.next() for _ in range(MANY // 3)]
        (u / "d/new").touch()
        for number in range(300):
            with _stream(u / f"others/d{number}") as left:
                left.next()
        names += stream.rest()
    old = [name for name in names if name != "new"]
    assert len(old) == len(set(old)) == MANY + 2


def _remove(directory: Path) -> None:
    done = subprocess.run(["rm", "-rf", str(directory)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not directory.exists()


@pytest.mark.parametrize("listed", [False, True])
def test_remove_while_listing_leaves_nothing(union: Workshop, copies: int, listed: bool) -> None:
    """Whoever lists and removes by turns removes everything, be it that the kernel knew the listing or not."""
    u = _mount(union, copies, SOME)
    if listed:
        assert len(os.listdir(u / "d")) == SOME
    with os.scandir(u / "d") as entries:
        for entry in entries:
            os.unlink(entry.path)
    (u / "d").rmdir()
    assert not (u / "d").exists()


def test_remove_what_others_are_reading(union: Workshop, copies: int) -> None:
    """Readers at work see nothing twice, and rm -rf leaves nothing."""
    u = _mount(union, copies, 300)
    twice: list[str] = []
    begun = threading.Event()

    def read() -> None:
        try:
            while True:
                names = os.listdir(u / "d")
                begun.set()
                twice.extend(name for name in set(names) if names.count(name) > 1)
        except FileNotFoundError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    begun.wait()
    done = subprocess.run(["rm", "-rf", str(u / "d")], capture_output=True, text=True, check=False)
    reader.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert not (u / "d").exists()
    assert not twice


def test_removed_directory_holds_nothing(union: Workshop, copies: int) -> None:
    """An open directory that was removed lists nothing any more, not even dots, and may still be asked."""
    u = _mount(union, copies)
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(fd) == []
        (u / "d").rmdir()
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_mode & 0o40000
        os.fsync(fd)
    finally:
        os.close(fd)


def test_open_directory_can_be_synced_asked_and_changed(union: Workshop, copies: int) -> None:
    """fsync, lsattr's ioctl, fchmod and futimens through a descriptor of a directory."""
    u = _mount(union, copies, 3)
    (u / "d/new").touch()
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
        os.fdatasync(fd)
        if union.session == "direct":
            assert len(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))) == 8
        os.fchmod(fd, 0o750)
        os.utime(fd, (1000, 2000))
        status = os.fstat(fd)
    finally:
        os.close(fd)
    assert (status.st_mode & 0o777, status.st_mtime) == (0o750, 2000)
    assert (u.branch(0) / "d").stat().st_mode & 0o777 == 0o750


def test_removed_branch_is_free_though_a_listing_was_left(union: Workshop, copies: int) -> None:
    """A reader that stopped in the middle of the union's root does not hold a branch: after `del` it can be unmounted."""
    more = union.filesystem("more")
    _fill(more, range(SOME))
    branches = {f"B{number}": union.directory(f"b{number}") for number in range(1, copies)}
    u = union.mount("udba=none", branches={**branches, "more": more}, B0={})
    stream = DirectoryStream(str(u.mnt))
    try:
        first = stream.next()
        assert u.change("del:{more}").returncode == 0
        assert first is not None
        stream.rest()
    finally:
        stream.close()
    assert not [name for name in os.listdir(u.mnt) if name.startswith("name")]
    for fd in Path(f"/proc/{u.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread closed it since
            assert not os.readlink(fd).startswith(str(more))


def test_open_directory_keeps_its_branch(union: Workshop, copies: int) -> None:
    """`del` of a branch whose directory somebody has open is EBUSY, and `busy` names the process."""
    u = _mount(union, copies, 3)
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        rows = json.loads(unionfs("branch", "busy", "--json", u.mnt, u.branch(1)).stdout)
        assert [(row["pid"], row["path"]) for row in rows] == [(os.getpid(), "/d")]
        assert "busy" in u.change("del:{B1}").stderr
    finally:
        os.close(fd)
    assert u.change("del:{B1}").returncode == 0
    assert len(os.listdir(u / "d") if copies > 1 else []) == (copies - 1)


def _has(directory: Path, count: int) -> bool:
    return len(os.listdir(directory)) == count


def test_change_of_udba_makes_direct_changes_show(union: Workshop, copies: int) -> None:
    """After a remount to udba=reval what is changed on a branch shows, though directories are still not opened; and back."""
    u = _mount(union, copies, SOME, changing="B1")
    assert len(os.listdir(u / "d")) == SOME
    assert u.change("udba=reval").returncode == 0
    for number in range(5):
        assert len(os.listdir(u / "d")) == SOME + number
        (u.branch(1) / f"d/new{number}").touch()
        eventually(partial(_has, u / "d", SOME + number + 1), deadline=3)
    (u / "d/name0000000").unlink()
    assert len(os.listdir(u / "d")) == SOME + 4
    assert u.change("udba=none").returncode == 0
    for _ in range(2):
        assert len(os.listdir(u / "d")) == SOME + 4


def test_unreadable_copy_refuses_the_listing(union: Workshop, copies: int) -> None:
    """nodirperm1, at the mount or from a remount on: every copy must be readable for the caller, also when all was listed."""
    u = _mount(union, copies, 3, changing="B1")
    (u.branch(1) / "d").chmod(0o700)
    script = "import os, sys; os.listdir(sys.argv[1])"

    def listing() -> subprocess.CompletedProcess[str]:
        command = ["python3", "-c", script, str(u / "d")]
        return subprocess.run(
            command, user=12345, group=12345, extra_groups=[], capture_output=True, text=True
        )

    (u / "d/new").touch()
    (u / "d").chmod(0o755)
    assert listing().returncode == 0
    assert u.change("nodirperm1").returncode == 0
    for _ in range(2):
        assert "Permission denied" in listing().stderr
        assert len(os.listdir(u / "d")) == 4


def test_file_is_no_directory(union: Workshop, copies: int) -> None:
    """Listing a file is ENOTDIR, and a name below one too."""
    u = _mount(union, copies, 3)
    with refused("ENOTDIR"):
        os.listdir(u / "d/name0000000")
    shutil.rmtree(u / "d")
    with refused("ENOENT"):
        os.listdir(u / "d")


def test_forgotten_directories_leave_no_descriptor(union: Workshop, copies: int) -> None:
    """Directories that were removed while open, and listed in part, cost nothing when all is closed."""
    u = _mount(union, copies)
    os.listdir(u / "d")
    (u / "d/keep").touch()
    before = len(os.listdir(f"/proc/{u.pid}/fd"))
    for number in range(40):
        _fill(u / f"d/gone{number}", range(2))
        with _stream(u / f"d/gone{number}") as stream, (u / f"d/file{number}").open("w") as file:
            stream.next()
            shutil.rmtree(u / f"d/gone{number}")
            (u / f"d/file{number}").unlink()
            file.write("gone")
    eventually(lambda: len(os.listdir(f"/proc/{u.pid}/fd")) <= before + 4)


def test_reader_goes_on_when_the_directory_gets_a_copy(union: Workshop, copies: int) -> None:
    """Its first entries came from what the kernel had kept, which another reader then made it drop."""
    u = _mount(union, copies, SOME)
    assert len(os.listdir(u / "d")) == SOME
    with _stream(u / "d") as stream:
        names = [stream.next()]
        (u / "d/new").touch()  # copies the directory up
        assert len(os.listdir(u / "d")) == SOME + 1
        names += stream.rest()
    old = [name for name in names if name != "new"]
    assert len(old) == len(set(old)) == SOME + 2


def _rest_of(fd: int, offset: int) -> list[str]:
    """Read a directory from an offset to its end with a small buffer."""
    os.lseek(fd, offset, os.SEEK_SET)
    names = []
    while entries := raw_entries(fd, 1000):
        names += [name for name, _ in entries]
    return names


@pytest.mark.parametrize("udba", ["none", "notify", "reval"])
def test_offset_holds_when_the_directory_is_opened_again(union: Workshop, copies: int, udba: str) -> None:
    """As an NFS server needs it: after changes, other readers, and the removal of the entry that was listed last."""
    u = _mount(union, copies, SOME, f"udba={udba}")
    (u / "d/first").touch()
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    begun = [entry for _ in range(20) for entry in raw_entries(fd, 1000)]
    os.close(fd)
    last, offset = begun[-1]
    (u / "d" / last).unlink()
    (u / "d/more").touch()
    assert len(os.listdir(u / "d")) == SOME + 1
    for _ in range(2):
        fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = [name for name, _ in begun] + [name for name in _rest_of(fd, offset) if name != "more"]
        finally:
            os.close(fd)
        assert len(names) == len(set(names)) == SOME + 3


@pytest.mark.parametrize("udba", ["none", "notify", "reval"])
def test_readers_of_a_changing_directory_see_what_stays_once(union: Workshop, copies: int, udba: str) -> None:
    """Several processes list it, one makes and removes names: no error, no other name, and every one that stays once."""
    u = _mount(union, copies, 500, f"udba={udba}")
    for number in range(200):
        (u / f"d/up{'y' * (number % 40)}{number}").touch()
    stay = sorted(os.listdir(u / "d"))
    wrong: list[str] = []

    def read() -> None:
        for _ in range(25):
            names = os.listdir(u / "d")
            if sorted(name for name in names if not name.startswith("other")) != stay:
                wrong.append(f"{len(names)} names")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    number = 0
    while any(reader.is_alive() for reader in readers):
        number += 1
        path = u / f"d/other{'x' * (number % 60)}"
        path.touch()
        if number % 3:
            path.unlink()
    for reader in readers:
        reader.join()
    assert not wrong


def test_listing_that_began_on_one_copy_goes_on_when_there_are_two(union: Workshop, copies: int) -> None:
    """The offsets that it was given are the branch's own: they hold also when the directory is opened again."""
    u = _mount(union, copies, SOME)
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    begun = [entry for _ in range(20) for entry in raw_entries(fd, 1000)]
    (u / "d/name0000003").chmod(0o600)
    (u / "d/new").touch()
    os.listdir(u / "d")
    offset = begun[-1][1]
    try:
        rest = _rest_of(fd, offset)
    finally:
        os.close(fd)
    again = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert {*rest, "new"} == {*_rest_of(again, offset), "new"}
    finally:
        os.close(again)
    names = [name for name, _ in begun] + [name for name in rest if name != "new"]
    assert len(names) == len(set(names)) == SOME + 2


@pytest.mark.parametrize("udba", ["none", "notify", "reval"])
def test_entries_copied_up_while_listed_show_once(union: Workshop, copies: int, udba: str) -> None:
    """Some had been listed and some not: an entry has one place, whichever copy it is of, also when others list and reopen."""
    u = _mount(union, copies, SOME, f"udba={udba}")
    own = [f"own{number}" for number in range(30)]
    for name in own:  # which only the upper copy has
        (u / "d" / name).touch()
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    begun = [entry for _ in range(20) for entry in raw_entries(fd, 1000)]
    seen = {name for name, _ in begun}
    stay = sorted(os.listdir(u / "d"))
    lower = [name for name in stay if name.startswith("name")]
    listed, coming = [name for name in lower if name in seen], [name for name in lower if name not in seen]
    for name in listed[:40] + coming[-40:]:
        (u / "d" / name).chmod(0o600)
    for name in listed[40:60] + coming[-60:-40]:
        (u / "d/other").write_text("other")
        (u / "d/other").rename(u / "d" / name)
    assert sorted(os.listdir(u / "d")) == stay
    rest = _rest_of(fd, begun[-1][1])
    os.close(fd)
    again = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert sorted(_rest_of(again, begun[-1][1])) == sorted(rest)
    finally:
        os.close(again)
    assert (
        sorted([*(name for name, _ in begun if name not in (".", "..")), *(set(rest) - {".", ".."})]) == stay
    )
    assert len(rest) == len(set(rest))


def test_listing_goes_on_when_its_lowest_copy_becomes_writable_or_no_more(
    union: Workshop, copies: int
) -> None:
    """Offsets that were given before hold after a remount: what stays shows once, what only the upper copy has too."""
    u = _mount(union, copies, SOME, changing=f"B{copies}")
    for number in range(30):
        (u / f"d/own{number}").touch()
    stay = sorted(os.listdir(u / "d"))
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    begun = [entry for _ in range(10) for entry in raw_entries(fd, 1000)]
    os.close(fd)
    assert u.change(f"mod:{{B{copies}}}=rw").returncode == 0
    assert _goes_on(u, begun) == stay
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    begun = [entry for _ in range(10) for entry in raw_entries(fd, 1000)]
    os.close(fd)
    assert u.change(f"mod:{{B{copies}}}=ro").returncode == 0
    assert _goes_on(u, begun) == stay


def _goes_on(u: Union, begun: list[tuple[str, int]]) -> list[str]:
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = [name for name, _ in begun] + _rest_of(fd, begun[-1][1])
    finally:
        os.close(fd)
    return sorted(name for name in names if name not in (".", ".."))
