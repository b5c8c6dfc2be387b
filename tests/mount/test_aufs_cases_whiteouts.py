# SPDX-License-Identifier: Apache-2.0
"""AUFS' acceptance cases 9–14, 18–22, 35, 40, 42 and 44: whiteouts, opaque marks, what hides what."""

import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tree
from tests.support.errnos import refused
from tests.support.tree import Symlink, Tree
from tests.support.union import Union, Workshop, unionfs


def _is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def test_unlink_lower_file_leaves_a_whiteout(union: Workshop) -> None:
    """Case 9: the whiteout is a hard link of the base file; neither name nor mark is listed."""
    u = union.mount(B0={}, B1={"d/f": "f", "d/g": "g"})
    (u / "d/f").unlink()
    with refused("ENOENT"):
        (u / "d/f").stat()
    mark = u.branch(0) / "d/.wh.f"
    assert _is_whiteout(mark)
    assert mark.samefile(u.branch(0) / ".wh..wh.aufs")
    assert os.listdir(u / "d") == ["g"]


def test_unlink_upper_only_file_leaves_nothing(union: Workshop) -> None:
    """Case 10: no litter after deleting what no lower branch has."""
    u = union.mount(B0={"f": "f"}, B1={})
    (u / "f").unlink()
    assert tree.names(u.branch(0)) == set()


def test_unlink_file_on_both_branches_removes_and_whites_out(union: Workshop) -> None:
    """Case 11: B0's copy goes, a whiteout hides B1's."""
    u = union.mount(B0={"f": "new"}, B1={"f": "old"})
    (u / "f").unlink()
    assert tree.names(u.branch(0)) == {".wh.f"}
    assert not (u / "f").exists()


def test_create_over_whiteout_removes_it(union: Workshop) -> None:
    """Case 12: the name is there again and its whiteout gone."""
    u = union.mount(B0={}, B1={"d/f": "old"})
    (u / "d/f").unlink()
    (u / "d/f").write_text("z")
    assert tree.names(u.branch(0)) == {"d", "d/f"}
    assert (u.branch(0) / "d/f").read_text() == "z"


def test_rmdir_with_children_refuses_until_logically_empty(union: Workshop) -> None:
    """Case 13: ENOTEMPTY, then after both children are gone one whiteout remains and nothing of d in B0."""
    u = union.mount(B0={}, B1={"d/a": "a", "d/b": "b"})
    with refused("ENOTEMPTY"):
        (u / "d").rmdir()
    (u / "d/a").unlink()
    (u / "d/b").unlink()
    (u / "d").rmdir()
    assert tree.names(u.branch(0)) == {".wh.d"}
    assert os.listdir(u.mnt) == []


def test_rmdir_with_many_whiteouts_leaves_only_the_whiteout(union: Workshop) -> None:
    """Case 13: more whiteouts than dirwh may be removed in the background, but are gone after umount."""
    u = union.mount("dirwh=3", B0={}, B1={f"d/{n}": "x" for n in range(50)})
    shutil.rmtree(u / "d")
    u.stop()
    assert tree.names(u.branch(0)) == {".wh.d"}


def test_mkdir_over_whiteout_is_opaque(union: Workshop) -> None:
    """Case 14: the deleted children do not come back."""
    u = union.mount(B0={}, B1={"d/a": "a"})
    shutil.rmtree(u / "d")
    (u / "d").mkdir()
    assert os.listdir(u / "d") == []
    assert tree.names(u.branch(0)) == {"d", "d/.wh..wh..opq"}


def test_whiteout_on_plain_ro_branch_hides_nothing(union: Workshop) -> None:
    """Case 18: ro means whiteouts and opaque marks are not looked for; they are not listed either."""
    u = union.mount("br:{B0}:{B1}=ro:{B2}=ro", branches=MARKS)
    assert set(os.listdir(u.mnt)) == {"f", "d"}
    assert (u / "f").read_text() == "f"
    assert os.listdir(u / "d") == ["x"]


def test_whiteout_on_ro_wh_branch_hides(union: Workshop) -> None:
    """Case 18: ro+wh honours both marks."""
    u = union.mount("br:{B0}:{B1}=ro+wh:{B2}=ro", branches=MARKS)
    assert os.listdir(u.mnt) == ["d"]
    assert not (u / "f").exists()
    assert os.listdir(u / "d") == []


MARKS: dict[str, Tree] = {"B0": {}, "B1": {".wh.f": "", "d/.wh..wh..opq": ""}, "B2": {"f": "f", "d/x": "x"}}


