# SPDX-License-Identifier: Apache-2.0
"""The end of a container: its status comes at once, whatever is still to be tidied up."""

import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.box import Box, children, first_of, kill, supervisor_of, wait_for_end
from tests.support.oci import make_root
from tests.support.stuck import StuckLayers, wait_for_pending
from tests.support.union import Workshop


@pytest.fixture
def layers(box: Box) -> Iterator[StuckLayers]:
    """Give a root file system that can hold up who walks it."""
    path = box.directory / "layer"
    make_root(path)
    workshop = Workshop(box.directory / "shop")
    made = StuckLayers(workshop, path)
    try:
        yield made
    finally:
        made.go_on()
        workshop.close()
        shutil.rmtree(path)


def _changed(box: Box, layers: StuckLayers, *options: str) -> subprocess.Popen[str]:
    """Run a command that has changed a name of the hard link, and ends with 3 once it cannot be looked for the other one."""
    script = "echo new > /a; cat /b; read line; exit 3"
    client = box.start("--rootfs", f"{layers.path}:{layers.below}", *options, "--", "sh", "-c", script)
    assert client.stdout is not None and client.stdin is not None
    assert client.stdout.readline() == "new\n", client.communicate()
    layers.stop()
    client.stdin.write("\n")
    client.stdin.flush()
    return client


def test_end_with_a_private_branch_walks_nothing(box: Box, layers: StuckLayers) -> None:
    """Other names of a changed hard link are not looked for when the branch with the change is deleted next."""
    client = _changed(box, layers)
    _, said = client.communicate(timeout=60)
    assert (client.returncode, said) == (3, "")


def test_end_with_a_kept_branch_on_sigterm_leaves_links_to_the_next_run(
    box: Box, layers: StuckLayers
) -> None:
    """The status of the command is that of the run; SIGTERM ends the search for a hard link's other names, and none is lost."""
    branch = box.branch()
    client = _changed(box, layers, "--rw", str(branch))
    layers.wait_for_walker()
    (supervisor,) = children(client.pid)
    # One that comes before the client knows of the command's end is the command's.
    wait_for_pending(supervisor, signal.SIGTERM, lambda: client.send_signal(signal.SIGTERM))
    layers.go_on()
    _, said = client.communicate(timeout=60)
    assert client.returncode == 3
    assert "pseudo-links are not flushed, as a signal came" in said
    assert not (branch / "b").exists()
    done = box.run("--rootfs", str(layers.path), "--rw", str(branch), "--", "cat", "/b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "new\n", "")
    assert (branch / "a").samefile(branch / "b")


def test_end_of_a_supervisor_killed_at_its_flush_keeps_the_status(box: Box, layers: StuckLayers) -> None:
    """Once the command has ended its status is known, whatever happens to the processes that tidy up."""
    client = _changed(box, layers, "--rw", str(box.branch()))
    layers.wait_for_walker()
    kill(*children(client.pid))
    layers.go_on()
    client.communicate(timeout=60)
    assert client.returncode == 3


def test_end_with_a_process_in_the_mount_namespace_is_not_held_up(box: Box) -> None:
    """Somebody on the host who has entered the container's mount namespace loses its root; the run ends."""
    client = box.start("--", "sh", "-c", "echo ready; read line; exit 3")
    assert client.stdout is not None and client.stdout.readline() == "ready\n"
    supervisor, init = supervisor_of(client.pid), first_of(client.pid)
    visitor = subprocess.Popen(
        ["nsenter", "--target", str(init), "--mount", "sh", "-c", "echo in; read line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert visitor.stdout is not None and visitor.stdout.readline() == "in\n"
        client.communicate("\n", timeout=90)
        assert client.returncode == 3
        assert visitor.poll() is None
    finally:
        visitor.kill()
        visitor.communicate()
        wait_for_end([supervisor, init])
