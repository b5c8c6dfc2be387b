# SPDX-License-Identifier: Apache-2.0
"""Who has a lower file open follows its copy-up, as on overlayfs: data, locks and names, and nothing of it stays in a branch."""

import errno
import fcntl
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.test_passthrough import counts, passing, state
from tests.support import syscalls, tree
from tests.support.errnos import refused
from tests.support.tree import Dir, HardLink
from tests.support.union import SESSIONS, Union, Workshop, eventually

OLD = b"old " * 20000
# How a union can be mounted as far as its old readers are concerned.
FORMS = {
    "default": "",
    "none": "udba=none",
    "notify": "udba=notify",
    "overlay": "udba=none,whiteout=overlay",
    "stackable": "stackable",
    "stackable-none": "stackable,udba=none",
    "aufs": "coherence=aufs",
    "nopassthrough": "nopassthrough",
}
direct = pytest.mark.parametrize("union", ["direct"], indirect=True)


@pytest.fixture(params=list(FORMS.values()), ids=list(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    """Give each form in turn."""
    assert isinstance(request.param, str)
    return request.param


def raw(path: Path) -> set[str]:
    """Return everything in a branch but what AUFS keeps in its root, whatever it is called."""
    found = {str(one.relative_to(path)) for one in path.rglob("*")}
    return found - {".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph"}


# -- what an old reader sees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("union", SESSIONS, indirect=True)
@pytest.mark.parametrize("size", [1, 40_000, 5 << 20, 100 << 20])
def test_reader_before_copy_up_sees_what_is_written_after(union: Workshop, form: str, size: int) -> None:
    """Read, then open to write and write: the first descriptor shows it (rpm's pattern), and appending too (tail -f)."""
    u = union.mount(form, B0={}, B1={"f": os.urandom(size)})
    old = os.open(u / "f", os.O_RDONLY)
    assert os.pread(old, 1, 0) == (u.branch(1) / "f").read_bytes()[:1]
    writer = os.open(u / "f", os.O_RDWR)
    os.pwrite(writer, b"HELLO", size // 2)
    assert os.pread(old, 5, size // 2) == b"HELLO"
    end = os.fstat(old).st_size
    with (u / "f").open("ab", buffering=0) as log:
        log.write(b"one more line\n")
        assert os.pread(old, 100, end) == b"one more line\n"
    assert os.fstat(old).st_size == end + 14 and os.fstat(old).st_ino == os.stat(u / "f").st_ino
    os.close(writer)
    os.close(old)
    assert os.stat(u.branch(0) / "f").st_size == end + 14
    assert os.stat(u.branch(1) / "f").st_size == size


@pytest.mark.parametrize("union", SESSIONS, indirect=True)
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_lock_before_copy_up_holds_after_it(union: Workshop, form: str, size: int) -> None:
    """flock and fcntl locks of a reader keep out who opens the file for writing afterwards."""
    u = union.mount(form, B0={}, B1={"f": bytes(size), "g": bytes(size)})
    shared = os.open(u / "f", os.O_RDONLY)
    fcntl.flock(shared, fcntl.LOCK_SH)
    writer = os.open(u / "f", os.O_RDWR)
    with refused("EAGAIN"):
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(shared)
    fcntl.flock(writer, fcntl.LOCK_EX)
    os.close(writer)
    reader = os.open(u / "g", os.O_RDONLY)
    fcntl.lockf(reader, fcntl.LOCK_SH)
    code = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, u / "g"], check=False)
    assert done.returncode == 7
    os.close(reader)


@direct
@pytest.mark.parametrize("form", [FORMS["default"], FORMS["none"], FORMS["overlay"]], indirect=True)
def test_lower_file_is_read_from_the_page_cache_of_its_branch(union: Workshop, form: str) -> None:
    """Two unions over one branch: neither has pages of its own, whether the file is read or mapped."""
    layer = union.directory("layer", {"program": os.urandom(1 << 20)})
    for number in range(2):
        top = union.directory(f"T{number}")
        text = ",".join(filter(None, [form, "br:{T}=rw:{L}=ro"]))
        u = passing(union.mount(text, changing="T", branches={"T": top, "L": layer}))
        with (u / "program").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert file.read() == mapped[:] == (layer / "program").read_bytes()
            assert syscalls.cached_pages(file.fileno()) == 0
            now = state(u)
            assert (now["overlays"], now["registered"], now["fallbacks"]) == (1, 1, 0)
        assert "read" not in counts(u)


@pytest.fixture(params=["default", "none", "overlay"])
def u(union: Workshop, request: pytest.FixtureRequest) -> Union:
    """Give a union with a lower file of two names that passes through."""
    layer: tree.Tree = {"d/e/f": OLD, "second": HardLink("d/e/f"), "other": OLD[::-1]}
    return passing(union.mount(FORMS[request.param], B0={}, B1=layer))


def reads(path: Path) -> bytes:
    """Return a file's content; nothing while the kernel believes in a name of before a direct change."""
    try:
        return path.read_bytes()
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ESTALE)
        return b""


def write(path: Path, data: bytes = b"NEW") -> None:
    """Write over the beginning."""
    with path.open("r+b", buffering=0) as file:
        file.write(data)


@pytest.fixture
def old(u: Union) -> Iterator[int]:
    """Give a descriptor that reads the lower file, opened before anything happens."""
    fd = os.open(u / "d/e/f", os.O_RDONLY)
    assert os.pread(fd, len(OLD), 0) == OLD
    yield fd
    os.close(fd)


@direct
def test_reader_follows_whatever_copies_the_file_up(u: Union, old: int) -> None:
    """chmod, a link, a rename and a removal of a name do not part the reader from the file."""
    number = os.fstat(old).st_ino
    (u / "d/e/f").chmod(0o640)
    os.link(u / "d/e/f", u / "third")
    os.rename(u / "d/e/f", u / "d/g")
    write(u / "second", b"ONE")
    assert os.pread(old, 4, 0) == b"ONE "
    os.unlink(u / "second")
    write(u / "third", b"TWO")
    os.unlink(u / "third")
    write(u / "d/g", b"SIX")
    assert os.pread(old, 4, 0) == (u / "d/g").read_bytes()[:4] == b"SIX "
    status = os.fstat(old)
    assert (status.st_ino, status.st_mode & 0o777, status.st_nlink) == (number, 0o640, 1)
    os.unlink(u / "d/g")
    assert os.fstat(old).st_nlink == 0 and os.pread(old, 4, 0) == b"SIX "
    assert state(u)["registered"] == 1


@direct
def test_truncation_shows_to_a_reader(u: Union, old: int) -> None:
    """truncate(2), ftruncate(2) and O_TRUNC."""
    os.truncate(u / "second", 10)
    assert os.pread(old, 100, 0) == OLD[:10] and os.fstat(old).st_size == 10
    (u / "second").write_bytes(b"all new")
    assert os.pread(old, 100, 0) == b"all new"
    with (u / "d/e/f").open("r+b") as file:
        file.truncate(3)
        assert os.pread(old, 100, 0) == b"all"
    assert (u.branch(0) / "d/e/f").exists() or (u.branch(0) / "second").exists()


@direct
def test_removed_lower_file_is_changed_under_its_readers(u: Union, old: int) -> None:
    """Unlinked but open: what is written by /proc/self/fd shows to the reader and nowhere else."""
    os.unlink(u / "second")
    os.unlink(u / "d/e/f")
    (u / "d/e/f").write_text("another file")
    writer = os.open(f"/proc/self/fd/{old}", os.O_RDWR)
    os.pwrite(writer, b"NEW", 0)
    assert os.pread(old, 4, 0) == os.pread(writer, 4, 0) == b"NEW "
    assert (u / "d/e/f").read_text() == "another file"
    os.close(writer)


@direct
def test_new_mapping_of_a_writer_shares_its_pages_with_readers(u: Union, old: int) -> None:
    """Shared mappings of who opened for writing after the copy-up, O_SYNC or not, are seen by read(2) of an old reader."""
    writer = os.open(u / "d/e/f", os.O_RDWR | os.O_SYNC)
    with mmap.mmap(writer, 4096) as shared:
        shared[:3] = b"MAP"
        assert os.pread(old, 4, 0) == b"MAP "
        os.pwrite(writer, b"WRITE", 8)
        assert shared[8:13] == b"WRITE" == os.pread(old, 5, 8)
        assert os.pwritev(writer, [b"SYNC"], 16, os.RWF_DSYNC) == 4
        assert shared[16:20] == b"SYNC"
        shared.flush()
    os.fsync(writer)
    os.close(writer)


@direct
@pytest.mark.parametrize(
    "form", [FORMS["default"], FORMS["stackable"], FORMS["nopassthrough"]], indirect=True
)
@pytest.mark.parametrize("way", ["O_SYNC", "O_DSYNC", "RWF_SYNC", "RWF_DSYNC"])
def test_synchronous_write_beside_a_reader_is_on_the_disk(union: Workshop, form: str, way: str) -> None:
    """By a flag of the descriptor or of the call: what was written is in the device before the call returns."""
    disk = union.block_device("disk", 32)
    (disk / "top").mkdir()
    low = union.directory("low", {"f": OLD})
    u = union.mount(form, branches={"B0": disk / "top", "B1": low})
    mark = b"synchronous " + way.encode() + form.encode()
    with (u / "f").open("rb") as reader:
        flags, call = (getattr(os, way), 0) if way.startswith("O") else (0, getattr(os, way))
        writer = os.open(u / "f", os.O_RDWR | flags)
        assert os.pwritev(writer, [mark], 5000, call) == len(mark)
        assert mark in (union.root / "disk.image").read_bytes()
        assert os.pread(reader.fileno(), len(mark), 5000) == mark
        os.close(writer)
    u.stop()


@direct
def test_writers_and_readers_come_and_go(u: Union, old: int) -> None:
    """While one old reader stays, all others use the same registration."""
    for round_ in range(5):
        write(u / "d/e/f", b"%03d" % round_)
        assert (u / "second").read_bytes()[:3] == os.pread(old, 3, 0) == b"%03d" % round_
    eventually(lambda: state(u)["registered"] == 1, "release")
    before = counts(u)["write"]
    again = os.open(u / "d/e/f", os.O_RDONLY)
    os.close(again)
    assert counts(u)["write"] == before


@direct
def test_no_reader_no_requests_after_the_last_release(u: Union) -> None:
    """After the last reader has gone a copied-up file is written to without the server."""
    with (u / "d/e/f").open("rb"):
        write(u / "d/e/f", b"ONE")
    eventually(lambda: state(u)["registered"] == 0, "release")
    before = counts(u).get("write", 0)
    write(u / "d/e/f", b"TWO")
    assert counts(u).get("write", 0) == before
    assert (u.branch(0) / "d/e/f").read_bytes()[:4] == b"TWO "


# -- what stays in the branches ---------------------------------------------------------------------------------


@direct
def test_copy_is_an_ordinary_file_of_the_branch(u: Union) -> None:
    """The attributes of the original, the data, one link, none of overlayfs' marks; the directory keeps its time."""
    before = os.stat(u.branch(1) / "other")
    directory = os.stat(u.mnt).st_mtime_ns
    with (u / "other").open("rb"):
        (u / "other").chmod(0o604)
        copy = u.branch(0) / "other"
        status = os.stat(copy)
        assert (status.st_nlink, status.st_mode & 0o7777) == (1, 0o604)
        assert status.st_mtime_ns == before.st_mtime_ns and copy.read_bytes() == OLD[::-1]
        assert not [name for name in os.listxattr(copy) if "overlay" in name]
        assert os.stat(u.mnt).st_mtime_ns == directory


@direct
def test_private_mount_shows_nowhere(u: Union, old: int) -> None:
    """Neither in listings of the union, nor in its link counts, nor in a mount table."""
    assert sorted(os.listdir(u.mnt)) == ["d", "other", "second"]
    assert os.stat(u.mnt).st_nlink == 3
    with (u / "other").open("rb"):
        write(u / "other")
    assert os.stat(u.mnt).st_nlink == 3
    kinds = [
        line.split(" - ")[1].split()[0] for line in Path(f"/proc/{u.pid}/mountinfo").read_text().splitlines()
    ]
    own = [line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert kinds.count("overlay") == own.count("overlay")


@direct
@pytest.mark.parametrize("form", [FORMS["default"], FORMS["overlay"]], indirect=True)
def test_umount_leaves_the_copies_alone(union: Workshop, form: str) -> None:
    """Nothing but what was copied up, whether or not a reader was there to the end."""
    u = passing(union.mount(form, B0={}, B1={"d/f": OLD, "g": OLD, "h": OLD}))
    with (u / "d/f").open("rb"), (u / "g").open("rb"):
        write(u / "d/f")
        assert raw(u.branch(0)) > {"d", "d/f"}
    u.stop()
    assert raw(u.branch(0)) == {"d", "d/f"}


@direct
@pytest.mark.parametrize("form", [FORMS["default"], FORMS["overlay"]], indirect=True)
def test_killed_server_leaves_nothing_for_good(union: Workshop, form: str) -> None:
    """kill -9 with readers and copies: the next mount removes the private directory, and shows what was written."""
    u = passing(union.mount(form, B0={}, B1={"d/f": OLD, "g": OLD}))
    fds = [os.open(u / name, os.O_RDONLY) for name in ("d/f", "g")]
    write(u / "d/f")
    u.kill()
    for fd in fds:
        os.close(fd)
    assert raw(u.branch(0)) > {"d", "d/f"}
    u.start()
    assert (u / "d/f").read_bytes() == b"NEW" + OLD[3:]
    assert not any("follow" in name for name in raw(u.branch(0)))
    u.stop()
    assert raw(u.branch(0)) == {"d", "d/f"}


@direct
def test_space_of_a_removed_copy_is_given_back(union: Workshop) -> None:
    """The private mount does not hold a file that nobody else has any more."""
    upper = union.filesystem("upper")
    u = passing(union.mount("", branches={"B0": upper, "B1": union.directory("B1", {"f": bytes(8 << 20)})}))
    free = os.statvfs(upper).f_bfree
    with (u / "f").open("rb"):
        write(u / "f")
    assert os.statvfs(upper).f_bfree < free - 1000
    os.unlink(u / "f")
    eventually(lambda: os.statvfs(upper).f_bfree > free - 100, "free space")


@direct
@pytest.mark.parametrize("size", [100_000, 3 << 20])
def test_copy_up_without_space_changes_nothing(union: Workshop, size: int) -> None:
    """ENOSPC: the reader, the name and the branches are as before, and it works as soon as there is space."""
    upper = union.filesystem("upper", data="mode=755,size=4m")
    u = passing(union.mount("", branches={"B0": upper, "B1": union.directory("B1", {"f": bytes(size)})}))
    filler = 4 * (1 << 20) - size // 2
    (u / "filler").write_bytes(bytes(filler))
    with (u / "f").open("rb") as reader:
        for _ in range(2):
            with refused("ENOSPC"):
                os.open(u / "f", os.O_RDWR)
        assert os.pread(reader.fileno(), size, 0) == bytes(size)
        assert not (upper / "f").exists() and not list(upper.rglob("f"))
        os.unlink(u / "filler")

        def written() -> bool:
            try:
                write(u / "f")
            except OSError as error:
                assert error.errno == errno.ENOSPC  # the filler goes with its RELEASE
                return False
            return True

        eventually(written, "space")
        assert os.pread(reader.fileno(), 4, 0) == b"NEW\0"
    assert (upper / "f").stat().st_size == size


# -- changes behind the union's back, and of its branches -------------------------------------------------------


@direct
def test_lower_file_replaced_on_its_branch_is_never_the_former_one(union: Workshop) -> None:
    """Replaced by rename, or in a directory that was: whoever opens it gets what is there, and so does a copy-up."""
    u = passing(union.mount(changing="B1", B0={}, B1={"d/f": OLD, "e/g": OLD}))
    low = u.branch(1)
    with (u / "d/f").open("rb") as first:
        (low / "d/new").write_bytes(b"2" * 50000)
        os.rename(low / "d/new", low / "d/f")
        eventually(lambda: reads(u / "d/f")[:1] == b"2", "the new file")
        assert first.read(4) == b"old "
        write(u / "d/f", b"NEW")
        assert (u / "d/f").read_bytes() == b"NEW" + b"2" * 49997
        assert os.pread(first.fileno(), 4, 0) == b"old "
    assert (u / "e/g").read_bytes() == OLD
    os.rename(low / "e", low / "former")
    (low / "e").mkdir()
    (low / "e/g").write_bytes(b"3" * 50000)
    shutil.rmtree(low / "former")
    eventually(lambda: reads(u / "e/g")[:1] == b"3", "the third file")
    with (u / "e/g").open("rb") as second:
        write(u / "e/g", b"NEW")
        assert second.read() == (u.branch(0) / "e/g").read_bytes() == b"NEW" + b"3" * 49997
    assert (low / "e/g").read_bytes() == b"3" * 50000


@direct
def test_lower_file_that_shows_again_is_not_the_copy(union: Workshop) -> None:
    """The copy is removed directly while a reader follows it: the name is the lower file again, for readers and writers."""
    u = passing(union.mount(B0={}, B1={"f": OLD}))
    with (u / "f").open("rb") as first:
        write(u / "f")
        os.unlink(u.branch(0) / "f")
        eventually(lambda: reads(u / "f") == OLD, "the lower file")
        assert os.pread(first.fileno(), 4, 0) == b"NEW "
        write(u / "f", b"TWO")
        assert (u / "f").read_bytes() == (u.branch(0) / "f").read_bytes() == b"TWO" + OLD[3:]
        assert os.pread(first.fileno(), 4, 0) == b"NEW "
    assert (u.branch(1) / "f").read_bytes() == OLD


@direct
def test_branch_can_go_when_nobody_reads_from_it(union: Workshop) -> None:
    """A private mount does not keep a branch's filesystem: del, then umount, for lower and upper ones."""
    low, top = union.filesystem("low", {"f": OLD}), union.filesystem("top")
    u = passing(
        union.mount(
            "br:{T}=rw:{B0}=rw:{L}=ro",
            changing="B0",
            branches={"T": top, "B0": union.directory("B0"), "L": low},
        )
    )
    assert (u / "f").read_bytes() == OLD
    write(u / "f")
    eventually(lambda: state(u)["registered"] == 0, "release")
    assert u.change("del:{L}").returncode == 0
    assert u.change("del:{T}").returncode == 0
    assert state(u)["overlays"] == 0
    assert raw(low) == {"f"} and raw(top) == {"f"}


@direct
def test_branch_turns_read_only_and_writable_again(union: Workshop) -> None:
    """mod of the upper branch under a reader: it keeps reading, and a later writer loses nothing."""
    u = passing(union.mount(B0={}, B1={"f": OLD, "g": OLD}))
    u.allowed_log.append("the first branch is not rw")
    with (u / "f").open("rb") as first:
        assert u.change("mod:{B0}=ro").returncode == 0
        with refused("EROFS"):
            os.open(u / "f", os.O_RDWR)
        assert u.change("mod:{B0}=rw").returncode == 0
        write(u / "f")
        assert (u / "f").read_bytes() == (u.branch(0) / "f").read_bytes() == b"NEW" + OLD[3:]
        assert os.pread(first.fileno(), 3, 0) in (b"NEW", b"old")
    with (u / "g").open("rb") as second:
        write(u / "g")
        assert os.pread(second.fileno(), 3, 0) == b"NEW"


@direct
def test_lower_branch_that_turned_writable_is_written_to_itself(union: Workshop) -> None:
    """Nothing may be written into the private mount: a writer after `mod` writes to the branch's file, and readers see it."""
    u = passing(union.mount("br:{B0}=rw:{B1}=ro", changing="B1", B0={}, B1={"f": OLD}))
    with (u / "f").open("rb") as first:
        assert u.change("mod:{B1}=rw").returncode == 0
        write(u / "f")
        assert os.pread(first.fileno(), 3, 0) == (u.branch(1) / "f").read_bytes()[:3] == b"NEW"
    assert not (u.branch(0) / "f").exists()


@direct
def test_several_writable_branches_one_is_followed_to(union: Workshop) -> None:
    """The copy goes where the policy says, and the reader follows it there."""
    text = "br:{B0}=rw:{B1}=rw:{B2}=ro"
    u = passing(union.mount(text, changing="B1", B0={}, B1={"d": Dir()}, B2={"d/f": OLD}))
    with (u / "d/f").open("rb") as first:
        write(u / "d/f")
        assert os.pread(first.fileno(), 3, 0) == b"NEW"
    assert (u.branch(1) / "d/f").read_bytes() == b"NEW" + OLD[3:]
    assert not (u.branch(0) / "d").exists()


@direct
def test_program_is_followed_too(union: Workshop) -> None:
    """A lower program runs, is busy while it runs, and can be changed in place afterwards under a reader."""
    low = union.directory("low")
    shutil.copy("/bin/sleep", low / "sleep")
    u = passing(union.mount(branches={"B0": union.directory("B0"), "B1": low}))
    running = subprocess.Popen([u / "sleep", "1000"])
    try:
        with refused("ETXTBSY"):
            os.open(u / "sleep", os.O_RDWR)
    finally:
        running.kill()
        running.wait()
    with (u / "sleep").open("rb") as first:

        def written() -> bool:
            try:
                write(u / "sleep", b"#!no")
            except OSError as error:
                assert error.errno == errno.ETXTBSY  # the exit of a process comes after it was waited for
                return False
            return True

        eventually(written, "the end of the program")
        assert first.read(4) == b"#!no"


@direct
def test_fallback_passes_programs_alone(union: Workshop) -> None:
    """With `stackable` programs and libraries come from the branch's page cache, other lower files through the server."""
    low = union.directory("low", {"data": OLD, "script": "#!/bin/sh\n" + "#" * 40000})
    shutil.copy("/bin/true", low / "true")
    (low / "script").chmod(0o755)
    (low / "lib.so").write_bytes(b"\x7fELF" + bytes(50000))
    u = passing(union.mount("stackable", branches={"B0": union.directory("B0"), "B1": low}))
    for name, passes in (("data", False), ("script", True), ("true", True), ("lib.so", True)):
        before = state(u)["opens"]
        assert (u / name).read_bytes() == (low / name).read_bytes()
        assert state(u)["opens"] == before + passes, name
    assert state(u)["overlays"] == 0
