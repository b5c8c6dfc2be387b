# SPDX-License-Identifier: Apache-2.0
"""Engines: they keep images and give each container a writable layer. All their state is in the run's own directory."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import unionfs
from bench.machine import cgroups
from bench.machine.client import MeasurementError
from bench.machine.launcher import FEATURES, PLAIN, UNION, Container, Launcher
from bench.runtimes.lowlevel import own_program
from bench.runtimes.model import Runtime, run_checked, short_path
from bench.targets.model import Mounted, Room

_IMAGE = "localhost/unionbench:latest"
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


class _UnionboxLauncher(Launcher):
    ending = (
        signal.SIGKILL
    )  # the program is pid 1, and ignores what it does not handle; its supervisor cleans up

    def __init__(self, program: str, image: Path, state: Path) -> None:
        self._program = program
        self._image = image
        self._state = state

    def container(
        self, name: str, kind: str, arguments: Sequence[str], *, detached: bool = False
    ) -> Container:
        root = "--rootfs" if kind == UNION else "--plain-rootfs"
        command = [self._program, "run", root, str(self._image), "--", *arguments]
        return Container(command, environment={"UNIONBOX_ROOT": str(self._state)})


class Unionbox(Runtime):
    """This project's engine on this project's union."""

    name = "unionbox"
    title = "this project's engine on its union"
    program = "unionbox"
    package = "this project"

    def missing(self) -> str:
        return "" if own_program(self.program) else "this version of the project has no unionbox"

    def version(self) -> str:
        return f"unionbox {unionfs.__version__}"

    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        state = room.make("state")
        launcher = _UnionboxLauncher(own_program(self.program) or self.program, image, state)
        yield Mounted(image, state, "run --rootfs", launcher=launcher)


class _EngineLauncher(Launcher):
    """podman and docker have the same verbs."""

    stays = False

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        image: Path,
        removal: Sequence[str] = ("rm", "--force"),
    ) -> None:
        self._command = command
        self._removal = removal
        self._environment = environment
        self._image = image

    def container(
        self, name: str, kind: str, arguments: Sequence[str], *, detached: bool = False
    ) -> Container:
        manner = ["--detach"] if detached else ["--rm"]
        image = ["--rootfs", str(self._image)] if kind == PLAIN else [_IMAGE]
        command = [*self._command, "run", *manner, "--network", "none", "--name", name, *image, *arguments]
        return Container(command, environment=self._environment)

    def removal(self, names: Sequence[str]) -> list[Container]:
        return [Container([*self._command, *self._removal, *names], environment=self._environment)]


class Podman(Runtime):
    """podman without a daemon: overlay storage, conmon, its usual OCI runtime."""

    name = "podman"
    title = "podman, overlay storage, no network"
    program = package = "podman"

    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        state = room.make("state")
        with short_path(state) as short:
            yield from self._prepare(image, state, short)

    def _prepare(self, image: Path, state: Path, short: Path) -> Iterator[Mounted]:
        runtime = "crun" if shutil.which("crun") else "runc"
        settings = state / "containers.conf"
        settings.write_text(_podman_settings())
        command = [
            "podman", "--root", f"{short}/root", "--runroot", f"{short}/run", "--tmpdir", f"{short}/tmp",
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
            "--runtime", runtime, "--runtime-flag", f"root={short}/oci",
        ]  # fmt: skip
        environment = {"CONTAINERS_CONF": str(settings)}
        archive = _archive(image, state)
        run_checked([*command, "import", archive, _IMAGE], environment)
        archive.unlink()
        try:
            launcher = _EngineLauncher(command, environment, image, ("rm", "--force", "--time", "0"))
            yield Mounted(image, state, f"--runtime {runtime} --storage-driver overlay", launcher=launcher)
        finally:
            everything = [*command, "rm", "--force", "--all", "--time", "0"]
            subprocess.run(everything, capture_output=True, env=os.environ | environment)


def _podman_settings() -> str:
    """By default podman asks for more files and processes than a process without CAP_SYS_RESOURCE may be given."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    limits = [f'"nofile={files}:{files}"', f'"nproc={processes}:{processes}"']
    return f'[containers]\ndefault_ulimits = [{", ".join(limits)}]\nlog_driver = "k8s-file"\n'


class Docker(Runtime):
    """docker with a daemon of the run's own, without a network."""

    name = "docker"
    title = "docker, overlay2 storage, no network"
    program = "dockerd"
    package = "docker.io"
    features = frozenset({FEATURES[UNION]})

    def missing(self) -> str:
        if shutil.which("docker") is None:
            return f"docker is not installed; apt-get install {self.package}"
        return super().missing()

    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        state = room.make("state")
        with short_path(state) as short:
            yield from self._prepare(image, state, short)

    def _prepare(self, image: Path, state: Path, short: Path) -> Iterator[Mounted]:
        settings, log = state / "daemon.json", state / "log"
        settings.write_text("{}")
        address = f"unix://{short}/socket"
        command = [
            "dockerd", "--config-file", str(settings), "--data-root", f"{short}/data", "--exec-root", f"{short}/exec",
            "--pidfile", f"{short}/pid", "--host", address, "--iptables=false", "--ip6tables=false", "--bridge=none",
            "--storage-driver", "overlay2",
        ]  # fmt: skip
        with log.open("wb") as stream:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
                preexec_fn=lambda: cgroups.enter("docker-daemon"),
            )  # fmt: skip
        try:
            client = ["docker", "--host", address]
            launcher = _EngineLauncher(client, {"DOCKER_CONFIG": str(state)}, image)
            place = Mounted(image, state, "--storage-driver overlay2", daemon, log, launcher=launcher)
            _wait_answers(place, client)
            archive = _archive(image, state)
            run_checked([*client, "import", archive, _IMAGE])
            archive.unlink()
            yield place
        finally:
            _stop(daemon)


def _wait_answers(place: Mounted, client: list[str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while subprocess.run([*client, "version"], capture_output=True).returncode:
        place.check_alive()
        if time.monotonic() > deadline:
            raise MeasurementError("timeout", f"the daemon does not answer after {_START_SECONDS:.0f} s")
        time.sleep(0.05)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """It ends its containers and its own containerd; its process group is killed if it does not."""
    daemon.terminate()
    try:
        daemon.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _archive(image: Path, directory: Path) -> Path:
    """Return the image as an archive, which both engines can import."""
    archive = directory / "image.tar"
    run_checked(["tar", "--create", "--file", archive, "--directory", image, "."])
    return archive
