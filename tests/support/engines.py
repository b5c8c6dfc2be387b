# SPDX-License-Identifier: Apache-2.0
"""Container engines that run their containers through `unionrt`, each with all its files in one directory.

An engine's daemons see an empty /run of their own: the caller has mounted one there, in a private mount namespace.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.support import images, oci
from tests.support.groups import OURS

PATIENCE = 60.0  # seconds for one command of an engine


class Engine(ABC):
    """One engine; `root` holds its state and `parent` is the control group of its containers."""

    programs: tuple[str, ...] = ()

    def __init__(self, root: Path, runtime: Path) -> None:
        self.root = root
        self.runtime = runtime
        self.parent = f"/{OURS}-{root.name}"
        self.environment = dict(os.environ)
        self.daemon: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """Return the program that is not installed, or nothing."""
        return next((program for program in cls.programs if not shutil.which(program)), "")

    # what a test calls

    def call(
        self, *arguments: str, check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine; it writes into files, for what it starts may keep its streams."""
        with (self.root / "out").open("w+b") as out, (self.root / "err").open("w+b") as err:
            done = subprocess.run(
                [*self.command(), *arguments],
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment,
                cwd=self.root,
                timeout=PATIENCE,
            )
        text = [(self.root / name).read_text(errors="replace") for name in ("out", "err")]
        if check:
            assert done.returncode == 0, f"{arguments}: {done.returncode}\n{text[0]}{text[1]}"
        return subprocess.CompletedProcess(done.args, done.returncode, text[0], text[1])

    @abstractmethod
    def command(self) -> list[str]:
        """Return the client's command line, up to the subcommand."""

    @abstractmethod
    def start(self, archive: Path) -> None:
        """Start the daemon, if there is one, and load the image."""

    def run(self, name: str, *command: str, options: Sequence[str] = (), check: bool = True) -> str:
        """Run a container in the foreground and remove it; return what it wrote."""
        return self.call(*self._run(name, "--rm", *options), *command, check=check).stdout

    def status_of(self, name: str, *command: str) -> int:
        """Run a container in the foreground and remove it; return its exit status."""
        return self.call(*self._run(name, "--rm"), *command, check=False).returncode

    def detach(self, name: str, *command: str) -> None:
        """Start a container that stays."""
        self.call(*self._run(name, "--detach"), *command)

    @abstractmethod
    def _run(self, name: str, *options: str) -> list[str]:
        """Return the words that run a container, up to its command."""

    @abstractmethod
    def exec(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""

    @abstractmethod
    def pause(self, name: str) -> None:
        """Stop a container's processes where they are."""

    @abstractmethod
    def resume(self, name: str) -> None:
        """Let them go on."""

    @abstractmethod
    def status(self, name: str) -> str:
        """Return the container's status, in the engine's words and small letters."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """End a container's processes."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a container that has ended."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the containers that the engine knows."""

    def close(self) -> None:
        """End the daemon and remove the control groups that the engine made."""
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        self._remove_places()
        # podman's monitors end a little after their containers.
        oci.wait_until(self._remove_groups, "the engine has no process left")

    # what engines share

    def _remove_places(self) -> None:
        """Remove what podman makes for v1 hierarchies that are not mounted: plain directories where they would be."""
        top = Path("/sys/fs/cgroup")
        if (top / "cgroup.controllers").exists():
            return
        for place in top.iterdir():
            if not place.is_symlink() and not place.is_mount():
                shutil.rmtree(str(place) + self.parent, ignore_errors=True)
                if not any(place.iterdir()):
                    place.rmdir()

    def _remove_groups(self) -> bool:
        try:
            for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
                for path, _, _ in os.walk(str(top) + self.parent, topdown=False):
                    os.rmdir(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _serve(self, *command: str) -> None:
        """Start the daemon and wait until its client is answered."""
        with (self.root / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        oci.wait_until(lambda: self.call("version", check=False).returncode == 0, f"{command[0]} answers")


class Podman(Engine):
    """podman with conmon, which run as root without a daemon."""

    programs: tuple[str, ...] = ("podman", "conmon")

    def command(self) -> list[str]:
        """See Engine."""
        places = (f"--{option}={self.root / option}" for option in ("root", "runroot", "tmpdir"))
        manager = ("--cgroup-manager=cgroupfs", "--events-backend=file", "--storage-driver=vfs")
        return ["podman", *places, *manager, f"--runtime={self.runtime}"]

    def start(self, archive: Path) -> None:
        """See Engine."""
        # podman asks for far more open files and processes than the hard limits of a small machine.
        limits = {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
            "nproc": resource.getrlimit(resource.RLIMIT_NPROC),
        }
        ulimits = ",".join(
            f'"{name}={min(hard, 1024) if hard >= 0 else 1024}"' for name, (_, hard) in limits.items()
        )
        (self.root / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = [{ulimits}]\n"
            f'[engine]\nlock_type = "file"\nruntime_supports_json = ["{self.runtime.name}"]\n'
        )
        self.environment["CONTAINERS_CONF"] = str(self.root / "containers.conf")
        self.call("load", "--input", str(archive))

    def _run(self, name: str, *options: str) -> list[str]:
        return [
            "run",
            "--network=none",
            f"--cgroup-parent={self.parent}",
            f"--name={name}",
            *options,
            images.NAME,
        ]

    def exec(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """See Engine."""
        return self.call("exec", name, *command, check=check)

    def pause(self, name: str) -> None:
        """See Engine."""
        self.call("pause", name)

    def resume(self, name: str) -> None:
        """See Engine."""
        self.call("unpause", name)

    def status(self, name: str) -> str:
        """See Engine."""
        return self.call("inspect", "--format", "{{.State.Status}}", name).stdout.strip().lower()

    def stop(self, name: str) -> None:
        """See Engine."""
        self.call("stop", "--time=0", name)

    def remove(self, name: str) -> None:
        """See Engine."""
        self.call("rm", name)

    def names(self) -> list[str]:
        """See Engine."""
        return self.call("ps", "--all", "--format", "{{.Names}}").stdout.split()


class Docker(Podman):
    """dockerd with a containerd of its own; its client's commands are those that podman copied."""

    programs = ("docker", "dockerd", "containerd")

    def command(self) -> list[str]:
        """See Engine."""
        return ["docker", f"--host=unix://{self.root}/docker.sock", f"--config={self.root}/client"]

    def start(self, archive: Path) -> None:
        """See Engine."""
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}
        self._serve(
            "dockerd",
            *(f"--{option}={self.root / name}" for option, name in places.items()),
            f"--host=unix://{self.root}/docker.sock",
            f"--add-runtime=unionrt={self.runtime}",
            "--default-runtime=unionrt",
            "--storage-driver=vfs",
            "--iptables=false",
            "--bridge=none",
        )
        self.call("load", "--input", str(archive))


class Containerd(Engine):
    """containerd and its simple client."""

    programs = ("containerd", "ctr", "containerd-shim-runc-v2")

    def command(self) -> list[str]:
        """See Engine."""
        return ["ctr", f"--address={self.root}/containerd.sock"]

    def start(self, archive: Path) -> None:
        """See Engine."""
        (self.root / "config.toml").write_text(
            f'version = 2\nroot = "{self.root}/lib"\nstate = "{self.root}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{self.root}/containerd.sock"\n'
        )
        self._serve("containerd", "--config", str(self.root / "config.toml"))
        self.call("images", "import", "--snapshotter=native", str(archive))

    def _run(self, name: str, *options: str) -> list[str]:
        how = ("--snapshotter=native", f"--runc-binary={self.runtime}", f"--cgroup={self.parent}/{name}")
        return ["run", *how, f"--fifo-dir={self.root}/fifos", *options, images.NAME, name]

    def exec(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """See Engine."""
        how = ("--exec-id=one", f"--fifo-dir={self.root}/fifos")
        return self.call("tasks", "exec", *how, name, *command, check=check)

    def pause(self, name: str) -> None:
        """See Engine."""
        self.call("tasks", "pause", name)

    def resume(self, name: str) -> None:
        """See Engine."""
        self.call("tasks", "resume", name)

    def status(self, name: str) -> str:
        """See Engine."""
        rows = (line.split() for line in self.call("tasks", "list").stdout.splitlines()[1:])
        return {row[0]: row[2] for row in rows}[name].lower()

    def stop(self, name: str) -> None:
        """See Engine."""
        self.call("tasks", "kill", "--signal=KILL", name)
        oci.wait_until(lambda: self.status(name) == "stopped", f"{name} is stopped")
        self.call("tasks", "delete", name, check=False)  # its status is that of the killed program

    def remove(self, name: str) -> None:
        """See Engine."""
        self.call("containers", "delete", name)

    def names(self) -> list[str]:
        """See Engine."""
        return self.call("containers", "list", "--quiet").stdout.split()


ENGINES: tuple[type[Engine], ...] = (Podman, Docker, Containerd)
