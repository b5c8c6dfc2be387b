# SPDX-License-Identifier: Apache-2.0
"""The state directory: written whole or not at all, locked, and believed only if it is ours."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.oci.state import write_file
from tests.support.oci import ROOT, Bundle, wait_until


def test_file_that_does_not_fit_is_a_failure(tmp_path: Path) -> None:
    """A full file system takes the first part of what is written; half a state would be of no use to anybody."""
    code = """if True:
        import resource, sys
        from runtime.oci.state import write_file
        write_file(sys.argv[1], "old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_file(sys.argv[1], "x" * 1500)
        except OSError as error:
            print(error.strerror)"""
    path = tmp_path / "file"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "File too large\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A pid file may be in a directory where others can write too, and guess our name for the draft."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / f"file.{os.getpid()}").symlink_to(victim)
    write_file(str(tmp_path / "file"), "text")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("text", ["", '{"id": ', "[]"])
def test_damaged_state_stops_nothing_else(bundle: Bundle, text: str) -> None:
    """`list` tells of the other containers, and the damaged one can be deleted."""
    bundle.options = ["--cgroup-manager", "disabled"]
    bundle.create()
    bundle.kill()
    (bundle.state / bundle.id / "state.json").write_text(text)
    assert bundle.id in bundle.call("list").stdout
    bundle.delete("--force")
    assert bundle.leftovers() == []


@pytest.mark.parametrize("command", ["ps", "events"])
def test_container_whose_creation_was_killed_has_no_group(bundle: Bundle, command: str) -> None:
    """What is left is a directory; the message tells how to get rid of it."""
    directory = bundle.state / bundle.id
    directory.mkdir(parents=True)
    lock = os.open(directory, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as if it was going on
    done = bundle.call(command, bundle.id, check=False)
    assert "has no cgroup yet" in done.stderr
    os.close(lock)
    bundle.delete("--force")


def test_container_of_somebody_else_is_refused(bundle: Bundle) -> None:
    """Its hooks would run with our rights."""
    bundle.create()
    directory = bundle.state / bundle.id
    os.chown(directory, 12345, 0)
    for command in ("state", "start", "delete"):
        assert "belongs to the user 12345" in bundle.call(command, bundle.id, check=False).stderr
    os.chown(directory, 0, 0)
    (bundle.state / "link").symlink_to(directory)
    assert "does not exist" in bundle.call("state", "link", check=False).stderr
    (bundle.state / "link").unlink()


def test_state_root_that_others_may_change_is_refused(bundle: Bundle) -> None:
    """They could put another directory in the place of a container's."""
    bundle.state.mkdir()
    bundle.state.chmod(0o777)
    assert "others may change" in bundle.create(check=False).stderr
    bundle.state.chmod(0o1777)
    bundle.create()


def test_lock_is_that_of_the_present_container(bundle: Bundle) -> None:
    """Who has waited for a container that is gone must not touch the new one of the same id while it is being made."""
    bundle.create()
    directory, new, old = (bundle.state / name for name in (bundle.id, ".new", ".old"))
    first = os.open(directory, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    process = subprocess.Popen(bundle.command("delete", bundle.id), cwd=bundle.directory)
    wait_until(lambda: _has_open(process.pid, directory), "delete waits for the lock")
    new.mkdir(mode=0o700)
    second = os.open(new, os.O_RDONLY)
    fcntl.flock(second, fcntl.LOCK_EX)
    for path in directory.iterdir():
        path.rename(new / path.name)
    directory.rename(old)
    new.rename(directory)
    os.close(first)
    wait_until(
        lambda: process.poll() is not None or _has_open(process.pid, directory), "delete has looked again"
    )
    assert process.poll() is None
    os.close(second)
    assert process.wait(timeout=30) == 0
    assert not directory.exists()
    old.rmdir()


def _has_open(pid: int, path: Path) -> bool:
    try:
        return str(path) in {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return False


def _run_and_delete_behind_its_back(bundle: Bundle) -> subprocess.Popen[bytes]:
    """Return a `run` that sleeps (SIGSTOP) while somebody else has deleted its container."""
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.save()
    process = subprocess.Popen(bundle.command("run", bundle.id), cwd=bundle.directory)
    wait_until(lambda: (bundle.state / bundle.id / "state.json").exists(), "the container is there")
    bundle.wait_for_status("running")
    process.send_signal(signal.SIGSTOP)
    bundle.delete("--force")
    return process


def test_run_leaves_a_new_container_of_its_id_alone(bundle: Bundle) -> None:
    """While it slept, somebody else has deleted its container and made another."""
    process = _run_and_delete_behind_its_back(bundle)
    bundle.create()
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=30) == 128 + signal.SIGKILL
    assert bundle.status()["status"] == "created"


def test_run_ends_with_the_status_of_a_container_deleted_by_others(bundle: Bundle) -> None:
    """There is nothing left to delete, which is no failure."""
    process = _run_and_delete_behind_its_back(bundle)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=30) == 128 + signal.SIGKILL


def test_delete_while_start_waits_for_readiness(bundle: Bundle) -> None:
    """A container may take its time to say that it is ready; meanwhile it can be deleted."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(bundle.directory / "manager"))
        bundle.environment["NOTIFY_SOCKET"] = str(bundle.directory / "manager")
        bundle.process["args"] = ["/bin/sleep", "1000"]
        bundle.create()
        start = subprocess.Popen(
            bundle.command("start", bundle.id), cwd=bundle.directory, env=bundle.environment
        )
        bundle.wait_for_status("running")
        bundle.delete("--force")
        assert start.wait(timeout=30) == 0
