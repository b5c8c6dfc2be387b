# SPDX-License-Identifier: Apache-2.0
"""Where a mount's run-time directory is made when the usual place is open to others."""

import json
import subprocess

import pytest

from tests.conftest import CAN_MOUNT
from tests.support.union import program

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")

UNIONFS = " ".join(program())
OVERLAY = " ".join(program("unionfs-overlay", "unionfs.cli.overlay"))
# In a mount namespace of its own: /run and /tmp with the modes that are given, over what is there (the program may be in it).
PREPARE = """
    set -e
    mount -t tmpfs -o mode=755 none /mnt
    mkdir -m "$2" /mnt/tmp
    mkdir /mnt/work
    mount -t overlay -o lowerdir=/tmp,upperdir=/mnt/tmp,workdir=/mnt/work none /tmp
    rm -rf /tmp/unionfs-0
    mount -t tmpfs -o mode="$1" none /run
    cd /mnt
    mkdir low up mnt
    mkdir -m 700 own
    mkdir -m 777 everybodys
"""


def _run(run: str, tmp: str, script: str) -> subprocess.CompletedProcess[str]:
    words = ["unshare", "-m", "sh", "-c", PREPARE + script, "sh", run, tmp]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def _mount(variable: str) -> str:
    """Return a script that mounts with XDG_RUNTIME_DIR (if not empty), prints the status and unmounts."""
    setting = f"XDG_RUNTIME_DIR={variable}" if variable else "-u XDG_RUNTIME_DIR"
    return f"""
        env {setting} {OVERLAY} -o lowerdir=low,upperdir=up mnt
        env {setting} {UNIONFS} status --json mnt
        {UNIONFS} umount mnt || env {setting} {UNIONFS} umount mnt
    """


@pytest.mark.parametrize(
    ("run", "variable", "place"),
    [
        ("755", "/mnt/own", "/run/unionfs"),
        ("777", "/mnt/own", "/mnt/own/unionfs"),
        ("1777", "/mnt/own", "/mnt/own/unionfs"),
        ("775", "", "/tmp/unionfs-0/unionfs"),
        ("777", "/mnt/everybodys", "/tmp/unionfs-0/unionfs"),
        ("777", "own", "/tmp/unionfs-0/unionfs"),
    ],
)
def test_mount_with_a_run_that_others_write_uses_a_place_of_its_own(
    run: str, variable: str, place: str
) -> None:
    """The first place that is root's alone takes the directory; commands find it, and /run is left as it is."""
    done = _run(run, "1777", _mount(variable) + "ls /run /mnt/everybodys")
    assert done.returncode == 0, done.stderr
    status, _, listed = done.stdout.partition("\n")
    assert json.loads(status)["run_directory"].rpartition("/")[0] == place
    assert ("unionfs" in listed.split()) == (place == "/run/unionfs")


def test_mount_with_no_place_that_is_its_own_is_refused_in_one_line() -> None:
    """Each place and what is wrong with it are named, and what to do; nothing is mounted, and nothing is made there."""
    done = _run("777", "777", "env XDG_RUNTIME_DIR=/mnt/everybodys sh -c '" + f"""
        {OVERLAY} -o lowerdir=low,upperdir=up mnt || echo "exit $?"
        ls -A /run /mnt/everybodys
        grep -c " /mnt/mnt " /proc/self/mounts'""")  # fmt: skip
    assert done.stdout.split()[:2] == ["exit", "1"]
    assert "unionfs" not in done.stdout and done.stdout.split()[-1] == "0"
    (line,) = done.stderr.splitlines()
    for place in ("/run", "/mnt/everybodys", "/tmp"):
        assert place in line
    assert "XDG_RUNTIME_DIR" in line and "others" in line
