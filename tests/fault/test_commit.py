# SPDX-License-Identifier: Apache-2.0
"""`commit` that fails or dies: both branches stay as they were, the mount stays writable, and the next commit does it all."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import tree
from tests.support.tree import Dir, File
from tests.support.union import Union, Workshop, eventually, program, unionfs

_PAIR = "br:{B0}=rw:{B1}=ro+wh,nowarn_perm"
_TOP: tree.Tree = {
    "f": File("new", 0o640, (1, 2), xattrs={"user.x": b"1"}),
    ".wh.gone": File("", 0o444),
    "d": Dir(0o700),
    "d/.wh..wh..opq": File("", 0o444),
    "d/k": "precious",
    "e/k": "both",
    "n1": "linked",
    "n2": tree.HardLink("n1"),
}
_TARGET: tree.Tree = {"f": "old", "gone": "x", "d/low": "low", "e/low": "low", "other": "o"}


def _both(made: Union) -> list[dict[str, tree.Entry]]:
    """Return the branches with their times; AUFS' bookkeeping, of which the target may get some, is left out."""
    return [tree.snapshot(made.branch(number), times=True) for number in (0, 1)]


def _is_writable(mnt: Path) -> bool:
    return not os.statvfs(mnt).f_flag & os.ST_RDONLY


def _assert_folded(made: Union) -> None:
    """The union shows what `_TOP` over `_TARGET` is, and all of it lies in the target."""
    target = made.branch(1)
    assert tree.names(made.branch(0)) == set()
    assert tree.names(target) == {"f", "other", "d", "d/k", "e", "e/k", "e/low", "n1", "n2"}
    assert (target / "n1").stat().st_ino == (target / "n2").stat().st_ino
    assert (target / "n1").stat().st_nlink == 2
    assert (target / "f").stat().st_mode & 0o7777 == 0o640
    assert os.getxattr(target / "f", "user.x") == b"1"
    assert (made / "d/k").read_text() == "precious"


def test_commit_to_full_target_is_enospc_and_changes_nothing(union: Workshop) -> None:
    """No room for the copies: the error names the entry; both branches are as they were, with their times; with room it works."""
    target = union.filesystem("B1", _TARGET, data="mode=755,size=1m")
    made = union.mount(_PAIR, changing="B1", B0={**_TOP, "zz": os.urandom(2 << 20)}, B1=target)
    before = _both(made)
    done = unionfs("commit", made.mnt, made.branch(1), check=False)
    assert done.returncode == 1
    assert done.stderr == f"unionfs: {target}/zz: No space left on device\n"
    assert _both(made) == before
    assert _is_writable(made.mnt)
    (made / "zz").unlink()
    unionfs("commit", made.mnt, made.branch(1))
    _assert_folded(made)


def test_commit_over_immutable_file_is_eperm_and_changes_nothing(union: Workshop) -> None:
    """The target's last entry may not be replaced: what was in place before that goes back, with its times."""
    target = union.block_device("B1", 16)
    tree.build(target, {**_TARGET, "zz": "old"})
    made = union.mount(_PAIR, changing="B1", B0={**_TOP, "zz": "new"}, B1=target)
    if subprocess.run(["chattr", "+i", target / "zz"], capture_output=True).returncode:
        pytest.skip("immutable files cannot be made here")
    try:
        before = _both(made)
        done = unionfs("commit", made.mnt, made.branch(1), check=False)
    finally:
        subprocess.run(["chattr", "-i", target / "zz"], check=True)
    assert done.returncode == 1
    assert done.stderr == f"unionfs: {target}/zz: Operation not permitted\n"
    assert _both(made) == before
    unionfs("commit", made.mnt, made.branch(1))
    assert (target / "zz").read_text() == "new"
    (target / "zz").unlink()
    _assert_folded(made)


