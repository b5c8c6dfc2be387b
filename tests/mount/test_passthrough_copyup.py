# SPDX-License-Identifier: Apache-2.0
"""Copy-up under passthrough: what readers and writers of lower files see, with either `coherence=`."""

import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path

import pytest

from tests.mount.test_passthrough import counts, passing, state
from tests.support import changes, tree
from tests.support.errnos import refused
from tests.support.tree import Dir, HardLink
from tests.support.union import Union, Workshop, eventually, unionfs

pytestmark = pytest.mark.parametrize("union", ["direct"], indirect=True)

OLD = b"old " * 20000
PROMISES = ("overlay", "aufs")


@pytest.fixture(params=PROMISES)
def promise(request: pytest.FixtureRequest) -> str:
    """Give each promise in turn."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def u(union: Workshop, promise: str) -> Union:
    """Give a union with a lower file that has two names, which the kernel trusts for ever, and a file to lock."""
    layer: tree.Tree = {"d/f": OLD, "second": HardLink("d/f"), "lock": ""}
    return passing(union.mount(f"udba=none,coherence={promise}", B0={}, B1=layer))


def content(fd: int) -> bytes:
    """Return all of an open file."""
    return os.pread(fd, 1 << 20, 0)


def chmod(path: Path, old: bytes) -> bytes:
    """Change the mode alone."""
    path.chmod(0o600)
    return old


def set_xattr(path: Path, old: bytes) -> bytes:
    """Set an attribute alone."""
    os.setxattr(path, "user.a", b"1")
    return old


def write_to_link(path: Path, old: bytes) -> bytes:
    """Write by a name that is made for it."""
    os.link(path, path.parent / "third")
    return changes.write(path.parent / "third", old)


@pytest.mark.parametrize("change", [*changes.DATA, chmod, set_xattr, write_to_link], ids=lambda f: f.__name__)
def test_reader_first(u: Union, promise: str, change: changes.Change) -> None:
    """The old reader follows to the new file; who opens afterwards, by any name, sees the new data too."""
    old = os.open(u / "d/f", os.O_RDONLY)
    assert content(old) == OLD
    number = os.fstat(old).st_ino
    new = change(u / "d/f", OLD)
    assert content(old) == new
    for name in ("d/f", "second"):
        assert (u / name).read_bytes() == new
        assert os.stat(u / name).st_size == len(new)
        assert os.stat(u / name).st_ino == number
    assert os.fstat(old).st_ino == number
    os.close(old)
    assert (u / "d/f").read_bytes() == new
    assert (u.branch(1) / "d/f").read_bytes() == OLD
    assert state(u)["fallbacks"] == 0
    if promise == "overlay":
        assert "read" not in counts(u)


def test_writer_first(u: Union, promise: str) -> None:
    """A reader that comes while a writer has the file open sees every write, before and after the copy-up."""
    writer = os.open(u / "d/f", os.O_RDWR)
    assert tree.names(u.branch(0)) == (set() if promise == "aufs" else {"d", "d/f"})
    readers = [os.open(u / name, os.O_RDONLY) for name in ("d/f", "second")]
    assert content(writer) == OLD
    os.pwrite(writer, b"NEW", 0)
    readers += [os.open(u / name, os.O_RDONLY) for name in ("d/f", "second")]
    os.pwrite(writer, b"!", 3)
    for fd in (*readers, writer):
        assert content(fd) == b"NEW!" + OLD[4:]
        os.close(fd)
    assert (u / "second").read_bytes() == (u.branch(0) / "d/f").read_bytes() == b"NEW!" + OLD[4:]
    assert (u.branch(1) / "d/f").read_bytes() == OLD
    eventually(lambda: state(u)["registered"] == 0, "release")


def test_mapping_first(u: Union, promise: str) -> None:
    """A mapping made before the copy-up keeps the old pages, as overlayfs' do; a later one shares its pages with writers."""
    with (u / "d/f").open("rb") as file:
        before = mmap.mmap(file.fileno(), len(OLD), access=mmap.ACCESS_READ)
    assert before[:] == OLD
    with (u / "second").open("r+b") as file:
        file.write(b"NEW")
        file.flush()
        with mmap.mmap(file.fileno(), 4096) as after:
            assert after[:3] == b"NEW"
            after[3:4] = b"!"
            assert (u / "d/f").read_bytes() == b"NEW!" + OLD[4:]
    if promise == "overlay":
        assert before[:] == OLD
    before.close()
    assert (u.branch(1) / "d/f").read_bytes() == OLD


