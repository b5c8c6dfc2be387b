# SPDX-License-Identifier: Apache-2.0
"""AUFS' acceptance cases 36–39, 41, 43, 45–47: several writable branches, policies, surgery, direct access."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import tree
from tests.support.errnos import refused
from tests.support.tree import Dir, File, Special, Symlink
from tests.support.union import Workshop, eventually, unionfs


def test_create_two_rw_branches_tdp_follows_the_parent(union: Workshop) -> None:
    """Case 36: a new name goes where its parent lives, in the root to B0."""
    u = union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0={}, B1={"d": Dir()})
    (u / "d/f").touch()
    (u / "g").touch()
    assert tree.names(u.branch(0)) == {"g"}
    assert tree.names(u.branch(1)) == {"d", "d/f"}


def test_unlink_two_rw_branches_acts_on_one(union: Workshop) -> None:
    """Case 36: only on B1: removed there without a whiteout; on both: B0's removed and whited out, B1's stays."""
    u = union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0={"both": ""}, B1={"both": "", "one": ""})
    (u / "one").unlink()
    (u / "both").unlink()
    assert tree.names(u.branch(0)) == {".wh.both"}
    assert tree.names(u.branch(1)) == {"both"}


def test_create_rr_takes_turns(union: Workshop) -> None:
    """Case 37: ten files go five and five, ten directories to one branch."""
    u = union.mount("create=rr,br:{B0}=rw:{B1}=rw", changing="B1", B0={}, B1={})
    for n in range(10):
        (u / f"f{n}").touch()
    assert (len(tree.names(u.branch(0))), len(tree.names(u.branch(1)))) == (5, 5)
    for n in range(10):
        (u / f"d{n}").mkdir()
    counts = [len([n for n in tree.names(u.branch(b)) if n.startswith("d")]) for b in (0, 1)]
    assert sorted(counts) == [0, 10]


def _two_sizes(union: Workshop) -> dict[str, Path]:
    """Make B0 of 8 MB with a directory, B1 of 32 MB without it."""
    small = union.filesystem("B0", {"d": Dir(0o750, (5, 6))}, data="mode=755,size=8m")
    return {"B0": small, "B1": union.filesystem("B1", data="mode=755,size=32m")}


def test_create_mfs_takes_the_emptier_filesystem(union: Workshop) -> None:
    """Case 37: the parent is made there with its owner and mode."""
    u = union.mount("create=mfs,br:{B0}=rw:{B1}=rw", changing="B1", branches=_two_sizes(union))
    (u / "d/f").touch()
    assert tree.names(u.branch(1)) == {"d", "d/f"}
    status = (u.branch(1) / "d").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o750, 5, 6)
    assert sorted(os.listdir(u / "d")) == ["f"]


def test_create_pmfs_takes_only_branches_with_the_parent(union: Workshop) -> None:
    """Case 37: the emptier filesystem does not count when it lacks the parent."""
    u = union.mount("create=pmfs,br:{B0}=rw:{B1}=rw", changing="B1", branches=_two_sizes(union))
    (u / "d/f").touch()
    assert tree.names(u.branch(0)) == {"d", "d/f"}
    (u / "g").touch()
    assert tree.names(u.branch(1)) == {"g"}


def test_create_tdmfs_with_huge_watermark_is_mfs(union: Workshop) -> None:
    """Case 37: no branch has that much free: the emptier one is taken; with a small one the topmost."""
    u = union.mount(
        "create=tdmfs:1000000000000,br:{B0}=rw:{B1}=rw", changing="B1", branches=_two_sizes(union)
    )
    (u / "f").touch()
    assert "f" in tree.names(u.branch(1))


def test_create_tdmfs_with_small_watermark_is_topmost(union: Workshop) -> None:
    """Case 37: the topmost branch has enough."""
    u = union.mount("create=tdmfs:4096,br:{B0}=rw:{B1}=rw", changing="B1", branches=_two_sizes(union))
    (u / "f").touch()
    assert "f" in tree.names(u.branch(0))


def test_mount_policy_without_its_number_is_refused(union: Workshop) -> None:
    """Case 37: create=mfsrr wants a watermark; the message names the option."""
    path = union.directory("B0")
    done = unionfs("mount", "-o", f"create=mfsrr,br:{path}=rw", "none", union.directory("mnt"), check=False)
    assert done.returncode in (1, 2)
    assert "mfsrr" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(("policy", "target"), [("tdp", 0), ("bup", 0), ("bu", 1)])
def test_copy_up_policy_chooses_the_branch(union: Workshop, policy: str, target: int) -> None:
    """Case 38: file on B2, its directory on B0 and B2: tdp and bup take B0, bu makes the directory on B1."""
    u = union.mount(
        f"cpup={policy},br:{{B0}}=rw:{{B1}}=rw:{{B2}}=ro",
        changing="B1",
        B0={"d": Dir()},
        B1={},
        B2={"d/f": "f"},
    )
    with (u / "d/f").open("a") as file:
        file.write("x")
    assert (u.branch(target) / "d/f").read_text() == "fx"
    assert not (u.branch(1 - target) / "d/f").exists()


def test_remount_append_and_prepend_change_the_stack(union: Workshop) -> None:
    """Case 39: append shows files, prepend takes the writes, mod makes a branch copy up, del hides."""
    extra, new = union.directory("X", {"x": "x"}), union.directory("N")
    u = union.mount(changing="B0", B0={"f": "f"}, B1={"g": "g"})
    assert u.change(f"append:{extra}").returncode == 0
    assert (u / "x").read_text() == "x"
    assert u.change(f"prepend:{new}").returncode == 0
    (u / "y").write_text("y")
    assert "y" in tree.names(new)
    assert u.change("mod:{B0}=ro").returncode == 0
    assert not (u.branch(0) / ".wh..wh.aufs").exists()
    with (u / "f").open("a") as file:
        file.write("+")
    assert (new / "f").read_text() == "f+"
    assert u.change("del:{B1}").returncode == 0
    assert not (u / "g").exists()
    assert u.branch_list() == ["N=rw", "B0=ro", "X=ro"]


def test_remount_runs_left_to_right(union: Workshop) -> None:
    """Case 39: prepend, mod, del in one string work as a script."""
    new = union.directory("N")
    u = union.mount(changing="B0", B0={}, B1={"g": "g"})
    assert u.change(f"prepend:{new},mod:{{B0}}=ro+wh,del:{{B1}}").returncode == 0
    assert u.branch_list() == ["N=rw", "B0=ro+wh"]


def test_del_branch_with_open_file_is_busy(union: Workshop) -> None:
    """Case 39: EBUSY while a file of the branch is open; `branch busy` names the holder."""
    u = union.mount(B0={}, B1={"g": "g"})
    with (u / "g").open():
        done = u.change("del:{B1}")
        assert done.returncode != 0
        assert "busy" in done.stderr.lower()
        busy = unionfs("branch", "busy", u.mnt, u.branch(1), check=False)
        assert str(os.getpid()) in busy.stdout
    assert u.change("del:{B1}").returncode == 0


def test_del_last_branch_is_busy(union: Workshop) -> None:
    """Case 39: a union keeps at least one branch."""
    u = union.mount(B0={"f": "f"})
    assert u.change("del:{B0}").returncode != 0
    assert (u / "f").read_text() == "f"


def test_remount_repeated_append_and_unknown_del_succeed(union: Workshop) -> None:
    """Case 39: nothing to do is success, and changes nothing."""
    other = union.directory("X")
    u = union.mount(B0={}, B1={})
    assert u.change(f"del:{other}").returncode == 0
    assert u.change("append:{B1}").returncode == 0
    assert u.branch_list() == ["B0=rw", "B1=ro"]


def test_add_branch_beyond_the_end_is_edom_and_overlap_einval(union: Workshop) -> None:
    """Case 39: wrong index and overlapping directory are refused."""
    other = union.directory("X")
    u = union.mount(B0={}, B1={"sub": Dir()})
    done = u.change(f"add:9:{other}")
    assert done.returncode != 0
    done = u.change("append:{B1}/sub")
    assert done.returncode != 0
    assert "overlap" in done.stderr.lower()
    assert u.branch_list() == ["B0=rw", "B1=ro"]


def test_udba_reval_notices_direct_changes(union: Workshop) -> None:
    """Case 41: a file removed or created in a branch behind the union's back is noticed within the timeout."""
    u = union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0={}, B1={"f": "f"})
    assert (u / "f").read_text() == "f"
    (u.branch(1) / "f").unlink()
    eventually(lambda: not (u / "f").exists(), "the removal")
    (u.branch(1) / "h").write_text("h")
    assert (u / "h").read_text() == "h"


