# SPDX-License-Identifier: Apache-2.0
"""kill -9 of any process of a container: nothing is left of it."""

import itertools
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.box import Box, children, first_of, groups, kill, supervisor_of, wait_for_end, wait_until

SCRIPT = "setsid sleep 1000 & echo ready; echo x > /written; sleep 1000"


class _Running:
    """A container in full swing and the processes on the host that make it up."""

    def __init__(self, box: Box) -> None:
        self.client: subprocess.Popen[str] = box.start("--memory", "256m", "--", "sh", "-c", SCRIPT)
        assert self.client.stdout is not None and self.client.stdout.readline() == "ready\n"
        self.supervisor = supervisor_of(self.client.pid)
        self.init = first_of(self.client.pid)
        self.programs = children(self.init)
        (self.identity,) = box.identities()
        assert groups(self.identity)

    def pids(self, *names: str) -> list[int]:
        known = {"client": self.client.pid, "supervisor": self.supervisor, "init": self.init}
        return [known[name] for name in names]

    def wait_for_end(self) -> None:
        wait_for_end([*self.pids("client", "supervisor", "init"), *self.programs])


@pytest.mark.parametrize(
    ("victim", "status"), [("client", -9), ("supervisor", 125), ("init", 137)], ids=lambda value: str(value)
)
def test_kill_of_one_process_leaves_nothing(box: Box, victim: str, status: int) -> None:
    """Whoever of client, supervisor and init dies, the others end, and one of them cleans up."""
    running = _Running(box)
    kill(*running.pids(victim))
    running.wait_for_end()
    assert running.client.wait(20) == status
    wait_until(lambda: not box.identities(), "the container's directory has gone")
    assert groups(running.identity) == []


@pytest.mark.parametrize(
    "pair", list(itertools.combinations(("client", "supervisor", "init"), 2)), ids="+".join
)
def test_kill_of_two_processes_leaves_nothing_after_the_next_run(box: Box, pair: tuple[str, str]) -> None:
    """If client and supervisor die at once nobody is left to clean up: the next run does."""
    running = _Running(box)
    kill(*running.pids(*pair))
    running.wait_for_end()
    assert box.run("--", "true").returncode == 0
    wait_until(lambda: not box.identities(), "the container's directory has gone")
    assert groups(running.identity) == []


def test_kill_of_all_processes_is_swept_by_the_next_run(box: Box) -> None:
    """The dead container's directory and cgroup stay until the next run, and a live one is left alone by it."""
    living = box.start("--", "sh", "-c", "echo ready; read line; echo fine")
    assert living.stdout is not None and living.stdout.readline() == "ready\n"
    (other,) = box.identities()
    client = box.start("--", "sh", "-c", SCRIPT)
    assert client.stdout is not None and client.stdout.readline() == "ready\n"
    (dead,) = box.identities() - {other}
    supervisor, init = supervisor_of(client.pid), first_of(client.pid)
    kill(client.pid, supervisor, init)
    wait_for_end([client.pid, supervisor, init])
    assert groups(dead)
    assert box.run("--", "true").returncode == 0
    assert (box.identities(), groups(dead)) == ({other}, [])
    assert living.communicate("\n", timeout=60)[0] == "fine\n"


def test_kill_at_any_moment_of_the_start_leaves_nothing(box: Box) -> None:
    """kill -9 of client or supervisor at twelve moments of the first 300 ms."""
    for number in range(12):
        client = box.start("--", "sleep", "1000")
        deadline = time.monotonic() + 0.05 + number * 0.025
        wait_until(lambda end=deadline: time.monotonic() > end, "the moment has come")  # type: ignore[misc]
        found = children(client.pid)
        victim = found[0] if number % 2 and found else client.pid
        kill(victim)
        wait_for_end([client.pid, *found])
    assert box.run("--", "true").returncode == 0
    wait_until(lambda: not box.identities(), "all containers have gone")


def test_server_of_a_killed_container_leaves_no_mount(box: Box) -> None:
    """The union is mounted in the container's namespace only: the host's never has it."""
    running = _Running(box)
    assert "unionfs" in Path(f"/proc/{running.init}/mountinfo").read_text()
    mine = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(box.directory) in line
    ]
    assert mine == []
    assert os.readlink(f"/proc/{running.supervisor}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    kill(running.init)
    assert running.client.wait(20) == 137


def test_kill_of_the_client_ends_a_command_that_wants_to_outlive_it(box: Box) -> None:
    """One that switches its parent-death signal off, and keeps its root busy, is killed by the supervisor."""
    script = """
import ctypes, os
ctypes.CDLL(None).prctl(1, 0)
print("ready", flush=True)
while True: os.listdir("/etc")
"""
    client = box.start("--", "/usr/bin/python3", "-c", script)
    assert client.stdout is not None and client.stdout.readline() == "ready\n"
    init, supervisor = first_of(client.pid), supervisor_of(client.pid)
    try:
        kill(client.pid)
        wait_for_end([init, supervisor])
        wait_until(lambda: not box.identities() and not box.states(), "the container has gone")
    finally:
        kill(init)