def test_old_reader_reopened_by_descriptor_is_the_same_file(u: Union) -> None:
    """/proc/self/fd/N of an old reader gives what the descriptor gives, which is the present file; it can be written to."""
    old = os.open(u / "d/f", os.O_RDONLY)
    new = changes.write(u / "d/f", OLD)
    for _ in range(3):
        again = os.open(f"/proc/self/fd/{old}", os.O_RDWR)
        assert content(again) == content(old) == new
        os.close(again)
        assert (u / "second").read_bytes() == (u / "d/f").read_bytes() == new
    os.close(old)
    eventually(lambda: state(u)["registered"] == 0, "release")


def test_old_reader_changes_attributes_of_the_file(u: Union) -> None:
    """fchmod and fchown on a descriptor from before the copy-up show in the names at once, and the other way round."""
    old = os.open(u / "d/f", os.O_RDONLY)
    changes.write(u / "d/f", OLD)
    present = os.open(u / "d/f", os.O_RDONLY)
    os.fchmod(old, 0o640)
    for status in (os.stat(u / "d/f"), os.fstat(present), os.fstat(old), os.stat(u / "second")):
        assert status.st_mode & 0o777 == 0o640
    os.chmod(u / "second", 0o604)
    for status in (os.stat(u / "d/f"), os.fstat(present), os.fstat(old), os.stat(u / "second")):
        assert status.st_mode & 0o777 == 0o604
    os.close(old)
    os.close(present)


def test_removed_after_copy_up(u: Union) -> None:
    """Unlink and rename-over after the copy-up: old and new readers keep the copy."""
    old = os.open(u / "d/f", os.O_RDONLY)
    new = changes.write(u / "d/f", OLD)
    present = os.open(u / "d/f", os.O_RDONLY)
    (u / "fresh").write_text("fresh")
    os.rename(u / "fresh", u / "d/f")
    os.unlink(u / "second")
    assert content(present) == content(old) == new
    assert (u / "d/f").read_text() == "fresh"
    os.close(old)
    os.close(present)
    os.unlink(u / "d/f")
    assert sorted(os.listdir(u.mnt)) == ["d", "lock"]


def test_renamed_and_exchanged_while_read(u: Union) -> None:
    """A rename copies a lower file up under its readers."""
    old = os.open(u / "d/f", os.O_RDONLY)
    os.rename(u / "d/f", u / "moved")
    new = changes.append(u / "moved", OLD)
    assert content(old) == new
    assert (u / "moved").read_bytes() == (u / "second").read_bytes() == new
    os.close(old)


