# SPDX-License-Identifier: Apache-2.0
"""The classic exercises on union filesystems (docs/tour/01, 02, 03, 06–08), as far as the filesystem alone shows them."""

import os
import re
import stat
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support import syscalls, tree
from tests.support.tree import Tree
from tests.support.union import Union, Workshop, eventually, program, unionfs

A: Tree = {"a.log": "a\n", "x.log": "x of a\n"}
B: Tree = {"b.log": "b\n", "x.log": "x of b\n"}


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_exercise_1_union_of_two_directories_writes_to_the_first(union: Workshop) -> None:
    """Exercise 1: three names; x.log is a's; writing b.log makes a/b.log and leaves b/b.log."""
    u = union.mount("dirs={A}:{B}", A=A, B=B)
    assert sorted(os.listdir(u.mnt)) == ["a.log", "b.log", "x.log"]
    _append(u / "x.log", "new\n")
    _append(u / "b.log", "new\n")
    a, b = u.branches["A"], u.branches["B"]
    assert (a / "x.log").read_text() == "x of a\nnew\n"
    assert (b / "x.log").read_text() == "x of b\n"
    assert (a / "b.log").read_text() == "b\nnew\n"
    assert (b / "b.log").read_text() == "b\n"
    assert u.branch_list() == ["A=rw", "B=ro"]


def test_exercise_1_both_rw_writes_in_place(union: Workshop) -> None:
    """Exercise 1: with both branches rw b.log is changed where it is."""
    u = union.mount("dirs={A}=rw:{B}=rw", changing="B", A=A, B=B)
    _append(u / "b.log", "new\n")
    assert (u.branches["B"] / "b.log").read_text() == "b\nnew\n"
    assert tree.names(u.branches["A"]) == {"a.log", "x.log"}


def test_exercise_2_removing_makes_a_whiteout(union: Workshop) -> None:
    """Exercise 2: bb.log, put into b behind the mount, is removed by a/.wh.bb.log; a.log really goes."""
    u = union.mount("dirs={A}:{B}", changing="B", A=A, B=B)
    a, b = u.branches["A"], u.branches["B"]
    (b / "bb.log").write_text("bb\n")
    (u / "a.log").unlink()
    (u / "bb.log").unlink()
    assert not (a / "a.log").exists()
    assert (b / "bb.log").read_text() == "bb\n"
    assert tree.names(a) == {"x.log", ".wh.bb.log"}


def test_exercise_2_whiteout_by_hand_has_the_same_effect(union: Workshop) -> None:
    """Exercise 2: touching a/.wh.b.log hides b.log, removing it brings it back."""
    u = union.mount("dirs={A}:{B}", A=A, B=B)
    assert (u / "b.log").exists()
    mark = u.branches["A"] / ".wh.b.log"
    mark.touch()
    eventually(lambda: not (u / "b.log").exists(), "the whiteout")
    mark.unlink()
    eventually((u / "b.log").exists, "the file's return")


def test_exercise_3_branches_of_a_container_are_found_by_si(union: Workshop) -> None:
    """Exercise 3: the run-time directory si_<id> has br0… with rw on top, -init below it, then the layers."""
    layers: dict[str, Tree] = {"rw": {}, "init": {"etc/hosts": ""}, "L2": {"b": ""}, "L1": {"a": ""}}
    text = "br:{rw}=rw:{init}=ro+wh:{L2}=ro+wh:{L1}=ro+wh"
    u = union.mount(text, branches=layers)
    line = next(x for x in unionfs("status", u.mnt).stdout.splitlines() if "si" in x and "si_" in x)
    found = re.search(r"(/\S*si_[0-9a-f]+)", line)
    assert found, line
    directory = Path(found[1])
    shown = [(directory / f"br{n}").read_text() for n in range(4)]
    expected = [("rw", "rw"), ("init", "ro+wh"), ("L2", "ro+wh"), ("L1", "ro+wh")]
    assert shown == [f"{u.branches[name]}={permission}\n" for name, permission in expected]
    assert [(directory / f"brid{n}").read_text() for n in range(4)] == [f"{64 + n}\n" for n in range(4)]
    u.stop()
    assert not directory.exists()


LOWER: Tree = {"in_lower.txt": "from lower\n", "in_both.txt": "from lower\n"}
UPPER: Tree = {"in_upper.txt": "from upper\n", "in_both.txt": "from upper\n"}


def _delete_each(merged: Path, upper: Path) -> None:
    assert sorted(os.listdir(merged)) == ["in_both.txt", "in_lower.txt", "in_upper.txt"]
    assert (merged / "in_both.txt").read_text() == "from upper\n"
    for name in os.listdir(merged):
        (merged / name).unlink()
    assert os.listdir(merged) == []
    assert not (upper / "in_upper.txt").exists()


