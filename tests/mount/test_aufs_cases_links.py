# SPDX-License-Identifier: Apache-2.0
"""AUFS' acceptance cases 23–25 and 30–32: hard links over branches, open descriptors, inode numbers."""

import fcntl
import os
import shutil

from tests.support import syscalls, tree
from tests.support.tree import Dir, HardLink
from tests.support.union import DEADLINE, Union, Workshop, eventually

PAIR: tree.Tree = {"a": "old\n", "b": HardLink("a")}


def _append(u: Union, name: str, text: str) -> None:
    with (u / name).open("a") as file:
        file.write(text)


def _is_flushing(u: Union) -> bool:
    fd = os.open(u.branch(0) / ".wh..wh.plnk", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _has_ended(u: Union) -> bool:
    return u.process is not None and u.process.poll() is not None


def test_write_hard_linked_lower_file_shows_under_every_name(union: Workshop) -> None:
    """Case 23: one copy in B0, both names one inode with nlink 2; flush makes the second a real link."""
    u = union.mount(B0={}, B1=PAIR)
    _append(u, "a", "FOO\n")
    assert tree.names(u.branch(0)) == {"a"}
    first, second = (u / "a").stat(), (u / "b").stat()
    assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)
    assert second.st_nlink == 2
    assert (u / "b").read_text() == "old\nFOO\n"
    u.flush()
    assert (u.branch(0) / "a").samefile(u.branch(0) / "b")
    assert os.listdir(u.branch(0) / ".wh..wh.plnk") == []
    u.remount()
    assert (u / "a").read_text() == (u / "b").read_text() == "old\nFOO\n"
    assert (u / "a").stat().st_nlink == 2


def test_umount_with_pseudo_link_makes_it_real(union: Workshop) -> None:
    """Case 23: even without an explicit flush both names agree after umount and mount."""
    u = union.mount(B0={}, B1=PAIR)
    _append(u, "b", "FOO\n")
    u.remount()
    assert (u / "a").read_text() == (u / "b").read_text() == "old\nFOO\n"
    assert os.listdir(u.branch(0) / ".wh..wh.plnk") == []


def test_umount_with_notify_flushes_directories_never_looked_at(union: Workshop) -> None:
    """The watches have ended by then; directories that only the flush opens are not watched any more."""
    u = union.mount("udba=notify", B0={}, B1={"d/a": "old\n", "e/b": HardLink("d/a")})
    _append(u, "d/a", "new\n")
    u.stop()
    assert (u.branch(0) / "e/b").samefile(u.branch(0) / "d/a")


def test_mount_right_after_umount_waits_for_the_flush(union: Workshop) -> None:
    """The server makes the links when umount(2) has returned; who mounts the branches again at once finds them made."""
    u = union.mount(B0={}, B1={**PAIR, **{f"d{number}": Dir() for number in range(1500)}})
    _append(u, "b", "FOO\n")
    again = union.prepare("", "", dict(u.branches))
    syscalls.umount2(str(u.mnt))
    eventually(lambda: _is_flushing(u) or _has_ended(u), "the flush")
    again.start()
    assert again.status()["counters"]["plinks"] == 0
    assert (again / "a").read_text() == (again / "b").read_text() == "old\nFOO\n"
    assert u.process is not None
    u.process.wait(DEADLINE)


def test_write_hard_linked_lower_file_with_noplink_splits(union: Workshop) -> None:
    """Case 24: with noplink the other name keeps the old content."""
    u = union.mount("noplink", B0={}, B1=PAIR)
    _append(u, "a", "FOO\n")
    assert (u / "a").read_text() == "old\nFOO\n"
    assert (u / "b").read_text() == "old\n"


def test_link_lower_file_copies_up_under_the_new_name(union: Workshop) -> None:
    """Case 25: B0 has the new name only; both are one inode, and a write shows through both."""
    u = union.mount(B0={}, B1={"a": "old"})
    (u / "n").hardlink_to(u / "a")
    assert tree.names(u.branch(0)) == {"n"}
    first, second = (u / "a").stat(), (u / "n").stat()
    assert first.st_ino == second.st_ino
    assert (first.st_nlink, second.st_nlink) == (2, 2)
    _append(u, "n", "+new")
    assert (u / "a").read_text() == "old+new"


