# SPDX-License-Identifier: Apache-2.0
"""chattr's flags: immutable and append-only files and directories of lower branches are obeyed; all flags can be read and set."""

import errno
import fcntl
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import tree
from tests.support.tree import Tree
from tests.support.union import Union, Workshop, eventually

FORMS = [
    "",
    "udba=none",
    "udba=none,nopassthrough",
    "udba=none,whiteout=overlay",
    "coherence=aufs,nopassthrough",
]
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
XFLAG_NODUMP, XFLAG_IMMUTABLE = 0x80, 0x8


def chattr(words: str, *paths: Path) -> None:
    done = subprocess.run(["chattr", words, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def letters(path: Path) -> set[str]:
    """Return the flags that lsattr shows, of those that say something about the file and not about its filesystem."""
    done = subprocess.run(["lsattr", "-d", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()[0]) & set("iadASD")


@pytest.fixture
def flagged(union: Workshop) -> Iterator[Workshop]:
    """Give a workshop in which files may be left immutable."""
    probe = union.directory("probe")
    try:
        if subprocess.run(["chattr", "+i", probe], capture_output=True).returncode:
            pytest.skip("no immutable files here")
        yield union
    finally:
        for mounted in union.unions:
            mounted.stop()
        subprocess.run(["chattr", "-R", "-f", "-ia", union.root], capture_output=True)


@pytest.fixture
def settable(flagged: Workshop) -> Workshop:
    """The same where the session carries chattr's requests."""
    if flagged.session != "direct":
        pytest.skip("pyfuse3 has no ioctl")
    return flagged


def lower(shop: Workshop, content: Tree, **flags: str) -> Path:
    """Make a lower branch; `flags` are chattr's words for names, `__` standing for a slash."""
    path = shop.directory("low", content)
    for name, words in flags.items():
        chattr(words, path / name.replace("__", "/"))
    return path


def mounted(shop: Workshop, low: Path, options: str = "") -> Union:
    return shop.mount(",".join(filter(None, [options, "br:{top}=rw:{low}=ro+wh"])), top={}, low=low)


def refused(*attempts: Callable[[], object]) -> None:
    """Check that everything is answered with EPERM."""
    for number, attempt in enumerate(attempts):
        with pytest.raises(PermissionError) as caught:
            attempt()
        assert caught.value.errno == errno.EPERM, (number, caught.value)


def changes(u: Union, name: str) -> list[Callable[[], object]]:
    """Return what neither an immutable nor an append-only file allows."""
    path = u / name
    return [
        lambda: path.open("r+b").close(),
        lambda: path.open("wb").close(),
        lambda: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
        lambda: os.truncate(path, 1),
        lambda: path.chmod(0o600),
        lambda: os.chown(path, 1, 1),
        lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.a", b"b"),
        lambda: path.unlink(),
        lambda: path.rename(u / "elsewhere"),
        lambda: (u / "other").rename(path),
        lambda: (u / "linked").hardlink_to(path),
    ]


@pytest.mark.parametrize("options", FORMS)
def test_change_immutable_lower_file_is_refused(flagged: Workshop, options: str) -> None:
    """Root may neither write, remove, replace, rename, link nor mark an immutable file of a lower branch: EPERM."""
    u = mounted(flagged, lower(flagged, {"f": "kept", "other": "o"}, f="+i"), options)
    refused(*changes(u, "f"), lambda: (u / "f").open("ab").close(), lambda: os.utime(u / "f"))
    assert (u / "f").read_text() == "kept"
    assert tree.names(u.mnt) == {"f", "other"}
    assert not (u.branches["top"] / "f").exists()
    u.remount()
    assert (u / "f").read_text() == "kept"


@pytest.mark.parametrize("options", FORMS)
def test_change_append_only_lower_file_appends_only(flagged: Workshop, options: str) -> None:
    """An append-only lower file takes appended data and the present time; its copy is append-only as well."""
    u = mounted(
        flagged,
        lower(flagged, {"log": "one\n", "touched": "t", "other": "o"}, log="+a", touched="+a"),
        options,
    )
    refused(*changes(u, "log"))
    if (
        flagged.session == "direct" and options != "udba=none,nopassthrough"
    ):  # else the request has an explicit time
        os.utime(u / "touched")
        assert "a" in letters(u.branches["top"] / "touched")
    for word in ("two\n", "three\n", "four\n"):
        with (u / "log").open("a") as log:
            log.write(word)
            log.flush()
            log.write("+" + word)
    whole = "one\ntwo\n+two\nthree\n+three\nfour\n+four\n"
    assert (u / "log").read_text() == whole
    refused(*changes(u, "log"))
    u.stop()
    assert (u.branches["top"] / "log").read_text() == whole
    assert "a" in letters(u.branches["top"] / "log")


def name_changes(u: Union, directory: str) -> list[Callable[[], object]]:
    """Return the changes of names that an immutable directory, which holds f, sub and empty, refuses."""
    path = u / directory
    return [
        lambda: (path / "new").touch(),
        lambda: (path / "newdir").mkdir(),
        lambda: (path / "newlink").symlink_to("x"),
        lambda: os.mkfifo(path / "fifo"),
        lambda: (path / "hard").hardlink_to(u / "out"),
        lambda: (u / "out").rename(path / "in"),
        lambda: (u / "out").rename(path / "f"),
        *losses(u, directory),
    ]


def losses(u: Union, directory: str) -> list[Callable[[], object]]:
    """Return what takes a name from a directory, which an append-only one refuses too."""
    path = u / directory
    return [
        lambda: (path / "f").unlink(),
        lambda: (path / "empty").rmdir(),
        lambda: (path / "f").rename(u / "away"),
        lambda: (path / "f").rename(path / "renamed"),
        lambda: path.rename(u / "moved"),
        lambda: (u / "void").rmdir() if directory == "void" else path.rename(u / "void"),
        lambda: path.chmod(0o700),
        lambda: os.setxattr(path, "user.a", b"b"),
    ]


DIRECTORY: Tree = {"d/f": "f", "d/sub/deep": "deep", "d/empty": tree.Dir(), "out": "out", "void": tree.Dir()}


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("touched", ["", "d/f", "d/sub/deep"])
def test_change_names_in_immutable_lower_directory_is_refused(
    flagged: Workshop, options: str, touched: str
) -> None:
    """No name in it changes, also after files in and below it were copied up, which goes on; and after a remount."""
    u = mounted(flagged, lower(flagged, DIRECTORY, d="+i", void="+i"), options)
    if touched:
        (u / touched).write_text("changed")
    before = tree.names(u.mnt)
    refused(*name_changes(u, "d"), lambda: (u / "void").rmdir())
    u.remount()
    refused(*name_changes(u, "d"), lambda: (u / "void").rmdir())
    (u / "d/f").write_text("again")
    (u / "d/sub/new").write_text("new")
    assert (u / "d/f").read_text() == "again"
    assert tree.names(u.mnt) == before | {"d/sub/new"}


@pytest.mark.parametrize("options", FORMS)
def test_change_names_in_append_only_lower_directory_adds_only(flagged: Workshop, options: str) -> None:
    """Names are added to an append-only directory and none is taken away, before and after it was copied up."""
    u = mounted(flagged, lower(flagged, DIRECTORY, d="+a"), options)
    refused(*losses(u, "d"))
    (u / "d/new").write_text("new")
    (u / "d/newdir").mkdir()
    refused(*losses(u, "d"), lambda: (u / "d/new").unlink(), lambda: (u / "d/newdir").rmdir())
    u.remount()
    refused(*losses(u, "d"), lambda: (u / "d/new").unlink())
    (u / "d/newer").write_text("newer")


@pytest.mark.parametrize("options", FORMS)
def test_chattr_sets_and_clears_flags_of_files(settable: Workshop, options: str) -> None:
    """chattr works on upper and lower files: lsattr shows the flags, the copy on the branch has them, and they can go again."""
    low = lower(settable, {"low": "low", "both": "low"})
    u = mounted(settable, low, options)
    (u / "up").write_text("up")
    for name in ("up", "low"):
        chattr("+dAS", u / name)
        assert letters(u / name) == set("dAS")
        chattr("+i", u / name)
        assert letters(u / name) == letters(u.branches["top"] / name) == set("dASi")
        refused(lambda name=name: (u / name).write_text("x"), lambda name=name: (u / name).unlink())  # type: ignore[misc]
        chattr("-i", u / name)
        chattr("+a", u / name)
        refused(lambda name=name: (u / name).write_text("x"))  # type: ignore[misc]
        with (u / name).open("a") as file:
            file.write("+")
        chattr("-adAS", u / name)
        assert letters(u / name) == set()
        assert (u / name).read_text() == name + "+"
        (u / name).unlink()
    assert letters(low / "low") == set()


def test_chattr_lifts_flags_of_lower_files(settable: Workshop) -> None:
    """Taking +i or +a off a lower file, or adding another flag, makes a copy with just what was asked for."""
    names: dict[str, str] = dict.fromkeys(("i", "a", "more", "still"), "x")
    u = mounted(settable, lower(settable, names, i="+iA", a="+ad", more="+a", still="+i"))
    assert letters(u / "i") == set("iA")
    chattr("-i", u / "i")
    chattr("-a", u / "a")
    assert (letters(u / "i"), letters(u / "a")) == (set("A"), set("d"))
    (u / "i").write_text("changed")
    (u / "a").write_text("changed")
    chattr("+A", u / "more")
    assert letters(u / "more") == letters(u.branches["top"] / "more") == set("aA")
    refused(lambda: (u / "more").write_text("x"))
    # What stays immutable takes no other flag, as on ext4, and is not copied for nothing.
    assert subprocess.run(["chattr", "+A", u / "still"], capture_output=True).returncode
    assert not (u.branches["top"] / "still").exists()


@pytest.mark.parametrize("options", FORMS)
def test_chattr_protects_merged_directories(settable: Workshop, options: str) -> None:
    """+i on a directory that lower branches have too stops changes of its names; what it holds can still be written to."""
    u = mounted(settable, lower(settable, DIRECTORY), options)
    chattr("+i", u / "d")
    assert letters(u / "d") == {"i"}
    refused(*name_changes(u, "d"))
    (u / "d/f").write_text("changed")
    (u / "d/sub/deep").write_text("changed")
    u.remount()
    assert letters(u / "d") == {"i"}
    refused(*name_changes(u, "d"))
    chattr("-i", u / "d")
    chattr("+a", u / "d")
    assert letters(u / "d") == {"a"}
    (u / "d/new").write_text("new")
    refused(*losses(u, "d"))
    chattr("-a", u / "d")
    assert letters(u / "d") == set()
    for name in ("new", "f"):
        (u / "d" / name).unlink()
    (u / "d/empty").rmdir()
    u.remount()
    assert sorted(os.listdir(u / "d")) == ["sub"]


def test_chattr_protects_upper_directories(settable: Workshop) -> None:
    """+i, +a and +S on a directory of the writable branch alone are the branch's own."""
    u = mounted(settable, lower(settable, {}))
    tree.build(u / "d", {"f": "f", "sub/x": "x", "empty": tree.Dir()})
    (u / "out").write_text("out")
    (u / "void").mkdir()
    chattr("+iS", u / "d")
    assert letters(u / "d") == letters(u.branches["top"] / "d") == set("iS")
    refused(*name_changes(u, "d"))
    chattr("-i", u / "d")
    (u / "d/new").touch()


def test_chattr_lifts_flags_of_lower_directories(settable: Workshop) -> None:
    """An immutable lower directory becomes an ordinary one by chattr -i through the union, for good."""
    u = mounted(settable, lower(settable, DIRECTORY, d="+i"))
    chattr("-i", u / "d")
    (u / "d/new").touch()
    (u / "d/f").unlink()
    u.remount()
    assert sorted(os.listdir(u / "d")) == ["empty", "new", "sub"]
    (u / "d/new").unlink()


@pytest.mark.parametrize("options", FORMS)
def test_copy_up_keeps_flags(flagged: Workshop, options: str) -> None:
    """A copy of a file has its origin's S, A and d."""
    low = lower(flagged, {"f": "f", "d/g": "g"}, f="+dAS")
    u = mounted(flagged, low, options)
    with (u / "f").open("a") as file:
        file.write("!")
    assert letters(u.branches["top"] / "f") == set("dAS")


def test_chattr_on_another_kind_of_filesystem_changes_what_was_asked(settable: Workshop) -> None:
    """A file of ext4 that is copied up to tmpfs takes a flag although it has others there."""
    low = lower(settable, {"f": "f"})
    top = settable.filesystem("top")
    u = settable.mount("br:{top}=rw:{low}=ro", top=top, low=low)
    if subprocess.run(["chattr", "+d", top], capture_output=True).returncode:
        pytest.skip("tmpfs has no flags here")
    chattr("+d", u / "f")
    assert letters(u / "f") == {"d"}


def as_user(uid: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *map(str, command)]
    return subprocess.run(argv, capture_output=True, text=True)


def test_chattr_by_an_ordinary_user_needs_the_right(settable: Workshop) -> None:
    """Only owners change flags, and only root makes files immutable: the server lends nobody its rights."""
    low = lower(settable, {"mine": tree.File("m", owner=(1000, 1000)), "roots": "r"})
    u = mounted(settable, low)
    for words, name in (("+i", "mine"), ("+a", "mine"), ("+d", "roots"), ("+i", "roots")):
        assert as_user(1000, "chattr", words, u / name).returncode != 0
        assert letters(u / name) == set()
    assert as_user(1000, "chattr", "+d", u / "mine").returncode == 0
    assert letters(u / "mine") == {"d"}


def test_extended_flags_are_read_and_set(settable: Workshop) -> None:
    """FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR, which xfs_io uses, work like chattr's own calls."""
    u = mounted(settable, lower(settable, {"f": "f", "d/x": "x"}))
    for name in ("f", "d"):
        fd = os.open(u / name, os.O_RDONLY)
        try:
            value = bytearray(28)
            fcntl.ioctl(fd, FS_IOC_FSGETXATTR, value)
            assert struct.unpack_from("=I", value)[0] & (XFLAG_NODUMP | XFLAG_IMMUTABLE) == 0
            struct.pack_into(
                "=I", value, 0, struct.unpack_from("=I", value)[0] | XFLAG_NODUMP | XFLAG_IMMUTABLE
            )
            fcntl.ioctl(fd, FS_IOC_FSSETXATTR, value)
        finally:
            os.close(fd)
        assert letters(u / name) == set("di")
        chattr("-i", u / name)
        assert letters(u / name) == {"d"}


@pytest.mark.parametrize("flag", ["+i", "+a"])
def test_copy_of_a_file_in_a_protected_directory_is_followed_and_given_up(
    settable: Workshop, flag: str
) -> None:
    """The reader follows, nothing is logged (`stop` looks), and once the directory lets the file go its space is free."""
    low = lower(settable, {"d/f": bytes(8 << 20)}, d=flag)
    upper = settable.filesystem("upper")
    u = settable.mount("", branches={"B0": upper, "B1": low})
    free = os.statvfs(upper).f_bfree
    with (u / "d/f").open("rb") as reader:
        with (u / "d/f").open("r+b", buffering=0) as writer:
            writer.write(b"NEW")
        assert os.pread(reader.fileno(), 3, 0) == b"NEW"
        assert os.stat(upper / "d/f").st_nlink == 1 == os.fstat(reader.fileno()).st_nlink
        refused(lambda: os.unlink(u / "d/f"))
    chattr("-ia", u / "d")
    os.unlink(u / "d/f")
    eventually(lambda: os.statvfs(upper).f_bfree > free - 100, "free space")


def test_ioctl_of_special_files_is_refused(settable: Workshop) -> None:
    """A symbolic link or FIFO has no flags."""
    u = mounted(settable, lower(settable, {"p": tree.Special(stat.S_IFIFO)}))
    assert subprocess.run(["lsattr", u / "p"], capture_output=True).returncode != 0


def test_copy_on_open_of_immutable_file_reads_on(flagged: Workshop) -> None:
    """coo_all cannot copy an immutable file up, and lets it be read where it is."""
    low = lower(flagged, {"f": "f", "d/g": "g"}, f="+i")
    u = flagged.mount("br:{top}=rw:{low}=ro+coo_all", top={}, low=low)
    assert (u / "f").read_text() == "f"
    assert (u / "d/g").read_text() == "g"
    assert (u.branches["top"] / "d/g").exists()
    assert not (u.branches["top"] / "f").exists()


def test_flags_on_record_of_a_kernel_overlay_are_obeyed(flagged: Workshop) -> None:
    """What chattr in a kernel's overlay left on its upper branch (overlay.protattr) holds when the union takes that over."""
    immutable, append = {"trusted.overlay.protattr": b"i"}, {"trusted.overlay.protattr": b"a"}
    content: Tree = {
        "f": tree.File("f", xattrs=immutable), "log": tree.File("log", xattrs=append), "other": "o", "plain": "p",
        "d": tree.Dir(xattrs=immutable), "d/f": "f", "d/empty": tree.Dir(), "out": "out", "void": tree.Dir(),
    }  # fmt: skip
    u = flagged.mount("whiteout=overlay,br:{up}=rw:{low}=ro+ovl", changing="up", up=content, low={"x": "x"})
    refused(*changes(u, "f"), *changes(u, "log"), *name_changes(u, "d"))
    (u / "plain").write_text("changed")
    with (u / "log").open("a") as log:
        log.write("+")
    assert (u / "log").read_text() == "log+"
    if flagged.session != "direct":
        return
    for name, shown in (("f", {"i"}), ("log", {"a"}), ("d", {"i"})):
        assert letters(u / name) == shown
        chattr("-ia", u / name)
        assert letters(u / name) == set()
    (u / "f").write_text("changed")
    (u / "log").unlink()
    (u / "d/f").unlink()
    u.remount()
    assert (u / "f").read_text() == "changed"
    (u / "d/new").touch()
