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
            grep -o "fuse.unionfs" /proc/self/mounts
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