def test_lookup_file_in_middle_does_not_cut_directories(union: Workshop) -> None:
    """Case 19: directories above and below a same-named file are merged."""
    u = union.mount("br:{B0}:{B1}=ro+wh:{B2}=ro+wh", B0={"d/a": ""}, B1={"d": "file"}, B2={"d/b": ""})
    assert sorted(os.listdir(u / "d")) == ["a", "b"]


def test_lookup_whiteout_in_middle_cuts_directories(union: Workshop) -> None:
    """Case 20: what lies below a whiteout does not contribute."""
    u = union.mount("br:{B0}:{B1}=ro+wh:{B2}=ro+wh", B0={"d/a": ""}, B1={".wh.d": ""}, B2={"d/b": ""})
    assert os.listdir(u / "d") == ["a"]
    assert not (u / "d/b").exists()


@pytest.mark.parametrize("udba", ["reval", "none"])
def test_lookup_entry_beside_its_whiteout_shows_it_alone(union: Workshop, udba: str) -> None:
    """Case 21: of AUFS' illegal pair the entry shows (AUFS: EIO), what is below it does not, and `check` reports it."""
    pairs: Tree = {"f": "f", ".wh.f": "", "d/.wh.e": "", "d/e/x": "x", "d/.wh.g": "", "d/g": "g"}
    lower: Tree = {"f": "hidden", "d/e/y": "hidden", "d/e/z/w": "hidden", "d/g/h": "hidden"}
    u = union.prepare(f"udba={udba}", "", {"B0": pairs, "B1": lower})
    u.start()
    assert (u / "f").read_text() == "f"
    assert os.listdir(u / "d/e") == ["x"]
    assert sorted(os.listdir(u / "d")) == ["e", "g"]
    assert (u / "d/g").read_text() == "g"
    with refused("ENOTEMPTY"):
        (u / "d").rmdir()
    (u / "f").unlink()
    assert os.listdir(u.mnt) == ["d"]
    u.stop()
    report = unionfs("check", u.branch(0), check=False)
    assert report.returncode != 0
    assert report.stdout.count("whiteout of an entry") == 2
    assert tree.names(u.branch(0)) == {".wh.f", "d", "d/.wh.e", "d/e", "d/e/x", "d/.wh.g", "d/g"}


def test_lookup_whiteout_of_wrong_type_is_eio(union: Workshop) -> None:
    """Case 22: a directory named .wh.g makes g unreadable, loudly."""
    u = union.prepare("", "", {"B0": {".wh.g": tree.Dir()}, "B1": {"g": "g"}})
    u.allowed_log = ["whiteout"]
    u.start()
    with refused("EIO"):
        (u / "g").stat()


@pytest.mark.parametrize("options", ["", "udba=none", "whiteout=overlay"])
def test_remove_directory_with_the_bare_prefix_works(union: Workshop, options: str) -> None:
    """`.wh.` is reserved like every name that begins so: it is not listed, and does not keep its directory, upper or lower."""
    content: Tree = {"d/.wh.": "x", "d/f": "f", "e/.wh./inner": "x"}
    u = union.mount(options, B0=content, B1=content)
    assert sorted(os.listdir(u / "d")) == ["f"]
    assert os.listdir(u / "e") == []
    with refused("EPERM"):
        (u / "d/.wh.").stat()
    shutil.rmtree(u / "d")
    (u / "e").rmdir()
    assert os.listdir(u.mnt) == []
    (u / "d").mkdir()
    assert os.listdir(u / "d") == []


def test_create_rw_below_ro_top_is_erofs(union: Workshop) -> None:
    """Case 35: a writable branch must be at or above the parent's topmost copy."""
    u = union.prepare("br:{B0}=ro:{B1}=rw", "B1", {"B0": {}, "B1": {"onlyhere": tree.Dir()}})
    u.allowed_log = ["not rw|not writable|read-only"]
    u.start()
    with refused("EROFS"):
        (u / "x").touch()
    (u / "onlyhere/x").touch()
    assert tree.names(u.branch(1)) == {"onlyhere", "onlyhere/x"}


def test_write_all_branches_ro_is_erofs(union: Workshop) -> None:
    """Case 35: without a writable branch every change is EROFS."""
    u = union.prepare("br:{B0}=ro:{B1}=ro", "", {"B0": {"f": "f", "d": tree.Dir()}, "B1": {}})
    u.allowed_log = ["not rw|not writable|read-only"]
    u.start()
    changes: list[Callable[[], object]] = [
        lambda: (u / "f").write_text("x"),
        lambda: (u / "f").unlink(),
        lambda: (u / "f").chmod(0o600),
        lambda: (u / "f").rename(u / "g"),
        lambda: (u / "g").touch(),
        lambda: (u / "d").rmdir(),
        lambda: (u / "e").mkdir(),
    ]
    for change in changes:
        with refused("EROFS"):
            change()


