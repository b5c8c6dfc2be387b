# SPDX-License-Identifier: Apache-2.0
"""Programs that start one container in a directory they are given: bubblewrap, and the OCI runtimes.

They know no images. For a root with a writable layer an overlay2 is mounted right before, inside the measured time, with
`volatile`, as an engine does for a container that is thrown away.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.machine.launcher import FEATURES, PLAIN, UNION, Container, Launcher, Overlay
from bench.runtimes.model import Runtime
from bench.targets.model import Mounted, Room
from bench.targets.servers import program_version

_PATH = "PATH=/usr/bin:/bin"


def overlay_root(image: Path, directory: Path) -> Overlay:
    """Make the directories of an overlay2 root over `image` in `directory`."""
    for name in ("upper", "work", "root"):
        (directory / name).mkdir(parents=True)
    options = f"lowerdir={image},upperdir={directory}/upper,workdir={directory}/work,volatile"
    return Overlay(directory / "root", options)


class _Direct(Launcher):
    """Without any container: what the method itself takes."""

    isolates = False

    def __init__(self, image: Path) -> None:
        self._image = image

    def container(
        self, name: str, kind: str, arguments: Sequence[str], *, detached: bool = False
    ) -> Container:
        program, *rest = arguments
        return Container([str(self._image / "bin" / program), *rest])


class NoContainer(Runtime):
    """The floor: the image's programs started as they are."""

    name = "no-container"
    title = "the program alone, no container"
    features = frozenset({FEATURES[PLAIN]})

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return ""

    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        yield Mounted(image, room.make("state"), "", launcher=_Direct(image))


class _BubblewrapLauncher(Launcher):
    def __init__(self, image: Path, state: Path) -> None:
        self._image = image
        self._state = state

    def container(
        self, name: str, kind: str, arguments: Sequence[str], *, detached: bool = False
    ) -> Container:
        overlay = overlay_root(self._image, self._state / name) if kind == UNION else None
        root = overlay.target if overlay else self._image
        mounts = ["--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
        return Container(["bwrap", "--unshare-all", "--die-with-parent", *mounts, "--", *arguments], overlay)


class Bubblewrap(Runtime):
    """bwrap: namespaces and mounts, no cgroup, no state."""

    name = "bwrap"
    title = "bubblewrap, all namespaces"
    program = "bwrap"
    package = "bubblewrap"

    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        state = room.make("state")
        yield Mounted(image, state, "--unshare-all", launcher=_BubblewrapLauncher(image, state))


class _OciLauncher(Launcher):
    stays = False

    def __init__(self, program: str, image: Path, state: Path) -> None:
        self._command = [program, "--root", str(state / "runtime")]
        self._image = image
        self._state = state
        self._group = f"/{Path(program).name}"

    def container(
        self, name: str, kind: str, arguments: Sequence[str], *, detached: bool = False
    ) -> Container:
        bundle = self._state / name
        bundle.mkdir()
        overlay = overlay_root(self._image, bundle) if kind == UNION else None
        root = overlay.target if overlay else self._image
        spec = specification(arguments, root, f"{self._group}/{name}")
        (bundle / "config.json").write_text(json.dumps(spec))
        detach = ["--detach"] if detached else []
        return Container([*self._command, "run", *detach, "--bundle", str(bundle), name], overlay)

    def removal(self, names: Sequence[str]) -> list[Container]:
        return [Container([*self._command, "delete", "--force", name]) for name in names]

    def remove_left(self) -> None:
        """Remove the containers of a client that was killed."""
        kept = self._state / "runtime"
        names = [path.name for path in kept.iterdir() if path.is_dir()] if kept.exists() else []
        for removal in self.removal(names):
            subprocess.run(removal.command, capture_output=True)


class OciRuntime(Runtime):
    """An OCI runtime by its command line; every one gets the same configuration."""

    def __init__(self, name: str, package: str, title: str) -> None:
        self.name = self.program = name
        self.package = package
        self.title = title

    def command(self) -> str | None:
        """Return the program's path, or nothing."""
        return shutil.which(self.program)

    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        state = room.make("state")
        launcher = _OciLauncher(self.command() or self.program, image, state)
        try:
            yield Mounted(image, state, "the same configuration for all OCI runtimes", launcher=launcher)
        finally:
            launcher.remove_left()


class OwnRuntime(OciRuntime):
    """This project's OCI runtime, which may be installed beside the interpreter only."""

    def command(self) -> str | None:
        return own_program(self.program)

    def missing(self) -> str:
        return "" if self.command() else f"this version of the project has no {self.program}"

    def version(self) -> str:
        return program_version([self.command() or self.program, "--version"])


def own_program(name: str) -> str | None:
    """Return the path of a program of this project, first where this interpreter's environment has it."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def specification(arguments: Sequence[str], root: Path, group: str) -> dict[str, Any]:
    """Return config.json (OCI runtime specification 1.0): namespaces, mounts, devices and masks of a usual container."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "args": list(arguments), "env": [_PATH], "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": False},
        "hostname": "unionbench",
        "mounts": [
            _mount("/proc", "proc"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        ],
        "linux": {
            "cgroupsPath": group,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}
