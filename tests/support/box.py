# SPDX-License-Identifier: Apache-2.0
"""Runs `unionbox` for tests with a state directory of its own, and knows what a container must not leave behind."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime.engine import bundle
from runtime.oci.cgroups import open_group

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


class Box:
    """A place to run containers in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.containers = self.state / "containers"
        self._started: list[subprocess.Popen[str]] = []

    def branch(self, name: str = "rw") -> Path:
        """Make a directory for --rw, where no other user can go."""
        path = self.directory / "private" / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir()
        return path

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `unionbox run ARGUMENTS` to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `unionbox run -i ARGUMENTS`; its streams are pipes."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self.command("-i", *arguments),
            cwd=ROOT,
            env=self.environment(),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        self._started.append(process)
        return process

    def unionrt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the runtime on the containers of this place."""
        command = [str(ROOT / "runtime/unionrt"), "--root", str(self.state / "run"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `unionbox run ARGUMENTS`."""
        return [sys.executable, "-m", "runtime.cli", "run", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment that makes `unionbox` use this place."""
        return os.environ | {"UNIONBOX_ROOT": str(self.state), "PYTHONPATH": str(ROOT)}

    def identities(self) -> set[str]:
        """Return the ids of the containers that have traces here."""
        return {path.name for path in self.containers.iterdir()} if self.containers.is_dir() else set()

    def states(self) -> set[str]:
        """Return the ids of the containers that the runtime knows here."""
        run = self.state / "run"
        return {path.name for path in run.glob("[!.]*")} if run.is_dir() else set()

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def children(pid: int) -> list[int]:
    """Return the pids of the children of all threads of a process."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (thread / "children").read_text().split())
        except FileNotFoundError:
            continue
    return found


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        select.select([], [], [], 0.01)


def wait_for_end(pids: Iterable[int]) -> None:
    """Wait until every process has ended (a zombie has)."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([fd], [], [], PATIENCE)[0], f"process {pid} lives on"
        finally:
            os.close(fd)


def kill(*pids: int) -> None:
    """Kill processes with SIGKILL; some die with others of them."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def groups(identity: str) -> list[str]:
    """Return the cgroup directories of a container."""
    return open_group({"linux": {"cgroupsPath": f"/{bundle.GROUP}{identity}"}}, identity).present()


def supervisor_of(client: int) -> int:
    """Return the pid of the process that serves the union of a client's container."""
    (found,) = (pid for pid in children(client) if name_of(pid) == "unionbox-serve")
    return found


def first_of(client: int) -> int:
    """Return the pid of the first process of a client's container, which is the client's child too."""
    supervisor = supervisor_of(client)
    (found,) = (pid for pid in children(client) if pid != supervisor)
    return found


def name_of(pid: int) -> str:
    """Return what a process is called in listings."""
    return Path(f"/proc/{pid}/comm").read_text().strip()
