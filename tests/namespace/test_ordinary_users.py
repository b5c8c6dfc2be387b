# SPDX-License-Identifier: Apache-2.0
"""Containers of ordinary users: root inside is the user outside, and may write wherever in its root the user may."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespace.conftest import CAN_RUN
from tests.support.box import ROOT
from tests.support.oci import make_root

pytestmark = pytest.mark.skipif(not CAN_RUN, reason="the preparations need root and /dev/fuse")

USER = 54321
FIRST = 300000  # of the subordinate ids
# In a mount namespace of its own: a device that everybody may open.
PREPARE = """
    mount -t tmpfs none /mnt
    mknod /mnt/fuse c 10 229
    chmod 666 /mnt/fuse
    mount --bind /mnt/fuse /dev/fuse
    if [ -e "$0/granted" ]; then
        for file in /etc/subuid /etc/subgid; do mount --bind "$0/granted" $file; done
    fi
    if [ -e "$0/passwd" ]; then
        mount --bind "$0/passwd" /etc/passwd
    fi
    cd "$0"
    exec setpriv --reuid 54321 --regid 54321 --clear-groups "$@"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a directory of the user's with the image `image`, of which a part is root's."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    image = tmp_path / "home/image"
    make_root(image)
    for name in ("proc", "sys", "dev"):
        (image / name).rmdir()
    (image / "etc/note").write_text("low\n")
    (image / "theirs").mkdir()
    subprocess.run(["chown", "-R", f"{USER}:{USER}", tmp_path / "home"], check=True)
    os.chown(image / "etc/note", 0, 0)
    os.chown(image / "theirs", 0, 0)
    return tmp_path / "home"


def _run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `unionbox run ARGUMENTS` as the user; skip where users cannot."""
    env = {"PATH": os.environ["PATH"], "UNIONBOX_ROOT": str(place / "state"), "PYTHONPATH": str(ROOT)}
    box = [sys.executable, "-m", "runtime.cli", "run", *arguments]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", PREPARE, str(place), *box],
        env=env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    if "ermission denied" in done.stderr and ("setpriv:" in done.stderr or "python" in done.stderr):
        pytest.skip("the program is not readable for other users here")
    return done


def test_user_writes_anywhere_in_an_image_of_his(place: Path) -> None:
    """Mount points are made where the image has none, and what others own in it can be changed: the changes are the user's."""
    branch = place / "kept/rw"
    branch.parent.mkdir(mode=0o700)
    branch.mkdir()
    for path in (branch, branch.parent):
        os.chown(path, USER, USER)
    script = """
        id -u; stat -c %u:%g / /etc/note /theirs
        touch /new /theirs/new; echo more >> /etc/note; cat /etc/note
        mkdir -p /a/b && mv /a /c && chown 0:0 /c && chmod 700 /c && rm /bin/yes
    """
    done = _run(place, "--rootfs", "image", "--rw", "kept/rw", "--", "sh", "-ec", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "0:0", "0:0", "0:0", "low", "more"]
    assert (branch / "etc/note").read_text() == "low\nmore\n"
    for name in ("new", "theirs/new", "etc/note", "c", "c/b"):
        assert (branch / name).stat().st_uid == USER
    assert (branch / "bin/.wh.yes").exists()
    assert (place / "image/etc/note").read_text() == "low\n"


def test_user_on_the_machines_root_has_his_own_rights(place: Path) -> None:
    """Without a warning; what he may read and change is what he may outside, and nothing outside changes."""
    done = _run(place, "--", "sh", "-c", "touch /new /usr/new /tmp/new && cat /etc/shadow; exit 4")
    assert done.returncode == 4
    assert done.stderr == "cat: /etc/shadow: Permission denied\n"
    assert not Path("/new").exists()


def _grant(place: Path) -> None:
    (place / "granted").write_text(f"other:10:65536\nanna:{FIRST}:65536\n")
    (place / "passwd").write_text(
        f"{Path('/etc/passwd').read_text()}anna:x:{USER}:{USER}::/nonexistent:/bin/sh\n"
    )  # newuidmap wants to know the name