@pytest.mark.parametrize("signal", ["kill", "terminate"])
def test_commit_that_dies_leaves_a_writable_mount_and_no_stage(union: Workshop, signal: str) -> None:
    """In the middle of the copying: the server makes the mount writable and removes the stage; the next commit does it all."""
    made = union.mount(_PAIR, changing="B1", B0=_TOP, B1=_TARGET)
    made.allowed_log = ["a commit to .* died, and is undone"]
    before = tree.snapshot(made.branch(1))
    with (made / "big").open("wb") as stream:
        for _ in range(96):
            stream.write(os.urandom(1 << 20))
    commit = subprocess.Popen([*program(), "commit", made.mnt, made.branch(1)], stderr=subprocess.DEVNULL)
    eventually(lambda: commit.poll() is not None or not _is_writable(made.mnt), "the commit")
    getattr(commit, signal)()
    commit.wait(60)
    eventually(lambda: _is_writable(made.mnt), "a writable mount")
    eventually(lambda: not [n for n in os.listdir(made.branch(1)) if n.startswith(".wh..wh.c")], "no stage")
    if (made.branch(0) / "big").exists():  # else it was done before
        assert tree.snapshot(made.branch(1)) == before
    (made / "big").unlink()
    (made / "after").write_text("x")
    (made / "after").unlink()
    unionfs("commit", made.mnt, made.branch(1))
    _assert_folded(made)


def test_commit_beside_another_is_refused(union: Workshop) -> None:
    """A second one says that the first is at work."""
    made = union.mount(_PAIR, changing="B1", B0=_TOP, B1=_TARGET)
    with (made / "big").open("wb") as stream:
        for _ in range(96):
            stream.write(os.urandom(1 << 20))
    commit = subprocess.Popen([*program(), "commit", made.mnt, made.branch(1)])
    eventually(lambda: commit.poll() is not None or not _is_writable(made.mnt), "the commit")
    second = unionfs("commit", made.mnt, made.branch(1), check=False)
    if commit.wait(60) == 0 and second.returncode:  # with both 0 the first was done before the second began
        assert "another commit is at work" in second.stderr
    (made / "big").unlink()
    unionfs("commit", made.mnt, made.branch(1))
    _assert_folded(made)


def test_commit_with_top_in_use_at_the_end_changes_nothing(union: Workshop) -> None:
    """A file of the top that is open cannot go; both branches are as they were."""
    made = union.mount(_PAIR, changing="B1", B0=_TOP, B1=_TARGET)
    before = _both(made)
    with (made / "f").open():
        done = unionfs("commit", made.mnt, made.branch(1), check=False)
    assert done.returncode == 1
    assert "f is open" in done.stderr
    assert _both(made) == before


def test_commit_leaves_a_root_that_says_it_is_opaque(union: Workshop) -> None:
    """The mark has no meaning in a branch's root: what the union shows of the target stays."""
    made = union.mount(_PAIR, changing="B1", B0={".wh..wh..opq": "", "x": "x"}, B1={"low": "low"})
    assert sorted(os.listdir(made.mnt)) == ["low", "x"]
    unionfs("commit", made.mnt, made.branch(1))
    assert sorted(os.listdir(made.mnt)) == ["low", "x"]
    assert tree.names(made.branch(1)) == {"low", "x"}


def test_commit_shows_the_same_over_a_third_branch(union: Workshop) -> None:
    """Opaque and whited-out directories, a file between two, marks of the target: the view does not change, nor its times."""
    top: tree.Tree = {
        "opaque/.wh..wh..opq": "", "opaque/new": "n", "merged/new": "n", "between/new": "n",
        "hidden/new": "n", "only/new": "n", "only/.wh.c": "", ".wh.c": "", "plain": "p",
    }  # fmt: skip
    target: tree.Tree = {
        "opaque/b": "b", "merged/b": "b", "merged/.wh.c": "", "between": "file", ".wh.hidden": "", ".wh.plain": "",
    }  # fmt: skip
    lower: tree.Tree = {
        "opaque/c": "c", "merged/c": "c", "between/c": "c", "hidden/c": "c", "only/c": "c", "only/d": "d",
        "c": "c", "plain": "old",
    }  # fmt: skip
    made = union.mount(
        "br:{B0}=rw:{B1}=ro+wh:{B2}=ro+wh,nowarn_perm", changing="B1", B0=top, B1=target, B2=lower
    )
    before = tree.snapshot(made.mnt, times=True)
    for _ in range(2):  # the second has nothing to do
        unionfs("commit", made.mnt, made.branch(1))
        assert tree.snapshot(made.mnt, times=True) == before
        assert tree.names(made.branch(0)) == set()
    made.remount()
    assert tree.snapshot(made.mnt, times=True) == before