@pytest.mark.parametrize(("permission", "hidden"), [("ro+wh", True), ("ro", False)])
def test_mount_old_rw_branch_below_honours_whiteouts_by_permission(
    union: Workshop, permission: str, hidden: bool
) -> None:
    """Case 40: a former rw branch still hides as ro+wh; as plain ro the deleted file is back."""
    first = union.mount(B0={}, B1={"d/f": "f"})
    (first / "d/f").unlink()
    first.stop()
    u = union.mount(f"br:{{N}}=rw:{{B0}}={permission}:{{B1}}", N={}, B0=first.branch(0), B1=first.branch(1))
    assert (u / "d/f").exists() is not hidden
    assert os.listdir(u / "d") == ([] if hidden else ["f"])


def test_readdir_with_shwh_shows_whiteouts_for_merging(union: Workshop) -> None:
    """Case 42: the merged copy, put over another base, behaves like the two layers it came from."""
    top: Tree = {".wh.f": "", "new": "n"}
    middle: Tree = {"f": "f", "g": "g", ".wh.h": ""}
    u = union.mount("ro,shwh,br:{B0}=ro+wh:{B1}=ro+wh", B0=top, B1=middle)
    assert sorted(os.listdir(u.mnt)) == [".wh.f", ".wh.h", "g", "new"]
    merged = union.root / "merged"
    shutil.copytree(u.mnt, merged, symlinks=True)
    base = union.directory("base", {"f": "base", "h": "h", "k": "k"})
    layers = union.mount(
        "br:{R}=rw:{B0}=ro+wh:{B1}=ro+wh:{base}", R={}, B0=u.branch(0), B1=u.branch(1), base=base
    )
    other = union.mount("br:{R}=rw:{M}=ro+wh:{base}", R=union.directory("R2"), M=merged, base=base)
    assert tree.snapshot(other.mnt) == tree.snapshot(layers.mnt)
    assert set(os.listdir(other.mnt)) == {"g", "k", "new"}


LAYERS: list[Tree] = [
    {
        "etc/a": "1",
        "etc/b": "1",
        "usr/bin/x": "1",
        "usr/lib/y": "1",
        "link": Symlink("etc/a"),
        "opt/p/q": "1",
    },
    {"etc/.wh.a": "", "usr/.wh..wh..opq": "", "usr/bin/z": "2", "opt/.wh.p": "", "etc/c": "2"},
    {"etc/a": "3", ".wh.link": "", "opt/p/r": "3", "usr/lib/w": "3"},
]


def _unpack(layer: Path, target: Path) -> None:
    """Apply one OCI layer to a flat tree: opaque marks and whiteouts first, then the entries."""
    entries = sorted(name for name, _ in tree.walk(layer))
    for name in entries:
        path = target / name
        if path.name == ".wh..wh..opq":
            shutil.rmtree(path.parent, ignore_errors=True)
        elif path.name.startswith(".wh."):
            victim = path.with_name(path.name[4:])
            if victim.is_dir() and not victim.is_symlink():
                shutil.rmtree(victim)
            else:
                victim.unlink(missing_ok=True)
    with tarfile.open(layer.with_suffix(".tar"), "w") as archive:
        for name in entries:
            if not Path(name).name.startswith(".wh."):
                archive.add(layer / name, name, recursive=False)
    with tarfile.open(layer.with_suffix(".tar")) as archive:
        archive.extractall(target)


def test_mount_unpacked_oci_layers_equals_flat_application(union: Workshop) -> None:
    """Case 44: three layers as they lie, ro+wh below rw, show what applying their tars in order gives."""
    branches = {f"L{n}": union.directory(f"L{n}", layer) for n, layer in enumerate(LAYERS)}
    flat = union.directory("flat")
    for path in branches.values():
        _unpack(path, flat)
    u = union.mount("br:{R}=rw:{L2}=ro+wh:{L1}=ro+wh:{L0}=ro+wh", R={}, branches=branches)
    assert _contents(u) == {n: e.content for n, e in tree.snapshot(flat).items() if n != "."}


def _contents(u: Union) -> dict[str, str]:
    return {name: entry.content for name, entry in tree.snapshot(u.mnt).items() if name != "."}
