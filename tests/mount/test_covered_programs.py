# SPDX-License-Identifier: Apache-2.0
"""Unions over places where programs are looked for: the server starts and stops without waiting for itself."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support.union import DEADLINE, SESSIONS, Workshop, eventually, is_mounted, program, unionfs

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")


@pytest.mark.parametrize("union", SESSIONS, indirect=True)
def test_server_with_its_own_mount_in_path_starts_and_stops(union: Workshop) -> None:
    """A union over the first directory of PATH answers, and SIGTERM unmounts it, though programs are looked for there first."""
    u = union.prepare("", "", {"B0": {}, "B1": {"f": "f"}})
    u.launcher = ["env", f"PATH={u.mnt}:{os.environ['PATH']}"]
    u.start()
    eventually(lambda: unionfs("status", u.mnt, check=False).returncode == 0, "an answer")
    assert (u / "f").read_text() == "f"
    process = u.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert not is_mounted(u.mnt)
    u.process = None


@pytest.mark.parametrize("session", SESSIONS)
def test_union_over_usr_starts_and_stops(tmp_path: Path, session: str) -> None:
    """It covers the programs and libraries that the server was started from; in the end it is unmounted, lazily if need be."""
    (tmp_path / "top").mkdir()
    script = f"""
        {shlex.join(program())} mount --session {session} -o br:{tmp_path}/top=rw:/usr=ro /usr
        grep -c ' /usr fuse.unionfs ' /proc/self/mounts
        echo new > /usr/new-file
        {shlex.join(program())} status --json /usr | grep -o '"session": "[a-z0-9]*"'
        kill -TERM "$(cat /run/unionfs/si_*/pid)"
        while grep -q ' /usr fuse.unionfs ' /proc/self/mounts; do :; done
        cat {tmp_path}/top/new-file
    """
    words = ["unshare", "-m", "sh", "-ec", "mount -t tmpfs -o mode=755 none /run\n" + script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.stdout.split("\n") == ["1", f'"session": "{session}"', "new", ""], done.stderr
