# SPDX-License-Identifier: Apache-2.0
"""Containers of an ordinary user: with his own id alone, and with subordinate ids."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.oci.commands import spec
from tests.support.oci import Bundle

# newuidmap asks for the user's name, so it must be one that every system knows.
USER, GROUP = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid


@pytest.fixture
def rootless(bundle: Bundle) -> Bundle:
    """Give a bundle of an ordinary user."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    bundle.prefix = ["setpriv", "--reuid", str(USER), "--regid", str(GROUP), "--clear-groups"]
    bundle.environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(bundle.directory)}
    bundle.config = spec.default(rootless=True)
    bundle.process["terminal"] = False
    bundle.config["root"]["readonly"] = False
    bundle.linux["uidMappings"][0]["hostID"] = USER
    bundle.linux["gidMappings"][0]["hostID"] = GROUP
    for top, names, files in os.walk(bundle.directory):
        for name in [".", *names, *files]:
            os.chown(Path(top, name), USER, GROUP, follow_symlinks=False)
    return bundle


@pytest.fixture
def subordinate_ids() -> Iterator[None]:
    """Give the user 65536 ids from 300000 on, in the test's own mount namespace."""
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed")
    bound = []
    try:
        for name in ("subuid", "subgid"):
            source = Path(f"/tmp/{name}-{os.getpid()}")
            source.write_text("nobody:300000:65536\n")
            subprocess.run(["mount", "--bind", source, f"/etc/{name}"], check=True)
            bound.append(name)
        yield
    finally:
        for name in bound:
            subprocess.run(["umount", f"/etc/{name}"], check=True)
            Path(f"/tmp/{name}-{os.getpid()}").unlink()


def test_ordinary_user_runs_a_container(rootless: Bundle) -> None:
    """Root inside is the user outside; no cgroup is needed."""
    rootless.shell("id -u; cat /proc/self/uid_map; touch /tmp/mine; echo $$")
    lines = rootless.run().lines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(USER), "1"]
    assert lines[2] == "1"
    assert (rootless.rootfs / "tmp/mine").stat().st_uid == USER


def test_ordinary_user_creates_starts_kills_and_deletes(rootless: Bundle) -> None:
    """All commands of a container's life."""
    rootless.process["args"] = ["sleep", "1000"]
    rootless.create()
    assert rootless.status()["status"] == "created"
    rootless.start()
    assert rootless.status()["status"] == "running"
    rootless.kill("KILL")
    rootless.wait_for_status("stopped")
    rootless.delete()


@pytest.mark.usefixtures("subordinate_ids")
def test_subordinate_ids_are_mapped(rootless: Bundle) -> None:
    """newuidmap and newgidmap write a map of many ids."""
    for key in ("uidMappings", "gidMappings"):
        rootless.linux[key].append({"containerID": 1, "hostID": 300000, "size": 65536})
    for kind in ("bounding", "effective", "permitted"):
        rootless.process["capabilities"][kind].append("CAP_CHOWN")
    rootless.shell("cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/x; chown 5:6 /tmp/x")
    lines = [line.split() for line in rootless.run().lines()]
    assert lines == [
        ["0", str(USER), "1"],
        ["1", "300000", "65536"],
        ["0", str(GROUP), "1"],
        ["1", "300000", "65536"],
    ]
    status = (rootless.rootfs / "tmp/x").stat()
    assert (status.st_uid, status.st_gid) == (300004, 300005)


@pytest.mark.usefixtures("subordinate_ids")
def test_missing_mappings_take_the_subordinate_ids(rootless: Bundle) -> None:
    """A user namespace without mappings gets all that the user has."""
    del rootless.linux["uidMappings"], rootless.linux["gidMappings"]
    rootless.shell("cat /proc/self/uid_map")
    assert [line.split() for line in rootless.run().lines()] == [
        ["0", str(USER), "1"],
        ["1", "300000", "65536"],
    ]


@pytest.mark.usefixtures("subordinate_ids")
def test_foreign_ids_are_refused_by_name(rootless: Bundle) -> None:
    """The message shows the map that is not the user's to give."""
    rootless.linux["uidMappings"].append({"containerID": 1, "hostID": 5, "size": 10})
    result = rootless.run(check=False)
    assert result.returncode == 1
    assert "newuidmap" in result.stderr
    assert "/etc/subuid" in result.stderr
    assert rootless.leftovers() == []


def test_without_user_namespace_an_ordinary_user_is_told(rootless: Bundle) -> None:
    """The kernel's refusal becomes a sentence, which tells where a user namespace comes from."""
    rootless.linux["namespaces"] = [
        entry for entry in rootless.linux["namespaces"] if entry["type"] != "user"
    ]
    del rootless.linux["uidMappings"], rootless.linux["gidMappings"]
    result = rootless.run(check=False)
    assert result.returncode == 1
    assert "unionrt spec --rootless" in result.stderr
    assert rootless.leftovers() == []


def test_state_directory_of_somebody_else_is_not_taken_for_empty(rootless: Bundle) -> None:
    """Whoever may not look into it is told that, not that there is no such container; --force does not hide it."""
    rootless.state.mkdir(mode=0o700)
    for arguments in (["list"], ["state", "one"], ["delete", "--force", "one"]):
        result = rootless.call(*arguments, check=False)
        assert result.returncode == 1
        assert "permission denied" in result.stderr


def test_without_a_cgroup_nothing_is_paused_or_counted(rootless: Bundle) -> None:
    """Said in words; no figures that are none."""
    rootless.options = ["--cgroup-manager", "disabled"]
    rootless.detach()
    for arguments in (["pause"], ["events", "--stats"]):
        result = rootless.call(*arguments, rootless.id, check=False)
        assert result.returncode == 1
        assert "no cgroup" in result.stderr


def test_ordinary_user_execs(rootless: Bundle) -> None:
    """Another program, with and without a terminal."""
    rootless.detach()
    assert rootless.exec("sh", "-c", "id -u; echo $$ > /tmp/pid; exit 3", check=False).returncode == 3
    assert rootless.exec("--tty", "tty").stdout.strip() == "/dev/pts/0"
    assert "no id in the user namespace" in rootless.exec("--user=7", "id", check=False).stderr