def test_long_copy_up_lets_readers_in(union: Workshop) -> None:
    """While data is copied in a thread readers may come; two writers at once make one copy, and none fails."""
    big = os.urandom(40 << 20)
    u = passing(union.mount("coherence=overlay", B0={}, B1={"big": big}))
    failures: list[BaseException] = []

    def write(place: int) -> None:
        try:
            with (u / "big").open("r+b") as file:
                file.seek(place)
                file.write(b"written")
        except BaseException as failure:
            failures.append(failure)

    readers = [os.open(u / "big", os.O_RDONLY)]
    writers = [threading.Thread(target=write, args=(place,)) for place in (0, 100)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        fd = os.open(u / "big", os.O_RDONLY)
        assert os.pread(fd, 7, 50) == big[50:57]
        readers.append(fd)
    for writer in writers:
        writer.join()
    assert not failures
    expected = b"written" + big[7:100] + b"written" + big[107:]
    assert (u / "big").read_bytes() == expected
    assert all(content(fd) == expected[: 1 << 20] for fd in readers)
    for fd in readers:
        os.close(fd)
    assert u.status()["counters"]["copy_ups"] == 1


def test_open_races_copy_up_and_release(union: Workshop, promise: str) -> None:
    """Readers hammer files that are copied up, linked and removed: they see old or new data whole and never an error."""
    count = 40
    new = b"NEW!" * 20000
    u = passing(union.mount(f"coherence={promise}", B0={}, B1={f"f{i}": OLD for i in range(count)}))
    failures: list[BaseException] = []
    done = threading.Event()

    def read(which: int) -> None:
        seen = 0
        try:
            while not done.is_set():
                name = f"f{(seen * 7 + which) % count}"
                seen += 1
                with (u / name).open("rb") as file:
                    data = file.read()
                assert data in (OLD, new) or promise == "aufs" or data[:4] == b"NEW!", data[:8]
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for index in range(count):
        fd = os.open(u / f"f{index}", os.O_RDWR)
        os.pwrite(fd, new, 0)
        os.close(fd)
        assert (u / f"f{index}").read_bytes() == new
        os.link(u / f"f{index}", u / "link")
        os.unlink(u / "link")
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert all((u / f"f{index}").read_bytes() == new for index in range(count))
    for index in range(count):
        os.unlink(u / f"f{index}")
    eventually(lambda: u.status()["counters"]["nodes"] == 1, "every node forgotten")
    assert state(u)["registered"] == 0


def test_empty_lower_file_is_one_lock(u: Union) -> None:
    """A lock taken on a descriptor from before the copy-up holds against those who come after it."""
    first = os.open(u / "lock", os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = os.open(u / "lock", os.O_RDWR)
    os.write(second, b"1")
    with refused("EAGAIN"):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    os.close(second)


# -- branch surgery and attributes ------------------------------------------------------------------------------


def test_branch_turns_writable_under_a_reader(union: Workshop) -> None:
    """The registration serves writers too then, since they may write to that very file."""
    u = passing(union.mount("br:{B0}=ro:{B1}=ro,coherence=overlay", changing="B1", B0={}, B1={"f": OLD}))
    u.allowed_log.append("the first branch is not rw")
    old = os.open(u / "f", os.O_RDONLY)
    assert u.change("mod:{B1}=rw").returncode == 0
    writer = os.open(u / "f", os.O_RDWR)
    os.pwrite(writer, b"NEW", 0)
    assert content(old) == content(writer) == (u.branch(1) / "f").read_bytes() == b"NEW" + OLD[3:]
    assert state(u)["registered"] == 1
    os.close(old)
    os.close(writer)


def test_writable_branch_added_over_a_reader(union: Workshop, promise: str) -> None:
    """Nothing could be copied up, so the reader passes through; then a writer comes: neither fails, the lower file stays."""
    u = passing(union.mount(f"br:{{B1}}=ro,coherence={promise}", branches={"B0": {}, "B1": {"f": OLD}}))
    u.allowed_log.append("the first branch is not rw")
    old = os.open(u / "f", os.O_RDONLY)
    assert state(u)["opens"] == 1
    assert u.change("prepend:{B0}=rw").returncode == 0
    new = changes.write(u / "f", OLD)
    assert (u / "f").read_bytes() == (u.branch(0) / "f").read_bytes() == new
    assert content(old) == OLD
    os.close(old)
    assert (u.branch(1) / "f").read_bytes() == OLD


def test_branch_of_an_old_reader_is_busy(union: Workshop) -> None:
    """The file was copied up, but somebody still reads the old one."""
    u = passing(union.mount("coherence=overlay", B0={}, B1={"f": OLD}, B2={}))
    old = os.open(u / "f", os.O_RDONLY)
    changes.write(u / "f", OLD)
    assert u.change("del:{B1}").returncode != 0
    assert str(os.getpid()) in unionfs("branch", "busy", u.mnt, u.branch(1), check=False).stdout
    os.close(old)
    eventually(lambda: u.change("del:{B1}").returncode == 0, "the branch is free")
    assert (u / "f").read_bytes() == b"NEW" + OLD[3:]


def test_branch_of_a_writer_stays_writable(union: Workshop) -> None:
    """Who writes past the server cannot be stopped, so `mod` to ro is EBUSY until the file is closed."""
    u = passing(union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0={}, B1={"f": OLD}))
    writer = os.open(u / "f", os.O_RDWR)
    done = u.change("mod:{B1}=ro")
    assert done.returncode != 0 and "/f is open for writing" in done.stderr
    os.pwrite(writer, b"NEW", 0)
    os.close(writer)
    eventually(lambda: u.change("mod:{B1}=ro").returncode == 0, "the file is closed")
    assert (u.branch(1) / "f").read_bytes() == b"NEW" + OLD[3:]
    assert changes.append(u / "f", OLD) and (u / "f").read_bytes() == b"NEW" + OLD[3:] + OLD
    assert (u.branch(1) / "f").read_bytes() == b"NEW" + OLD[3:]


def test_file_that_somebody_writes_to_is_not_moved_to_another_branch(union: Workshop) -> None:
    """A rename that would need a copy on a higher branch is EXDEV while the file is open for writing, and mv copies."""
    u = passing(
        union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0={"d/.wh..wh..opq": ""}, B1={"f": OLD, "d": Dir()})
    )
    writer = os.open(u / "f", os.O_RDWR)
    with refused("EXDEV"):
        os.rename(u / "f", u / "d/f")
    with refused("EXDEV"):
        os.link(u / "f", u / "d/f")
    os.pwrite(writer, b"NEW", 0)
    assert (u / "f").read_bytes() == b"NEW" + OLD[3:]
    os.close(writer)

    def moved() -> bool:
        try:
            os.rename(u / "f", u / "d/f")
        except OSError as error:
            assert error.errno == errno.EXDEV  # RELEASE comes after close(2) has returned
            return False
        return True

    eventually(moved, "rename")
    assert (u.branch(0) / "d/f").read_bytes() == b"NEW" + OLD[3:]


