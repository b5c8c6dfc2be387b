# SPDX-License-Identifier: Apache-2.0
"""What a creation that fails must leave alone: everything that it did not make."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_until

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


def test_groups_that_were_there_stay_and_those_on_the_way_go(bundle: Bundle) -> None:
    """A creation that fails late removes the groups that it made, above the container's too, and no others."""
    bundle.create()
    plain = _directories(bundle)
    bundle.delete("--force")
    bundle.linux["cgroupsPath"] += "/a/b"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    assert "createRuntime hook failed" in bundle.create(check=False).stderr
    assert not [path for path in plain if os.path.exists(path)]
    for path in plain:
        os.makedirs(f"{path}/a/b")
    assert "createRuntime hook failed" in bundle.create(check=False).stderr
    for path in plain:
        for directory in (f"{path}/a/b", f"{path}/a", path):
            os.rmdir(directory)


def test_told_twice_to_stop_it_undoes_all(bundle: Bundle) -> None:
    """The signals that follow the first do not keep it from clearing up, in the midst of a hook for example."""
    runs = bundle.directory / "runs"
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo > {runs}; exec sleep 1000"]}],
        "poststop": [{"path": "/bin/sleep", "args": ["sleep", "0.3"]}],
    }
    bundle.save()
    with open(bundle.directory / "errors", "w") as errors:
        process = subprocess.Popen(
            bundle.command("create", bundle.id), cwd=bundle.directory, stdout=errors, stderr=errors
        )
    wait_until(runs.exists, "the hook runs")
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert bundle.leftovers() == []


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="pids cannot be chosen here")
def test_process_with_the_pid_of_our_helper_lives_on(bundle: Bundle) -> None:
    """The intermediate process has ended when hooks run, and its pid may be somebody else's when one of them fails.

    In a pid namespace of its own, where nobody else takes pids and none of another test can be given again.
    """
    bundle.linux["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        bundle.linux[key] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    found = bundle.directory / "other"
    script = f"""
        want=$(($(sed 's/.*"pid":\\([0-9]*\\).*/\\1/') - 1))
        echo $((want - 1)) > {LAST_PID}
        sleep 1000 </dev/null >/dev/null 2>&1 &
        [ $! = $want ] && echo $! > {found}
        exit 1"""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    apart = "unshare --pid --fork --kill-child --mount-proc sh -c".split()
    bundle.prefix = [*apart, f'"$@"; kill -0 "$(cat {found})" && echo lives', "sh"]
    result = bundle.create(check=False)
    assert "createRuntime hook failed" in result.stderr
    assert result.stdout == "lives\n"


def _leave_record(bundle: Bundle, group: str, found: list[str]) -> None:
    """Leave what a creation leaves that is killed after it has named its cgroup and before that is its own."""
    bundle.create()
    record = json.loads((bundle.state / bundle.id / "state.json").read_text())
    old = bundle.linux["cgroupsPath"]
    bundle.delete("--force")
    cgroup = json.loads(json.dumps(record["cgroup"]).replace(old, group))
    record |= {"pid": 0, "start": 0, "cgroup": cgroup, "found": found}
    (bundle.state / bundle.id).mkdir(0o700)
    (bundle.state / bundle.id / "state.json").write_text(json.dumps(record))


def _directories(bundle: Bundle) -> list[str]:
    record = json.loads((bundle.state / bundle.id / "state.json").read_text())["cgroup"]
    return [path for path in dict.fromkeys((*record["v1"].values(), record["v2"])) if path]


@pytest.mark.parametrize("made", ["before the record", "after the record"])
def test_group_that_a_killed_creation_only_named_is_left_alone(
    make_bundle: Callable[[], Bundle], made: str
) -> None:
    """Its processes live on, and no command takes them for the container's."""
    first, second = make_bundle(), make_bundle()
    pid = first.detach()["pid"]
    found = _directories(first) if made == "before the record" else []
    _leave_record(second, first.linux["cgroupsPath"], found)
    assert second.status()["status"] == "stopped"
    for words in (["kill", "--all", second.id, "KILL"], ["pause", second.id], ["ps", second.id]):
        assert second.call(*words, check=False).returncode == 1, words
    second.delete("--force")
    assert not list(second.state.glob("[!.]*"))
    assert first.status()["status"] == "running"
    assert first.status()["pid"] == pid
    assert all(os.path.isdir(path) for path in _directories(first))


def test_empty_group_is_removed_if_the_killed_creation_made_it(bundle: Bundle) -> None:
    """Not one that was there before, nor one that another program has made since."""
    bundle.create()
    directories = _directories(bundle)
    bundle.delete("--force")
    for found, mode, left in ((directories, 0o1755, True), ([], 0o755, True), ([], 0o1755, False)):
        _leave_record(bundle, bundle.linux["cgroupsPath"], found)
        for path in directories:
            os.mkdir(path, mode)
        bundle.delete("--force")
        assert [os.path.isdir(path) for path in directories] == [left] * len(directories)
        for path in directories if left else ():
            os.rmdir(path)


def test_creation_killed_at_its_taken_group_ends_nobody(make_bundle: Callable[[], Bundle]) -> None:
    """The real thing, killed as soon as its record is there; what `delete` finds then must not be believed."""
    first, second = make_bundle(), make_bundle()
    first.detach()
    second.linux["cgroupsPath"] = first.linux["cgroupsPath"]
    second.save()
    record = second.state / second.id / "state.json"
    for _ in range(20):
        with open(os.devnull, "w") as nowhere:
            process = subprocess.Popen(
                second.command("create", second.id), cwd=second.directory, stdout=nowhere, stderr=nowhere
            )
            while process.poll() is None and not record.exists():
                pass
            process.kill()
            process.wait()
        second.delete("--force")
        assert first.status()["status"] == "running"