def test_udba_notify_notices_direct_changes(union: Workshop) -> None:
    """udba=notify: also a name that was cached as absent, and a new copy above a cached lower one."""
    u = union.mount("udba=notify", B0={}, B1={"f": "f"})
    assert (u / "f").read_text() == "f"
    assert not (u / "late").exists()
    (u.branch(0) / "late").write_text("late")
    eventually(lambda: (u / "late").exists(), "the creation")
    (u.branch(0) / "f").write_text("upper")
    eventually(lambda: (u / "f").read_text() == "upper", "the new upper copy")


def test_statfs_is_of_branch_0_or_the_sum(union: Workshop) -> None:
    """Case 43: nosum gives B0's numbers, sum adds distinct filesystems and counts one only once."""
    sizes = _two_sizes(union)
    total = {name: os.statvfs(path) for name, path in sizes.items()}

    def size(mnt: Path) -> int:
        numbers = os.statvfs(mnt)
        return numbers.f_blocks * numbers.f_frsize

    u = union.mount("br:{B0}=rw:{B1}=ro", branches=sizes)
    assert size(u.mnt) == total["B0"].f_blocks * total["B0"].f_frsize
    u.stop()
    s = union.mount("sum,br:{B0}=rw:{B1}=ro", branches=sizes)
    assert size(s.mnt) == sum(n.f_blocks * n.f_frsize for n in total.values())
    s.stop()
    inside = {"C0": sizes["B0"] / "c", "C1": sizes["B0"] / "d"}
    inside["C0"].mkdir()
    same = union.mount("sum,nowarn_perm,br:{C0}=rw:{C1}=ro", branches=inside)
    assert size(same.mnt) == total["B0"].f_blocks * total["B0"].f_frsize


