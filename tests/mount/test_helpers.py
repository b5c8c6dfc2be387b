# SPDX-License-Identifier: Apache-2.0
"""The programs that mount(8), fstab and container tools call: mount.unionfs, unionfs-overlay, unionfs as mount.fuse has it."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support.place import Place, refused
from tests.support.union import is_mounted, program, unionfs

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")

PROGRAMS = {
    "mount.unionfs": "unionfs.cli.mount_helper",
    "unionfs-overlay": "unionfs.cli.overlay",
}


def call(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of the other programs."""
    argv = [*program(name, PROGRAMS[name]), *map(str, arguments)]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
    )


def test_mount_helper_mounts_and_remounts(place: Place) -> None:
    """mount(8)'s way of calling: SOURCE TARGET -o ..., and remount with what the mount table says added."""
    assert call("mount.unionfs", "src", place.mnt, "-n", "-o", f"rw,{place.options}").returncode == 0
    assert (place.mnt / "file").exists()
    extra = place.root / "extra"
    extra.mkdir()
    (extra / "more").touch()
    words = "rw,remount,relatime,user_id=0,group_id=0,default_permissions,allow_other"
    assert call("mount.unionfs", "src", place.mnt, "-o", f"{words},append={extra}").returncode == 0
    assert (place.mnt / "more").exists()
    refused(call("mount.unionfs", "src", place.mnt, "-o", "remount,nonsense"), "nonsense", 1)
    refused(call("mount.unionfs", "src", place.mnt, "-o", "br:/nonexistent"), "busy", 32)
    unionfs("umount", place.mnt)


def test_overlay_merges_left_on_top(place: Place) -> None:
    """lowerdir's leftmost directory wins; a deletion leaves overlayfs' whiteout."""
    top = place.root / "top"
    top.mkdir()
    (top / "file").write_text("top\n")
    options = f"lowerdir={top}:{place.ro},upperdir={place.rw},workdir={place.root}"
    done = call("unionfs-overlay", "-o", options, place.mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place.mnt / "file").read_text() == "top\n"
    (place.mnt / "file").unlink()
    assert (place.rw / "file").is_char_device()
    unionfs("umount", place.mnt)


def test_overlay_without_upperdir_is_read_only(place: Place) -> None:
    """One lower directory is enough, and nothing can be written."""
    assert (
        call("unionfs-overlay", "source", place.mnt, "-o", f"rw,lowerdir={place.ro},dev,suid").returncode == 0
    )
    with pytest.raises(OSError, match="Read-only"):
        (place.mnt / "new").touch()
    assert f"{place.mnt} " in Path("/proc/thread-self/mountinfo").read_text()
    unionfs("umount", place.mnt)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("lowerdir={ro},nonsense=1", "nonsense"),
        ("upperdir={rw}", "lowerdir"),
        ("lowerdir={ro},uidmapping=0:100000", "uidmapping"),
        ("lowerdir={ro},squash_to_uid=root", "squash_to_uid"),
        ("lowerdir={root}/missing", "missing"),
    ],
)
def test_overlay_bad_option_is_one_line(place: Place, options: str, words: str) -> None:
    """What it cannot do is refused by name."""
    text = options.format(root=place.root, rw=place.rw, ro=place.ro)
    refused(call("unionfs-overlay", "-o", text, place.mnt), words, 1 if words == "missing" else 2)
    assert not is_mounted(place.mnt)


def test_overlay_called_for_remount_changes_flags_only(place: Place) -> None:
    """mount(8) calls the helper again for `remount`; it must not mount a second time."""
    options = f"lowerdir={place.ro},upperdir={place.rw}"
    assert call("unionfs-overlay", "source", place.mnt, "-o", options).returncode == 0
    assert (
        call("unionfs-overlay", "source", place.mnt, "-o", f"remount,ro,user_id=0,{options}").returncode == 0
    )
    with pytest.raises(OSError, match="Read-only"):
        (place.mnt / "new").touch()
    unionfs("umount", place.mnt)
    assert not is_mounted(place.mnt)


def test_unionfs_called_by_mount_fuse_is_the_helper(place: Place) -> None:
    """mount.fuse3 runs the program of the type: `unionfs SOURCE TARGET -o ...`, also for a remount."""
    unionfs("src", place.mnt, "-o", f"rw,{place.options},dev,suid")
    assert (place.mnt / "file").exists()
    extra = place.root / "extra"
    extra.mkdir()
    (extra / "more").touch()
    unionfs("src", place.mnt, "-o", f"rw,remount,user_id=0,group_id=0,append={extra}")
    assert (place.mnt / "more").exists()
    unionfs("umount", place.mnt)
