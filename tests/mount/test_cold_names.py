# SPDX-License-Identifier: Apache-2.0
"""Directories that the server has forgotten, with udba=none: what it does not ask of branches is right all the same."""

import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.union import Union, Workshop, eventually, unionfs

_DROP = Path("/proc/sys/vm/drop_caches")


def _forget_all(u: Union) -> None:
    """Make the kernel, and with it the server, forget everything that is not in use."""

    def forgotten() -> bool:
        try:
            _DROP.write_text("2")
        except OSError:
            pytest.skip("caches cannot be dropped here")
        return bool(u.status()["counters"]["nodes"] == 1)

    eventually(forgotten, "every node forgotten")


def _numbers(u: Union) -> dict[str, int]:
    names = ("d", "d/f", "d/g", "e", "e/sub", "e/sub/f", "new")
    return {name: (u / name).stat().st_ino for name in names}


@pytest.mark.parametrize("held", [{}, {"old/f": "f"}])
def test_numbers_stay_when_everything_is_forgotten(union: Workshop, held: dict[str, str]) -> None:
    """On a branch that was empty at the mount, and on another one: copies keep their numbers, as do those renamed later."""
    lower = {"d/f": "f", "d/g": "g", "e/sub/f": "f"}
    u = union.mount("udba=none", B0=held, B1=lower)
    (u / "new").mkdir()
    before = _numbers(u)
    (u / "d/f").chmod(0o600)
    (u / "e/sub/f").write_text("longer")
    assert _numbers(u) == before
    _forget_all(u)
    assert _numbers(u) == before
    (u / "d/f").rename(u / "new/f")
    moved = (u / "new/f").stat().st_ino
    _forget_all(u)
    assert moved == (u / "new/f").stat().st_ino == before["d/f"]
    (u / "new/f").rename(u / "d/f")
    u.remount()
    assert _numbers(u) == before


def test_numbers_stay_when_trust_ends(union: Workshop) -> None:
    """After a remount with udba=reval others may bring marked directories; after one more with udba=none they count."""
    u = union.mount("udba=none", B0={}, B1={"d/f": "f"})
    other = union.mount("udba=none", C={}, D={"d/f": "f"})
    (other / "d/f").chmod(0o600)
    number = (other / "d/f").stat().st_ino
    assert u.change("udba=reval").returncode == 0
    subprocess.run(["cp", "-a", other.branches["C"] / "d", u.branch(0) / "brought"], check=True)
    assert u.change("udba=none").returncode == 0
    assert (u / "brought/f").stat().st_ino == number


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo", "rename", "link"])
def test_whiteout_that_hides_nothing_goes_when_its_name_comes(union: Workshop, kind: str) -> None:
    """A branch's lowest directory may hold whiteouts of lower branches that are gone; none may stay beside its entry."""
    u = union.mount("udba=none", B0={"d/.wh.n": "", "d/there": "there"})
    with refused("ENOENT"):
        (u / "d/n").stat()
    assert os.listdir(u / "d") == ["there"]
    target = u / "d/n"
    if kind == "file":
        target.write_text("n")
    elif kind == "directory":
        target.mkdir()
    elif kind == "symlink":
        target.symlink_to("there")
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "rename":
        (u / "d/there").rename(target)
    else:
        target.hardlink_to(u / "d/there")
    assert not (u.branch(0) / "d/.wh.n").exists()
    _forget_all(u)
    assert "n" in os.listdir(u / "d")
    assert target.lstat()
    assert u.change("udba=reval").returncode == 0
    assert target.lstat()


def test_many_renames_into_a_forgotten_directory(union: Workshop) -> None:
    """Each name goes from one directory and comes to the other, whiteouts where lower names would show, and nowhere else."""
    lower = {"to/hidden": "hidden", **{f"from/l{n}": f"l{n}" for n in range(12)}}
    upper = {"to/.wh.hidden": "", "only/own": "", **{f"from/u{n}": f"u{n}" for n in range(12)}}
    u = union.mount("udba=none", B0=upper, B1=lower)
    for n in range(12):
        if n % 4 == 0:
            _forget_all(u)
        (u / f"from/u{n}").rename(u / f"only/u{n}")
        (u / f"from/l{n}").rename(u / f"to/l{n}")
    (u / "only/u0").rename(u / "to/hidden")
    assert os.listdir(u / "from") == []
    assert set(os.listdir(u / "only")) == {"own", *(f"u{n}" for n in range(1, 12))}
    assert set(os.listdir(u / "to")) == {"hidden", *(f"l{n}" for n in range(12))}
    assert set(os.listdir(u.branch(0) / "from")) == {f".wh.l{n}" for n in range(12)}
    assert not [name for name in os.listdir(u.branch(0) / "to") if name.startswith(".wh.")]
    assert (u / "to/hidden").read_text() == "u0"