def _is_device_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_exercise_6_kernel_overlay_deletes_leave_devices(union: Workshop) -> None:
    """Exercise 6, raw form: the kernel's overlay leaves 0:0 devices in upper."""
    lower, upper = union.directory("lower", LOWER), union.directory("upper", UPPER)
    work, merged = union.directory("work"), union.directory("merged")
    try:
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        syscalls.mount("overlay", str(merged), "overlay", 0, options)
    except OSError as error:
        pytest.skip(f"no kernel overlay here: {error}")
    try:
        _delete_each(merged, upper)
        assert all(_is_device_whiteout(upper / name) for name in ("in_lower.txt", "in_both.txt"))
    finally:
        syscalls.umount2(str(merged))


def test_exercise_6_unionfs_overlay_deletes_leave_whiteouts(union: Workshop) -> None:
    """Exercise 6 with unionfs-overlay: the same command line, the same view; each delete is marked in upper."""
    lower, upper = union.directory("lower", LOWER), union.directory("upper", UPPER)
    work, merged = union.directory("work"), union.directory("merged")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    overlay = program("unionfs-overlay", "unionfs.cli.overlay")
    subprocess.run([*overlay, "-o", options, merged], check=True, timeout=60)
    try:
        _delete_each(merged, upper)
    finally:
        subprocess.run(["umount", merged], check=True)
    for name in ("in_lower.txt", "in_both.txt"):
        device = (upper / name).exists() and _is_device_whiteout(upper / name)
        assert device or (upper / f".wh.{name}").exists()


def test_exercise_6_branch_read_as_overlay_layer(union: Workshop) -> None:
    """Exercise 6: what the kernel's overlay wrote is read with the attribute +ovl."""
    upper = union.directory("upper", UPPER)
    os.mknod(upper / "in_lower.txt", stat.S_IFCHR | 0o600, 0)
    u = union.mount("br:{top}=rw:{upper}=ro+ovl:{lower}=ro", top={}, upper=upper, lower=LOWER)
    assert sorted(os.listdir(u.mnt)) == ["in_both.txt", "in_upper.txt"]
    with pytest.raises(FileNotFoundError):
        (u / "in_lower.txt").stat()


def test_exercise_6_whiteout_overlay_writes_devices(union: Workshop) -> None:
    """Exercise 6: whiteout=overlay writes what the kernel's overlay reads."""
    u = union.mount("whiteout=overlay,br:{upper}=rw:{lower}=ro", upper=UPPER, lower=LOWER)
    _delete_each(u.mnt, u.branches["upper"])
    u.stop()
    left = {n for n in tree.names(u.branches["upper"]) if not n.startswith(".wh..wh.")}
    assert left == {"in_lower.txt", "in_both.txt"}
    assert all(_is_device_whiteout(u.branches["upper"] / name) for name in left)


def _container(union: Workshop, number: int, image: Path, changing: str = "") -> Union:
    text = "br:{rw}=rw:{image}=ro+wh"
    return union.mount(text, changing=changing, rw=union.directory(f"rw{number}"), image=image)


def test_exercise_7_many_containers_share_one_image(union: Workshop) -> None:
    """Exercise 7: disk grows by the rw layers only; what one container writes no other sees."""
    image = union.directory("image", {"bin/tool": os.urandom(1 << 20), "etc/os-release": "ID=test\n"})
    containers = [_container(union, n, image) for n in range(3)]
    for n, container in enumerate(containers):
        (container / "etc/hostname").write_text(f"c{n}\n")
    for n, container in enumerate(containers):
        assert (container / "etc/hostname").read_text() == f"c{n}\n"
        assert len((container / "bin/tool").read_bytes()) == 1 << 20
        assert tree.names(union.root / f"rw{n}") == {"etc", "etc/hostname"}


def _shows(path: Path, text: str) -> bool:
    return path.read_text() == text


def test_exercise_8_upgrade_of_the_base_is_seen_by_all(union: Workshop) -> None:
    """Exercise 8: a change in the base branch shows in every running union, except where it was overridden."""
    image = union.directory("image", {"lib/v": "1", "etc/conf": "default"})
    containers = [_container(union, n, image, "image") for n in range(2)]
    (containers[0] / "etc/conf").write_text("mine")
    assert [(c / "lib/v").read_text() for c in containers] == ["1", "1"]
    (image / "lib/v.new").write_text("2!")
    (image / "lib/v.new").rename(image / "lib/v")
    (image / "etc/conf").write_text("changed")
    for container in containers:
        eventually(partial(_shows, container / "lib/v", "2!"), "the upgrade")
    assert (containers[0] / "etc/conf").read_text() == "mine"
    eventually(lambda: (containers[1] / "etc/conf").read_text() == "changed", "the new default")