def test_mount_126_layers_appended_in_several_remounts(union: Workshop) -> None:
    """Case 45: each layer adds a file, every tenth removes the one before; the count comes out."""
    layers = []
    for n in range(126):
        content: dict[str, tree.Node] = {f"file-{n}": str(n)}
        if n % 10 == 9:
            content[f".wh.file-{n - 1}"] = ""
        layers.append(union.directory(f"layer-{n}", content))
    layers.reverse()
    u = union.mount("br:{rw}=rw:{first}=ro+wh", rw={}, first=layers[0])
    for start in range(1, len(layers), 40):
        text = ",".join(f"append:{layer}=ro+wh" for layer in layers[start : start + 40])
        assert u.change(text).returncode == 0
    expected = {f"file-{n}" for n in range(126)} - {f"file-{n - 1}" for n in range(9, 126, 10)}
    assert set(os.listdir(u.mnt)) == expected
    assert (u / "file-0").read_text() == "0"


def test_mount_1000_branches_in_one_option_string(union: Workshop) -> None:
    """No limit of branches or of the option string below a thousand."""
    layers = [union.directory(f"a-rather-long-name-for-a-layer-{n}", {f"f{n}": ""}) for n in range(1000)]
    text = "br:{rw}=rw:" + ":".join(f"{layer}=ro+wh" for layer in layers)
    u = union.mount(text, rw={}, L=layers[0])
    assert len(os.listdir(u.mnt)) == 1000
    assert (u / "f999").exists()


def test_open_coo_reg_copies_up_and_keeps_the_source(union: Workshop) -> None:
    """Case 46: reading a regular file of a +coo_reg branch copies it; symlinks and FIFOs stay."""
    lower: tree.Tree = {"f": "f", "s": Symlink("f"), "p": Special(0o010000), "d": Dir()}
    u = union.mount("br:{B0}=rw:{B1}=ro+coo_reg", B0={}, B1=lower)
    assert (u / "f").read_text() == "f"
    assert os.readlink(u / "s") == "f"
    assert tree.names(u.branch(0)) == {"f"}
    assert os.listdir(u / "d") == []
    assert tree.names(u.branch(0)) == {"f"}


def test_open_moo_moves_the_file_up(union: Workshop) -> None:
    """Case 46: of a +moo branch the source goes away."""
    u = union.mount("br:{B0}=rw:{B1}=rw+moo", changing="B1", B0={}, B1={"f": "f", "s": Symlink("f")})
    assert (u / "f").read_text() == "f"
    assert tree.names(u.branch(0)) == {"f"}
    assert tree.names(u.branch(1)) == {"s"}
    assert (u / "f").read_text() == "f"


