# SPDX-License-Identifier: Apache-2.0
"""Mounts of ordinary users: through fusermount3, and with mount(2) inside a user namespace."""

import subprocess

import pytest

from tests.conftest import CAN_MOUNT
from tests.support.union import SESSIONS, program

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="the preparations need root and /dev/fuse")

UNIONFS = " ".join(program())
USER = "setpriv --reuid 65534 --regid 65534 --clear-groups env -u XDG_RUNTIME_DIR"
# In a mount namespace of its own: a /tmp that nobody else removes the user's run-time directory from, and in /mnt a device that
# everybody may open, branches and a mount point of the user's.
PREPARE = """
    set -e
    mount -t tmpfs -o mode=755 none /mnt
    mkdir -m 1777 /mnt/tmp
    mkdir /mnt/work
    mount -t overlay -o lowerdir=/tmp,upperdir=/mnt/tmp,workdir=/mnt/work none /tmp
    rm -rf /tmp/unionfs-65534
    mknod /mnt/fuse c 10 229
    chmod 666 /mnt/fuse
    mount --bind /mnt/fuse /dev/fuse
    cd /mnt
    mkdir rw mnt ro
    echo low > ro/file
    chown -R 65534:65534 rw mnt ro
"""


def _run(script: str) -> str:
    """Run a script after the preparations and return what it printed; skip where a user cannot do what is tested."""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", PREPARE + script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "ermission denied" in done.stderr and ("python" in done.stderr or "env: " in done.stderr):
        pytest.skip("the program is not readable for other users here")
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces for users here")
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("session", SESSIONS)
def test_unprivileged_mount_goes_through_fusermount(session: str) -> None:
    """A user mounts, uses and unmounts; the run-time directory is his alone."""
    script = f"""
        {USER} {UNIONFS} mount --session {session} -o br:rw=rw:ro=ro mnt
        {USER} sh -c 'echo more >> mnt/file'
        cat rw/file
        stat -c %a /tmp/unionfs-65534
        {USER} {UNIONFS} umount mnt
    """
    assert _run(script) == "low\nmore\n700\n"


@pytest.mark.parametrize("session", SESSIONS)
def test_mount_inside_a_user_namespace_needs_no_helper(session: str) -> None:
    """Root of a user namespace mounts with mount(2); owners are his namespace's, and passthrough is not even tried."""
    script = f"""
        {USER} unshare --user --map-root-user --mount sh -ec '
            {UNIONFS} mount --session {session} -o br:rw=rw:ro=ro,udba=none mnt
            echo more >> mnt/file
            cat rw/file
            stat -c "%u %s" mnt/file
            grep "$PWD/mnt " /proc/self/mounts | grep -o "fuse.unionfs"
            {UNIONFS} umount mnt
        '
        stat -c %u rw/file
    """
    assert _run(script) == "low\nmore\n0 9\nfuse.unionfs\n65534\n"


@pytest.mark.parametrize("session", SESSIONS)
def test_copies_in_a_user_namespace_keep_their_numbers(session: str) -> None:
    """The attribute that records numbers is refused there, so they are remembered: the first copy's and the next ones'."""
    script = f"""
        echo low | {USER} tee ro/f1 ro/f2 ro/f3 > /dev/null
        {USER} unshare --user --map-root-user --mount sh -ec '
            {UNIONFS} mount --session {session} -o br:rw=rw:ro=ro,udba=none mnt
            before=$(stat -c %i mnt/f[123])
            for n in 1 2 3; do echo more >> mnt/f$n; mv mnt/f$n mnt/g$n; done
            [ "$before" = "$(stat -c %i mnt/g*)" ]
            cat mnt/g3
            {UNIONFS} umount mnt
        '
    """
    assert _run(script) == "low\nmore\n"


@pytest.mark.parametrize("session", SESSIONS)
def test_new_file_in_a_user_namespace_has_no_number_of_a_removed_copy(session: str) -> None:
    """It may get the copy's inode, of which the number of the lower file was remembered."""
    script = f"""
        truncate -s 16M image
        /sbin/mkfs.ext4 -q image
        mkdir disk
        mount -o loop image disk
        mkdir disk/rw
        chown 65534:65534 disk/rw
        {USER} unshare --user --map-root-user --mount sh -ec '
            {UNIONFS} mount --session {session} -o br:disk/rw=rw:ro=ro,udba=none mnt
            echo more >> mnt/file
            number=$(stat -c %i mnt/file)
            inode=$(stat -c %i disk/rw/file)
            rm mnt/file
            for n in 1 2 3 4 5 6 7 8; do echo new > mnt/new$n; done
            stat -c %i disk/rw/new* | grep -qx $inode || echo "its inode was not used again"
            stat -c %i mnt/new* | grep -x $number || echo good
            {UNIONFS} umount mnt
        '
        umount disk
    """
    assert _run(script) == "good\n"


def test_remount_by_a_user_with_the_flags_it_has_succeeds() -> None:
    """What mount(8) says again for a `user` line of fstab is no change; one that is, is refused before anything is done."""
    script = f"""
        {USER} {UNIONFS} mount -o br:rw=rw,nosuid,nodev mnt
        {USER} {UNIONFS} remount -o rw,nosuid,nodev,append:ro=ro mnt
        {USER} cat mnt/file
        {USER} {UNIONFS} remount -o ro,del:ro mnt 2>&1 || echo "exit $?"
        {USER} cat mnt/file
        {USER} {UNIONFS} umount mnt
    """
    lines = _run(script).splitlines()
    assert lines[0] == lines[3] == "low"
    assert "only root may change the flags of a mount (ro)" in lines[1]
    assert lines[2] == "exit 1"


def test_mount_by_a_user_with_an_unreadable_branch_is_refused() -> None:
    """It says which branch and whose permission is missing, and mounts nothing; so does adding one."""
    script = f"""
        chown 0:0 ro; chmod 700 ro
        {USER} {UNIONFS} mount -o br:rw=rw:ro=ro mnt 2>&1 || echo "exit $?"
        grep -c /mnt/mnt /proc/self/mounts || :
        {USER} {UNIONFS} mount -o br:rw=rw mnt
        {USER} {UNIONFS} branch append mnt ro=ro 2>&1 || echo "exit $?"
        {USER} {UNIONFS} umount mnt
    """
    lines = _run(script).splitlines()
    reason = "ro: user 65534 may not read it: its owner is user 0, its mode 0700"
    assert lines[0].endswith(reason) and "branch" in lines[0]
    assert lines[1:3] == ["exit 1", "0"]
    assert lines[3].endswith(reason)
    assert lines[4] == "exit 1"


def test_commit_by_a_user_says_what_is_roots() -> None:
    """Making the mount read-only meanwhile is root's; of a mount that is read-only a user commits."""
    script = f"""
        echo new > rw/new; chown 65534:65534 rw/new
        {USER} {UNIONFS} mount -o br:rw=rw:ro=rw mnt
        {USER} {UNIONFS} commit mnt ro 2>&1 || echo "exit $?"
        {USER} {UNIONFS} umount mnt
        {USER} {UNIONFS} mount -o br:rw=rw:ro=rw,ro mnt
        {USER} {UNIONFS} commit mnt ro
        cat ro/new
        {USER} {UNIONFS} umount mnt
    """
    lines = _run(script).splitlines()
    assert (
        "a commit makes the mount read-only meanwhile, which only root may; mount it with -o ro" in lines[0]
    )
    assert lines[1:] == ["exit 1", "new"]
