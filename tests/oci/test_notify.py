# SPDX-License-Identifier: Apache-2.0
"""NOTIFY_SOCKET: a service manager hears of a container's readiness, and of nothing else."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_until

# busybox has no tool for datagrams to a path; this one of the host's needs nothing but itself.
SENDER = """
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for message in (b"STATUS=secret", b"MAINPID=1", b"X=1\\nREADY=1"):
    s.sendto(message, os.environ["NOTIFY_SOCKET"])
"""


@pytest.fixture
def manager(bundle: Bundle, tmp_path: Path) -> Iterator[socket.socket]:
    """Give the manager's socket, named in the environment; the container has the host's programs."""
    path = tmp_path / "manager"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(path))
        found.settimeout(20)
        bundle.environment["NOTIFY_SOCKET"] = str(path)
        for directory in ("usr", "lib", "lib64"):
            if Path("/", directory).is_dir():
                bundle.mount(f"/{directory}", type="bind", source=f"/{directory}", options=["rbind", "ro"])
        yield found


def test_readiness_is_passed_on(bundle: Bundle, manager: socket.socket) -> None:
    """With the pid that the manager knows the container by; not what else the container says."""
    bundle.process["args"] = ["/usr/bin/python3", "-Ic", SENDER + "import time; time.sleep(1000)"]
    bundle.create()
    bundle.start()
    assert manager.recv(1000) == b"READY=1"
    assert manager.recv(1000) == b"MAINPID=%d" % bundle.status()["pid"]
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


def test_readiness_of_a_container_in_the_foreground_is_passed_on(
    bundle: Bundle, manager: socket.socket
) -> None:
    """Even if it ends at once. The manager goes on watching `run`, which ends as the container does and cleans up."""
    bundle.process["args"] = ["/usr/bin/python3", "-Ic", SENDER]
    bundle.run()
    assert manager.recv(1000) == b"READY=1"
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


@pytest.mark.parametrize("terminal", [False, True])
def test_signals_reach_a_container_that_is_not_ready(
    bundle: Bundle, manager: socket.socket, terminal: bool
) -> None:
    """A manager that loses patience can end it."""
    bundle.shell("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
    bundle.process["terminal"] = terminal
    bundle.save()
    with (bundle.directory / "up").open("w") as out:
        process = subprocess.Popen(
            bundle.command("run", bundle.id),
            cwd=bundle.directory,
            env=bundle.environment,
            stdin=subprocess.PIPE,
            stdout=out,
        )
    wait_until((bundle.directory / "up").read_text, "the program runs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 9
    process.communicate()
    assert bundle.leftovers() == []


def test_container_that_never_gets_ready_ends_the_wait(bundle: Bundle, manager: socket.socket) -> None:
    """Its end is waited for instead."""
    bundle.process["args"] = ["/bin/true"]
    assert bundle.run().returncode == 0


def test_manager_is_out_of_reach(bundle: Bundle, manager: socket.socket) -> None:
    """The container sees, in a directory with the path of the manager's socket, one of ours."""
    bundle.shell("echo $NOTIFY_SOCKET; cd ${NOTIFY_SOCKET%/*} && touch x")
    result = bundle.run(check=False)
    assert result.lines()[0] == f"{manager.getsockname()}/notify"
    assert "Read-only file system" in result.stderr


def test_without_a_manager_there_is_nothing(bundle: Bundle) -> None:
    """Neither variable nor directory."""
    bundle.shell("echo $NOTIFY_SOCKET; ls -d /run/notify")
    result = bundle.run(check=False)
    assert result.stdout == "\n"