def test_opendir_coo_all_copies_the_directory_node(union: Workshop) -> None:
    """Case 46: coo_all copies a directory when it is opened, not what is in it."""
    u = union.mount("br:{B0}=rw:{B1}=ro+coo_all", B0={}, B1={"d/f": "f"})
    assert os.listdir(u / "d") == ["f"]
    assert tree.names(u.branch(0)) == {"d"}


def test_mvdown_moves_to_the_next_writable_branch(union: Workshop) -> None:
    """Case 47: the upper copy goes, the union shows the same."""
    u = union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0={"f": File("f", 0o640, (1, 2))}, B1={})
    unionfs("mvdown", u / "f")
    assert tree.names(u.branch(0)) == set()
    status = (u.branch(1) / "f").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 1, 2)
    assert (u / "f").read_text() == "f"


def test_mvdown_leaves_the_times_of_directories(union: Workshop) -> None:
    """The union shows the same, so its directories do not change; what the lower branch lacked is made there."""
    top: tree.Tree = {"d": Dir(mtime=6), "d/e": Dir(0o750, mtime=5), "d/e/f": "new", "d/e/g": "g"}
    u = union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0=top, B1={"d/e/f": "old"})
    before = tree.snapshot(u.mnt, times=True)
    unionfs("mvdown", "-o", u / "d/e/f")
    unionfs("mvdown", u / "d/e/g")
    assert tree.snapshot(u.mnt, times=True) == before
    assert (u.branch(1) / "d/e/f").read_text() == "new"
    assert tree.names(u.branch(0)) == {"d", "d/e"}
    u.remount()
    assert tree.snapshot(u.mnt, times=True) == before


def test_mvdown_that_cannot_remove_the_original_moves_nothing(union: Workshop) -> None:
    """The file of the lower branch is the old one again, and with the obstacle gone the same command works."""
    top = union.block_device("B0", 16)
    tree.build(top, {"d/f": "new"})
    u = union.mount("br:{B0}=rw:{B1}=rw,nowarn_perm", changing="B1", B0=top, B1={"d/f": "old"})
    if subprocess.run(["chattr", "+i", top / "d/f"], capture_output=True).returncode:
        pytest.skip("immutable files cannot be made here")
    try:
        before = tree.snapshot(u.branch(1), times=True)
        assert unionfs("mvdown", "-o", u / "d/f", check=False).returncode == 1
        after = tree.snapshot(u.branch(1), times=True)
        assert after["d/f"] == before["d/f"]
        assert after["d"].mtime == before["d"].mtime
    finally:
        subprocess.run(["chattr", "-i", top / "d/f"], check=True)
    unionfs("mvdown", "-o", u / "d/f")
    assert (u.branch(1) / "d/f").read_text() == "new"
    assert tree.names(top) == {"d"}


def test_mvdown_refuses_existing_open_and_opaque(union: Workshop) -> None:
    """Case 47: EEXIST, EBUSY and an opaque parent each leave everything where it was."""
    top: tree.Tree = {"f": "new", "g": "g", "d/.wh..wh..opq": "", "d/h": "h"}
    u = union.mount("br:{B0}=rw:{B1}=rw", changing="B1", B0=top, B1={"f": "old", "d": Dir()})
    assert unionfs("mvdown", u / "f", check=False).returncode != 0
    with (u / "g").open():
        assert unionfs("mvdown", u / "g", check=False).returncode != 0
    assert unionfs("mvdown", u / "d/h", check=False).returncode != 0
    assert tree.names(u.branch(0)) == {"f", "g", "d", "d/.wh..wh..opq", "d/h"}


def test_mount_point_busy_or_missing_branch_is_one_line(union: Workshop) -> None:
    """A branch that is missing, a file, or given twice is refused with one line that names it."""
    good, mnt = union.directory("good", {"file": ""}), union.directory("mnt")
    for bad in (good / "missing", good / "file", good):
        done = unionfs("mount", "-o", f"br:{good}=rw:{bad}=ro", "none", mnt, check=False)
        assert done.returncode == 1
        assert str(bad) in done.stderr
        assert "Traceback" not in done.stderr
        assert not os.path.ismount(mnt)
    assert {n for n in os.listdir(good) if not n.startswith(".wh.")} == {"file"}
    shutil.rmtree(good)
    with refused("ENOENT"):
        good.stat()
