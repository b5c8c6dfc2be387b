# SPDX-License-Identifier: Apache-2.0
"""Engines that people use drive `unionrt` as their runtime: podman, buildah, Docker and containerd."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images, oci, syscalls
from tests.support.engines import ENGINES, Engine, Podman

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory for an engine, and hide the machine's /run: engines have sockets and states there."""
    if not oci.can_run():
        pytest.skip("containers need root and busybox")
    top = Path(tempfile.mkdtemp(prefix="unionrt-engine-")).resolve()
    syscalls.mount("tmpfs", "/run", "tmpfs")
    try:
        yield top
    finally:
        syscalls.umount2("/run", syscalls.MNT_DETACH)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if str(top) in (target := line.split()[4]):
                syscalls.umount2(target, syscalls.MNT_DETACH)
        shutil.rmtree(top)


@pytest.fixture
def archive(place: Path) -> Path:
    """Give an image in a file."""
    oci.make_root(place / "rootfs")
    images.write(place / "rootfs", place / "image.tar")
    return place / "image.tar"


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__.lower())
def engine(request: pytest.FixtureRequest, place: Path, archive: Path) -> Iterator[Engine]:
    """Give each engine in turn, with an image loaded."""
    kind: type[Engine] = request.param
    if missing := kind.missing():
        pytest.skip(f"{missing} is not installed")
    engine = kind(place, oci.PROGRAM)
    try:
        engine.start(archive)
        yield engine
    finally:
        engine.close()


def test_run_exec_stop_remove(engine: Engine) -> None:
    engine.detach("stays", "/bin/sleep", "1000")
    assert engine.status("stays") == "running"
    assert engine.exec("stays", "/bin/cat", "/proc/1/cmdline").stdout == "/bin/sleep\x001000\x00"
    assert engine.exec("stays", "/bin/sh", "-c", "exit 7", check=False).returncode == 7
    engine.pause("stays")
    assert engine.status("stays") == "paused"
    engine.resume("stays")
    assert engine.status("stays") == "running"
    engine.stop("stays")
    engine.remove("stays")
    assert engine.names() == []


def test_output_and_exit_status(engine: Engine) -> None:
    assert engine.run("speaks", "/bin/sh", "-c", "echo $((6 * 7)); id -u") == "42\n0\n"
    assert engine.status_of("fails", "/bin/sh", "-c", "exit 7") == 7
    assert engine.names() == []


def test_a_program_that_is_not_there(engine: Engine) -> None:
    if isinstance(engine, Podman):
        assert engine.status_of("lost", "/bin/nowhere") == 127
        assert engine.status_of("forbidden", "/etc/passwd") == 126
    else:
        assert engine.status_of("lost", "/bin/nowhere") != 0


def test_limits_reach_the_kernel(engine: Engine) -> None:
    if not isinstance(engine, Podman):
        pytest.skip("this client has no options for them")
    show = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max"
    if not os.path.ismount("/sys/fs/cgroup/memory"):
        show = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    limits = ("--memory=64m", "--pids-limit=50")
    assert engine.run("limited", "/bin/sh", "-c", show, options=limits).split() == ["67108864", "50"]


def test_terminal(engine: Engine) -> None:
    if not isinstance(engine, Podman):
        pytest.skip("this client wants a terminal of its own")
    assert engine.run("terminal", "/bin/tty", options=("--tty",)).strip() == "/dev/pts/0"


@pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed")
def test_buildah_builds_and_runs(place: Path) -> None:
    oci.make_root(place / "rootfs")
    (place / "Dockerfile").write_text(
        "FROM scratch\nADD rootfs /\nENV PATH=/bin\n"
        "RUN echo made by $(id -u) > /etc/made && test -w /proc/self/comm\nRUN cat /etc/made\n"
    )
    storage = [f"--{option}={place / option}" for option in ("root", "runroot")] + ["--storage-driver=vfs"]
    how = [f"--runtime={oci.PROGRAM}", "--isolation=oci"]

    def buildah(*arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *storage, *arguments],
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "made by 0\n" in buildah("build", *how, "--network=none", "--tag=made", str(place))
    name = buildah("from", "--network=none", "made").strip()
    assert buildah("run", *how, name, "--", "/bin/cat", "/etc/made") == "made by 0\n"
    buildah("rm", name)