def test_commit_to_branch_the_server_believed_empty_shows_the_same(union: Workshop) -> None:
    """With udba=none the server trusts what it knows of branches; what the client changed there it looks at again."""
    made = union.mount(
        "br:{B0}=rw:{B1}=rw:{B2}=ro+wh,udba=none,nowarn_perm",
        changing="B1",
        B0={}, B1={}, B2={"d/f": "f", "d/g": "g", "gone": "x"},
    )  # fmt: skip
    (made / "gone").unlink()
    (made / "d/f").unlink()
    (made / "d/new").write_text("n")
    before = tree.snapshot(made.mnt, times=True)
    unionfs("commit", made.mnt, made.branch(1))
    assert tree.snapshot(made.mnt, times=True) == before
    (made / "gone").write_text("again")
    (made / "d/f").write_text("again")
    (made / "d/f").unlink()
    assert sorted(os.listdir(made / "d")) == ["g", "new"]


def test_commit_killed_with_its_server_in_mid_emptying_is_undone_by_the_next_mount(union: Workshop) -> None:
    """Entries that were moved aside come back, with the root's times; `check` reports them and -r does the same."""
    made = union.prepare(_PAIR, "B1", {"B0": _TOP, "B1": _TARGET})
    made.start()
    made.stop()
    top = made.branch(0)
    before = tree.snapshot(top, times=True)
    status = top.stat()
    for attempt in ("check", "mount"):
        aside = top / ".wh..wh.orph/.wh..wh.commit"
        (aside / "entries").mkdir(parents=True)
        os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))
        for name in ("n2", "d", ".wh.gone"):
            (top / name).rename(aside / "entries" / name)
        assert "commit that did not finish" in unionfs("check", top, check=False).stdout
        if attempt == "check":
            unionfs("check", "-r", top)
        else:
            made.start()
            made.stop()
        assert tree.snapshot(top, times=True) == before
        assert unionfs("check", top).stdout == ""


def test_commit_refuses_overlayfs_form(union: Workshop) -> None:
    """Whiteouts that the option makes are not AUFS' either."""
    made = union.mount("br:{B0}=rw:{B1}=ro+wh,whiteout=overlay,nowarn_perm", B0={}, B1={"f": "x"})
    (made / "f").unlink()
    done = unionfs("commit", made.mnt, made.branch(1), check=False)
    assert "only AUFS' whiteouts" in done.stderr


@pytest.mark.skipif(shutil.which("mkfs.btrfs") is None, reason="a filesystem with reflinks needs btrfs-progs")
def test_commit_on_filesystem_with_reflinks_shares_blocks(union: Workshop) -> None:
    """A big file takes no more room: a filesystem of 512 MB folds 260 MB of its own."""
    both = union.block_device("both", 512, "btrfs")
    for name in ("top", "base"):
        (both / name).mkdir()
    (both / "top/big").write_bytes(os.urandom(1 << 20) * 260)
    made = union.mount(_PAIR, changing="B1", B0=both / "top", B1=both / "base")
    unionfs("commit", made.mnt, made.branch(1))
    assert (both / "base/big").stat().st_size == 260 << 20


def test_commit_told_to_stop_as_it_makes_its_stage_leaves_none(union: Workshop) -> None:
    """SIGTERM comes with the end of mkdir(2): the stage is known by the time that the program ends for it."""
    made = union.mount("br:{B0}=rw:{B1}=ro+wh", changing="B1", B0={"f": "new"}, B1={"f": "old"})
    tracer = ["strace", "-qq", "-o", str(union.root / "trace")]
    tracer += ["-e", "trace=mkdirat", "-e", "inject=mkdirat:signal=SIGTERM"]
    words = [*tracer, *program(), "commit", str(made.mnt), str(made.branch(1))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert "mkdirat" in (union.root / "trace").read_text()
    assert os.listdir(made.branch(1)) == ["f"] and (made.branch(1) / "f").read_text() == "old"
    (made / "after").write_text("x")