def test_user_with_subordinate_ids_has_other_users_inside(place: Path) -> None:
    """nobody runs, makes files of his own and changes none of root's; root gives files away, and takes what nobody made."""
    _grant(place)
    (place / "image/open").mkdir()
    (place / "image/open").chmod(0o1777)
    branch = place / "kept/rw"
    branch.parent.mkdir(mode=0o700)
    branch.mkdir()
    for path in (branch, branch.parent):
        os.chown(path, USER, USER)
    script = """
        id -u; id -g; stat -c %u:%g / /etc/note /theirs
        touch /open/mine; mkdir /open/dir; stat -c %u:%g /open/mine
        ! touch /theirs/new 2>/dev/null && ! sh -c 'echo x >>/etc/note' 2>/dev/null && ! chown 0 /open/mine 2>/dev/null
    """
    run = ["--rootfs", "image", "--rw", "kept/rw"]
    done = _run(place, *run, "-u", "65534:65534", "--", "sh", "-ec", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["65534", "65534", "0:0", "0:0", "0:0", "65534:65534"]
    assert (branch / "open/mine").stat().st_uid == FIRST + 65533
    script = """
        stat -c %u:%g /open/mine /open/dir
        echo more >>/etc/note; touch /theirs/new; stat -c %u:%g /etc/note /theirs /theirs/new
        chown 7:8 /etc/note; rm /open/mine; rmdir /open/dir; chown 1000:1000 /theirs/new; stat -c %u:%g /etc/note
    """
    done = _run(place, *run, "--userns", "--", "sh", "-ec", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["65534:65534", "65534:65534", "0:0", "0:0", "0:0", "7:8"]
    assert ((branch / "etc/note").stat().st_uid, (branch / "etc/note").stat().st_gid) == (
        FIRST + 6,
        FIRST + 7,
    )
    assert (branch / "theirs/new").stat().st_uid == FIRST + 999
    assert list((branch / "open").iterdir()) == []
    assert (place / "image/etc/note").read_text() == "low\n"


def test_user_with_subordinate_ids_leaves_nothing(place: Path) -> None:
    """A private branch goes with what others made in it, also when a run that was killed has left one."""
    _grant(place)
    left = place / "state/containers/0123456789ab"
    (left / "rw/deep").mkdir(parents=True)
    (left / "rw/deep/file").touch()
    for path in (place / "state", left.parent, left, left / "rw"):
        os.chown(path, USER, USER)
    for path in (left / "rw/deep/file", left / "rw/deep"):
        os.chown(path, FIRST + 5, FIRST + 5)
    (left / "rw/deep").chmod(0o700)
    script = "mkdir -m 700 /mine && touch /mine/file && chown -R 5:5 /mine"
    done = _run(place, "--rootfs", "image", "--userns", "--", "sh", "-ec", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(left.parent.iterdir()) == []


def test_user_whose_ids_are_refused_is_told_so(place: Path) -> None:
    """newuidmap says why, the box that it was it, and ends."""
    (place / "granted").write_text(f"{USER}:{FIRST}:65536\n")  # but no name
    done = _run(place, "--rootfs", "image", "-u", "nobody:nogroup", "--", "id")
    assert done.returncode == 125
    *said, last = done.stderr.splitlines()
    assert last.startswith("unionbox: newgidmap refuses the map 0 54321 1 1 300000 65535; see /etc/subgid")
    assert said


def test_user_without_enough_subordinate_ids_has_one(place: Path) -> None:
    """A range that is too small for a container is none; root runs all the same."""
    (place / "granted").write_text(f"{USER}:{FIRST}:1000\n")
    done = _run(place, "--rootfs", "image", "--userns", "--", "cat", "/proc/self/uid_map")
    assert (done.returncode, done.stdout.split()) == (0, ["0", str(USER), "1"])


def test_user_without_an_id_inside_is_told_so(place: Path) -> None:
    """There is but one id in the container: another user than root is refused, with what to do."""
    done = _run(place, "--rootfs", "image", "--user", "user", "--", "id")
    assert done.returncode == 125
    assert done.stderr == (
        "unionbox: user user (1000:1000) has no id in the container's user namespace; an ordinary user's has root alone, unless "
        "newuidmap is installed (package uidmap) and /etc/subuid and /etc/subgid grant 65536 ids: usermod --add-subuids "
        "100000-165535 --add-subgids 100000-165535 NAME\n"
    )
