# SPDX-License-Identifier: Apache-2.0
"""Small lower files in the direct session with udba=none: the kernel has their data when it opens them."""

import mmap
import os
from pathlib import Path

import pytest

from tests.mount.test_passthrough import counts, passing, state
from tests.support import changes
from tests.support.tree import HardLink
from tests.support.union import Union, Workshop, eventually

pytestmark = pytest.mark.parametrize("union", ["direct"], indirect=True)

OLD = b"old " * 2500


@pytest.fixture
def u(union: Workshop) -> Union:
    """Give a union with a small lower file that has two names."""
    return passing(
        union.mount("udba=none,coherence=overlay", B0={}, B1={"f": OLD, "second": HardLink("f"), "g": "g"})
    )


def content(fd: int) -> bytes:
    """Return all of an open file."""
    return os.pread(fd, 1 << 20, 0)


def test_reading_takes_an_open_and_a_release_whatever_is_asked_then(u: Union) -> None:
    """No READ, and no GETATTR for what follows a read; that holds for every name and every later open."""

    def asked() -> set[str]:
        before = counts(u)
        for name in ("f", "second", "f", "f"):
            with (u / name).open("rb", buffering=0) as file:
                assert file.read() == OLD
                assert os.fstat(file.fileno()).st_size == len(OLD)
            assert os.stat(u / name).st_mtime_ns == os.stat(u.branch(1) / "f").st_mtime_ns
        after = counts(u)
        return {kind for kind in after if after[kind] != before.get(kind, 0)}

    for name in ("f", "second", "f", "g"):
        os.stat(u / name)
    # Not at once where somebody else has the kernel drop its caches.
    eventually(lambda: asked() <= {"open", "release"}, "reading without questions")
    assert state(u)["opens"] == state(u)["fallbacks"] == 0


def test_data_that_the_kernel_dropped_is_fetched_and_given_again(u: Union) -> None:
    """Under memory pressure pages go at any time."""
    for _ in range(3):
        with (u / "f").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == OLD
    assert counts(u)["read"] > 0
    eventually(lambda: u.status()["counters"]["handles"] == 0, "release")
    asked = counts(u)["read"]
    for _ in range(2):
        assert (u / "f").read_bytes() == OLD
    assert counts(u)["read"] == asked


def replace(path: Path, old: bytes) -> bytes:
    """Give both names to other files."""
    (path.parent / "fresh").write_bytes(b"fresh")
    os.rename(path.parent / "fresh", path.parent / "second")
    os.rename(path.parent / "second", path)
    os.symlink("f", path.parent / "second")
    return b"fresh"


@pytest.mark.parametrize("change", [*changes.DATA, replace], ids=lambda f: f.__name__)
def test_old_reader_sees_the_new_data_unless_the_name_is_another_file(
    u: Union, change: changes.Change
) -> None:
    """As on a plain filesystem, with either promise; also in pages that the kernel must fetch again."""
    old = os.open(u / "f", os.O_RDONLY)
    assert content(old) == OLD
    new = change(u / "f", OLD)
    expected = OLD if change is replace else new
    assert content(old) == expected
    os.posix_fadvise(old, 0, 0, os.POSIX_FADV_DONTNEED)
    assert content(old) == expected
    assert os.fstat(old).st_size == len(expected) and os.stat(u / "f").st_size == len(new)
    again = os.open(f"/proc/self/fd/{old}", os.O_RDONLY)
    assert content(again) == expected
    assert (u / "f").read_bytes() == (u / "second").read_bytes() == new == (u.branch(0) / "f").read_bytes()
    os.close(again)
    os.close(old)
    assert (u / "f").read_bytes() == new
    assert (u.branch(1) / "f").read_bytes() == OLD
    eventually(lambda: state(u)["registered"] == 0, "release")


def test_mapping_from_before_the_copy_up_shows_what_is_written(u: Union) -> None:
    """It outlives its descriptor."""
    with (u / "f").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), len(OLD), access=mmap.ACCESS_READ)
    assert mapped[:] == OLD
    new = changes.write(u / "f", OLD)
    assert mapped[:] == (u / "f").read_bytes() == new
    mapped.close()
    eventually(lambda: u.status()["counters"]["handles"] == 0, "release")
    assert changes.append(u / "f", OLD) and (u / "f").read_bytes() == new + OLD


def test_changed_file_on_a_branch_made_read_only_is_read_anew(union: Workshop) -> None:
    """What was given before the branch was writable is not believed afterwards."""
    u = passing(union.mount("udba=none,br:{B0}=rw:{B1}=ro", changing="B1", B0={}, B1={"f": OLD}))
    assert (u / "f").read_bytes() == OLD
    assert u.change("mod:{B1}=rw").returncode == 0
    new = changes.write(u / "f", OLD)
    assert (u.branch(1) / "f").read_bytes() == (u / "f").read_bytes() == new
    eventually(lambda: u.change("mod:{B1}=ro").returncode == 0, "the file is closed")
    assert (u / "f").read_bytes() == new


def test_branch_turns_writable_under_a_reader(union: Workshop) -> None:
    """A writer that comes then and the reader from before see the same."""
    u = passing(
        union.mount("udba=none,br:{B0}=ro:{B1}=ro,coherence=overlay", changing="B1", B0={}, B1={"f": OLD})
    )
    u.allowed_log.append("the first branch is not rw")
    old = os.open(u / "f", os.O_RDONLY)
    assert u.change("mod:{B1}=rw").returncode == 0
    writer = os.open(u / "f", os.O_RDWR)
    os.pwrite(writer, b"NEW", 0)
    assert content(old) == content(writer) == (u.branch(1) / "f").read_bytes() == b"NEW" + OLD[3:]
    os.close(old)
    os.close(writer)