@pytest.mark.parametrize("attribute", ["coo_reg", "coo_all", "moo"])
def test_copied_or_moved_on_open_files_pass_through(union: Workshop, attribute: str) -> None:
    """What the branch attribute brings up is passed through where it arrives."""
    permission = "rw+moo" if attribute == "moo" else f"ro+{attribute}"
    u = passing(
        union.mount(f"br:{{B0}}=rw:{{B1}}={permission}", changing="B1", B0={}, B1={"f": OLD, "g": OLD})
    )
    assert (u / "f").read_bytes() == (u.branch(0) / "f").read_bytes() == OLD
    assert changes.write(u / "g", OLD) == (u / "g").read_bytes() == (u.branch(0) / "g").read_bytes()
    assert not counts(u).keys() & {"read", "write"}


def test_default_promise_is_overlayfs_where_data_passes(union: Workshop) -> None:
    """Without the option: overlayfs' promise under passthrough, AUFS' without."""
    for options, copied in (("", True), ("nopassthrough", False), ("coherence=aufs", False)):
        number = len(union.unions)
        layers = {
            f"T{number}": union.directory(f"T{number}"),
            f"L{number}": union.directory(f"L{number}", {"f": OLD}),
        }
        text = ",".join(filter(None, [f"br:{{T{number}}}=rw:{{L{number}}}=ro", options]))
        u = union.mount(text, branches=layers)
        if not options:
            passing(u)
        os.close(os.open(u / "f", os.O_RDWR))
        assert (layers[f"T{number}"] / "f").exists() == copied