@pytest.mark.parametrize("way", [os.O_RDWR, os.O_WRONLY])
def test_times_are_right_after_a_writer_closed(union: Workshop, way: int) -> None:
    """What was written by write(2), or through a mapping, which takes O_RDWR, shows in size and times after close."""
    u = union.mount("udba=none", B0={"f": "x" * 4096})
    os.utime(u / "f", ns=(0, 0))
    assert (u / "f").stat().st_mtime_ns == 0
    fd = os.open(u / "f", way)
    if way == os.O_RDWR:
        with mmap.mmap(fd, 4096) as mapping:
            mapping[:4] = b"abcd"
            mapping.flush()
    else:
        os.write(fd, b"longer")
    os.close(fd)
    eventually(lambda: (u / "f").stat().st_mtime_ns, "the time of the last write")
    assert (u / "f").stat().st_mtime_ns == (u.branch(0) / "f").stat().st_mtime_ns


def test_whiteouts_made_in_a_branch_that_was_empty_are_found(union: Workshop) -> None:
    """Names come again over whiteouts that the server made and forgot, with and without a lower branch below."""
    lower = {f"d/{n}": n for n in ("file", "directory", "moved", "later", "last")}
    u = union.mount("udba=none", B0={}, B1={**lower, "e/f": "f"})
    for name in ("file", "directory", "moved", "later", "last"):
        (u / "d" / name).unlink()
    _forget_all(u)
    (u / "d/file").write_text("again")
    (u / "d/directory").mkdir()
    (u / "e/f").rename(u / "d/moved")
    upper = u.branch(0) / "d"
    assert {name for name in os.listdir(upper) if name.startswith(".wh.")} == {".wh.later", ".wh.last"}
    assert (upper / "directory/.wh..wh..opq").exists()
    assert unionfs("branch", "del", u.mnt, u.branch(1)).returncode == 0
    _forget_all(u)
    (u / "d/later").write_text("again")
    (u / "d/file").rename(u / "d/last")
    assert set(os.listdir(upper)) == {"directory", "moved", "later", "last"}
    assert (u / "d/last").read_text() == "again"


@pytest.mark.parametrize("mark", ["", "d/.wh.gone"])
def test_whiteouts_count_after_a_listing(union: Workshop, mark: str) -> None:
    """A listing tells which directories have no whiteouts: those that there are, and that are made later, hide names."""
    middle = {"d/mid": "m"} | ({mark: ""} if mark else {})
    u = union.mount(
        "br:{B0}=rw:{B1}=ro+wh:{B2}=ro,udba=none",
        B0={"d/top": "t"},
        B1=middle,
        B2={"d/gone": "g", "d/low": "l", "d/sub/x": "x"},
    )
    names = {"top", "mid", "low", "sub"} | (set() if mark else {"gone"})
    assert set(os.listdir(u / "d")) == names
    if mark:
        with refused("ENOENT"):
            (u / "d/gone").stat()
    for again in range(2):
        for name in ("low", "mid"):
            (u / "d" / name).unlink()
            with refused("ENOENT"):
                (u / "d" / name).stat()
            assert (u.branch(0) / f"d/.wh.{name}").exists()
            _forget_all(u)
            with refused("ENOENT"):
                (u / "d" / name).stat()
            assert name not in os.listdir(u / "d")
            (u / "d" / name).write_text(name)
            assert not (u.branch(0) / f"d/.wh.{name}").exists()
        assert set(os.listdir(u / "d")) == names, again
    shutil.rmtree(u / "d/sub")
    (u / "d/sub").mkdir()
    assert os.listdir(u / "d/sub") == []
    _forget_all(u)
    assert set(os.listdir(u / "d")) == names
    assert os.listdir(u / "d/sub") == []
    for number in range(20):
        with refused("ENOENT"):
            (u / f"d/absent{number}").stat()
    assert (u / "d/mid").read_text() == "mid"