def test_read_descriptor_opened_before_copy_up_sees_new_data(union: Workshop) -> None:
    """Case 30: an old reader follows the file to its new copy, and its inode number stays."""
    u = union.mount("coherence=aufs", B0={}, B1={"f": "old"})
    with (u / "f").open("rb", buffering=0) as reader:
        assert reader.read() == b"old"
        with (u / "f").open("r+b", buffering=0) as writer:
            writer.write(b"NEW")
            assert os.pread(reader.fileno(), 10, 0) == b"NEW"
            assert os.fstat(reader.fileno()).st_ino == os.fstat(writer.fileno()).st_ino


def test_inode_number_is_stable_and_equals_d_ino(union: Workshop) -> None:
    """Case 31: copy-up, rename and chmod keep st_ino; readdir gives the same number."""
    u = union.mount(B0={}, B1={"d/f": "f", "d/g": "g", "e/f": "f"})
    before = (u / "d/f").stat().st_ino
    directory = (u / "d").stat().st_ino
    assert {e.name: e.inode() for e in os.scandir(u / "d")}["f"] == before
    (u / "d/f").chmod(0o600)
    _append(u, "d/f", "x")
    assert (u / "d/f").stat().st_ino == before
    assert (u / "d").stat().st_ino == directory
    assert {e.name: e.inode() for e in os.scandir(u / "d")}["f"] == before
    (u / "d/f").rename(u / "e/moved")
    assert (u / "e/moved").stat().st_ino == before
    u.remount()
    assert (u / "e/moved").stat().st_ino == before


def test_inode_numbers_of_two_filesystems_never_collide(union: Workshop) -> None:
    """Case 31: equal numbers on two branch filesystems become different ones, on one st_dev."""
    one = union.filesystem("T1", {f"a{n}": "" for n in range(5)})
    two = union.filesystem("T2", {f"b{n}": "" for n in range(5)})
    u = union.mount("br:{B0}:{T1}:{T2}", B0={}, T1=one, T2=two)
    below = {(one / f"a{n}").stat().st_ino for n in range(5)} & {
        (two / f"b{n}").stat().st_ino for n in range(5)
    }
    assert below, "the test wants equal numbers on the branches"
    status = [entry.stat() for entry in os.scandir(u.mnt)]
    assert len({s.st_ino for s in status}) == 10
    assert {s.st_dev for s in status} == {u.mnt.stat().st_dev}


def test_write_unlinked_open_lower_file_leaves_nothing(union: Workshop) -> None:
    """Case 32: the descriptor still writes and reads after file and parent are gone; no leftover after close."""
    u = union.mount(B0={}, B1={"d/f": "old"})
    with (u / "d/f").open("r+b", buffering=0) as file:
        (u / "d/f").unlink()
        (u / "d").rmdir()
        file.seek(0, os.SEEK_END)
        file.write(b"+new")
        assert os.pread(file.fileno(), 100, 0) == b"old+new"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert tree.names(u.branch(0)) == {".wh.d"}
    assert os.listdir(u.branch(0) / ".wh..wh.orph") == []


def test_truncate_unlinked_open_lower_file_works(union: Workshop) -> None:
    """Case 32: so do ftruncate and fchmod on the orphan."""
    u = union.mount(B0={}, B1={"f": "0123456789"})
    with (u / "f").open("r+b", buffering=0) as file:
        (u / "f").unlink()
        os.ftruncate(file.fileno(), 4)
        os.fchmod(file.fileno(), 0o600)
        assert os.pread(file.fileno(), 100, 0) == b"0123"
    assert tree.names(u.branch(0)) == {".wh.f"}


def test_rmdir_open_directory_stays_usable(union: Workshop) -> None:
    """A removed directory that is open lists as empty and refuses new names."""
    u = union.mount(B0={}, B1={"d/f": "f"})
    fd = os.open(u / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        shutil.rmtree(u / "d")
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


def test_flush_finds_names_in_directories_never_looked_at(union: Workshop) -> None:
    """Pseudo-links are flushed to names in sub-directories that the kernel does not know of."""
    u = union.mount(B0={}, B1={"a": "old", "d/e/b": HardLink("a"), "f/c": HardLink("a")})
    (u / "a").write_text("new")
    u.flush()
    names = [u.branch(0) / name for name in ("a", "d/e/b", "f/c")]
    assert len({name.stat().st_ino for name in names}) == 1
    assert os.listdir(u.branch(0) / ".wh..wh.plnk") == []
    assert {name.read_text() for name in names} == {"new"}
    assert len({(u / name).stat().st_ino for name in ("a", "d/e/b", "f/c")}) == 1
