# SPDX-License-Identifier: Apache-2.0
"""A hundred containers at once, some of whose commands are killed at random moments: in the end nothing is left."""

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.oci import Bundle, has_ended, wait_until

COUNT = 100


def _processes(bundle: Bundle) -> set[int]:
    """Return the processes whose command line or root is the bundle's."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            command = Path("/proc", entry, "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(bundle.directory).encode() in command or b"sleep\x00987654" in command:
            found.add(int(entry))
    return {pid for pid in found if not has_ended(pid)}


def _prepare(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "987654"]
    bundle.config["root"]["path"] = str(bundle.rootfs)
    del bundle.linux["cgroupsPath"]
    bundle.save()


def _groups(bundle: Bundle) -> list[Path]:
    return [
        Path(top, name)
        for top, names, _ in os.walk("/sys/fs/cgroup")  # lets pass what others remove meanwhile
        for name in names
        if name.startswith(f"{bundle.id}-")
    ]


def _assert_nothing_left(bundle: Bundle, identities: list[str]) -> None:
    for identity in identities:
        bundle.call("delete", "--force", identity)
    assert bundle.call("list", "--quiet").stdout == ""
    assert not list(bundle.state.glob("[!.]*"))
    wait_until(lambda: not _processes(bundle), "no process is left")
    assert _groups(bundle) == []
    assert str(bundle.directory) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.slow
def test_a_hundred_containers_at_once(bundle: Bundle) -> None:
    """Created, started, listed, killed and deleted by eight callers at a time."""
    _prepare(bundle)
    identities = [f"{bundle.id}-{number}" for number in range(COUNT)]
    lock_free = iter(range(10**9))  # the numbers of the files of a call

    def call(*arguments: str) -> None:
        with open(bundle.directory / f"call{next(lock_free)}", "w") as out:
            subprocess.run(
                bundle.command(*arguments),
                cwd=bundle.directory,
                stdout=out,
                stderr=out,
                check=True,
                timeout=60,
            )

    def live(identity: str) -> None:
        call("create", identity)
        call("start", identity)
        call("state", identity)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, identities))
        running = [line.split()[:3] for line in bundle.call("list").lines()[1:]]
        assert sorted(line[0] for line in running) == sorted(identities)
        assert {line[2] for line in running} == {"running"}
        list(pool.map(lambda identity: call("kill", identity, "KILL"), identities))
        list(pool.map(lambda identity: call("delete", "--force", identity), identities))
    _assert_nothing_left(bundle, [])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["create", "run", "start", "delete"])
def test_commands_killed_at_random_moments(bundle: Bundle, command: str) -> None:
    """Whatever moment a command is killed at, `delete --force` clears all of it."""
    _prepare(bundle)
    chance = random.Random(command)
    identities = [f"{bundle.id}-{number}" for number in range(COUNT // 4)]
    before = {"start": ["create"], "delete": ["create", "start"]}.get(command, [])
    arguments = ["--force"] if command == "delete" else []
    for identity in identities:
        for earlier in before:
            bundle.call(earlier, identity)
        with open(bundle.directory / "killed", "w") as out:
            process = subprocess.Popen(
                bundle.command(command, *arguments, identity), cwd=bundle.directory, stdout=out, stderr=out
            )
            time.sleep(chance.uniform(0.005, 0.12))
            process.kill()
            process.wait()
    _assert_nothing_left(bundle, identities)


def _descendants(pid: int) -> list[int]:
    try:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*found, *(below for child in found for below in _descendants(child))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["create", "user namespace", "hooks", "exec"])
def test_processes_of_ours_killed_at_random_moments(bundle: Bundle, kind: str) -> None:
    """A command whose helper is killed, by the memory limit for example, ends at once with one line and leaves nothing."""
    _prepare(bundle)
    if kind == "user namespace":
        bundle.linux["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            bundle.linux[key] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    if kind == "hooks":
        hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null"]}
        bundle.config["hooks"] = {name: [hook] for name in ("prestart", "createContainer", "startContainer")}
    bundle.save()
    words = ["create", bundle.id]
    if kind == "exec":
        bundle.call("run", "--detach", bundle.id)
        words = ["exec", bundle.id, "true"]
    chance = random.Random(kind)
    errors = bundle.directory / "errors"
    for _ in range(COUNT // 2):
        with open(errors, "w") as out:
            process = subprocess.Popen(
                bundle.command(*words), cwd=bundle.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        moment = time.monotonic() + chance.uniform(0.005, 0.06)
        while time.monotonic() < moment and process.poll() is None:
            pass
        if victims := _descendants(process.pid):
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                pass
        status = process.wait(timeout=30)
        assert len(errors.read_text().splitlines()) <= (status != 0), errors.read_text()
        if kind == "exec":
            assert status in (0, 137, 255)
            assert bundle.status()["status"] == "running"
        else:
            assert status == 0 or bundle.leftovers() == []
            bundle.delete("--force")
    bundle.delete("--force")
    _assert_nothing_left(bundle, [])


def test_start_killed_half_way_is_told_apart(bundle: Bundle) -> None:
    """Where `start` was killed before it had removed the fifo, the container runs all the same."""
    _prepare(bundle)
    bundle.call("create", bundle.id)
    fifo = bundle.state / bundle.id / "exec.fifo"
    fifo.write_text("s")
    pid = bundle.status()["pid"]
    wait_until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the program runs")
    assert fifo.exists()
    assert bundle.status()["status"] == "running"
    assert "running" in bundle.start(check=False).stderr


def test_same_id_taken_once(bundle: Bundle) -> None:
    """Of many who create the same container at once, one succeeds and the others are told."""
    _prepare(bundle)
    with open(bundle.directory / "racing", "w") as out:
        processes = [
            subprocess.Popen(
                bundle.command("create", bundle.id), cwd=bundle.directory, stdout=out, stderr=out
            )
            for _ in range(8)
        ]
        statuses = sorted(process.wait(timeout=60) for process in processes)
    assert statuses == [0] + [1] * 7
    assert bundle.status()["status"] == "created"
