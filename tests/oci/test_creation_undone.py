# SPDX-License-Identifier: Apache-2.0
"""What a creation that fails must leave alone: everything that it did not make."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oci import Bundle, has_ended

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def test_processes_in_a_taken_group_live_on(make_bundle: Callable[[], Bundle]) -> None:
    """A container that is refused because its group has processes does not end them."""
    first, second = make_bundle(), make_bundle()
    first.detach()
    second.linux["cgroupsPath"] = first.linux["cgroupsPath"]
    assert "is not empty" in second.create(check=False).stderr
    assert first.status()["status"] == "running"
    assert not list(second.state.glob("[!.]*"))


def test_group_that_is_a_file_of_the_kernel_is_refused(bundle: Bundle) -> None:
    """Such a name is taken in every hierarchy; nothing of the container remains."""
    before = bundle.linux["cgroupsPath"]
    bundle.linux["cgroupsPath"] = "/cgroup.procs"
    assert "cannot make the cgroup" in bundle.create(check=False).stderr
    bundle.linux["cgroupsPath"] = before
    assert not list(bundle.state.glob("[!.]*"))


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="pids cannot be chosen here")
def test_process_with_the_pid_of_our_helper_lives_on(bundle: Bundle) -> None:
    """The intermediate process has ended when hooks run, and its pid may be somebody else's when one of them fails."""
    bundle.linux["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        bundle.linux[key] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    script = f"""
        want=$(($(sed 's/.*"pid":\\([0-9]*\\).*/\\1/') - 1))
        for _ in 1 2 3 4 5 6 7 8 9; do
            echo $((want - 1)) > {LAST_PID}
            sleep 1000 </dev/null >/dev/null 2>&1 &
            [ $! = $want ] && break
            kill $!
        done
        echo $! > {bundle.directory}/other
        exit 1"""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    assert "createRuntime hook failed" in bundle.create(check=False).stderr
    other = int((bundle.directory / "other").read_text())
    assert not has_ended(other)
    os.kill(other, signal.SIGKILL)
