# SPDX-License-Identifier: Apache-2.0
"""What is measured: each target mounts a writable directory over N read-only layers, all with one signature.

Every server runs in the foreground as our child, so that its death, its processor time and its memory are known.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import MeasurementError
from bench.layers import Build, Layers, build_plain
from unionfs.errors import UserError

COPY_UP = "copy-up"  # a file of a read-only layer can be written to
WHITEOUT = "whiteout"  # a file of a read-only layer can be removed
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Room:
    """Directories for one mount: below `directory` everything is the target's own, `layers` are shared and only read."""

    directory: Path
    layers: Layers
    builds: tuple[Build, ...]
    pin: int | None = None

    def make(self, name: str) -> Path:
        """Make and return an own directory."""
        path = self.directory / name
        path.mkdir(parents=True)
        return path


@dataclass(slots=True)
class Mounted:
    """A target that is ready; `options` is what to say about how it was mounted."""

    directory: Path
    upper: Path
    options: str
    server: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def check_alive(self) -> None:
        """MeasurementError if the server has died."""
        if self.server is not None and self.server.poll() is not None:
            raise MeasurementError(
                "died", f"its server ended with status {self.server.returncode}{self._last_line()}"
            )

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log and self.log.exists() else []
        said = [line for line in lines if line.strip()]
        return f": {said[-1].strip()[:200]}" if said else ""


class Target(ABC):
    """One kind of filesystem; `package` is what brings it."""

    name: str
    title: str
    package: str = ""
    features: frozenset[str] = frozenset({COPY_UP, WHITEOUT})

    def missing(self) -> str:
        """Return why it cannot be measured here, or nothing."""
        return ""

    def version(self) -> str:
        """Return its version in one line."""
        return ""

    @abstractmethod
    def mount(self, room: Room) -> Iterator[Mounted]:
        """Yield it mounted and clean up: a generator, used through `mounted`."""


@contextmanager
def mounted(target: Target, room: Room) -> Iterator[Mounted]:
    """Mount a target for the block; MeasurementError if it does not come up."""
    generator = target.mount(room)
    place = next(generator)
    try:
        yield place
    finally:
        next(generator, None)


class Plain(Target):
    """A directory without any union, filled by the same writes as the layers."""

    name = "native"
    title = "plain directory"
    features = frozenset[str]()

    def mount(self, room: Room) -> Iterator[Mounted]:
        directory = room.make("plain")
        build_plain(directory, room.builds)
        yield Mounted(directory, directory, "plain directory")


class Copied(Target):
    """The `vfs` storage driver of container engines: every container gets a full copy of its layers."""

    name = "vfs"
    title = "full copy of all layers"
    package = "coreutils"
    features = frozenset[str]()

    def mount(self, room: Room) -> Iterator[Mounted]:
        directory = room.make("copy")
        for layer in reversed(room.layers.roots):
            subprocess.run(["cp", "-a", f"{layer}/.", directory], check=True)
        yield Mounted(directory, directory, "cp -a of each layer")


class Overlay(Target):
    """The kernel's overlayfs."""

    title = "kernel overlayfs"
    package = "the kernel (CONFIG_OVERLAY_FS)"

    def __init__(self, name: str, extra: str = "") -> None:
        self.name = name
        self._extra = extra

    def missing(self) -> str:
        known = "\toverlay\n" in Path("/proc/filesystems").read_text()
        if not known:
            subprocess.run(["modprobe", "overlay"], capture_output=True)
            known = "\toverlay\n" in Path("/proc/filesystems").read_text()
        return "" if known else "this kernel has no overlayfs"

    def version(self) -> str:
        return f"Linux {os.uname().release}"

    def mount(self, room: Room) -> Iterator[Mounted]:
        upper, work, target = room.make("upper"), room.make("work"), room.make("mount")
        # Relative, as container engines do it: mount(2) takes one page of options, too little for 128 full paths.
        lower = ":".join(layer.name for layer in room.layers.roots)
        options = f"{self._extra}lowerdir={lower},upperdir={upper},workdir={work}"
        done = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, target],
            cwd=room.layers.roots[0].parent,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise MeasurementError("failed", done.stderr.strip().partition("\n")[0])
        try:
            yield Mounted(target, upper, f"{self._extra}lowerdir=…×{len(room.layers.roots)}")
        finally:
            _unmount(target)


class Server(Target):
    """A filesystem in user space; subclasses say how it is started in the foreground."""

    program: str

    @abstractmethod
    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        """Return the command that mounts and stays in the foreground."""

    @abstractmethod
    def options(self) -> str:
        """Return the mount options without the branches."""

    def missing(self) -> str:
        if shutil.which(self.program) is None:
            return f"{self.program} is not installed; apt-get install {self.package}"
        return "" if Path("/dev/fuse").exists() else "this kernel offers no /dev/fuse"

    def version(self) -> str:
        return program_version([self.program, "--version"])

    def mount(self, room: Room) -> Iterator[Mounted]:
        upper, target = room.make("upper"), room.make("mount")
        log = room.directory / "log"
        with log.open("wb") as stream:
            server = subprocess.Popen(
                self.command(room, upper, target), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        place = Mounted(target, upper, self.options(), server, log)
        try:
            _wait_mounted(place)
            if room.pin is not None:
                os.sched_setaffinity(server.pid, {room.pin})
            yield place
        finally:
            _unmount(target)
            _stop(server)


def _wait_mounted(place: Mounted) -> None:
    """Wait until the directory is another filesystem than its parent, and answers."""
    outside = place.directory.parent.stat().st_dev
    deadline = time.monotonic() + _START_SECONDS
    while os.stat(place.directory).st_dev == outside:
        place.check_alive()
        if time.monotonic() > deadline:
            raise MeasurementError("timeout", f"not mounted after {_START_SECONDS:.0f} s")
        time.sleep(0.001)


def _unmount(target: Path) -> None:
    for options in ([], ["-l"]):
        if subprocess.run(["umount", *options, target], capture_output=True).returncode == 0:
            return


def _stop(server: subprocess.Popen[bytes]) -> None:
    """A server ends by itself when its mount is gone; one that does not is killed."""
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def program_version(command: list[str]) -> str:
    """Return the line of a program's output that names a version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    name = Path(command[0]).name
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    own = [line for line in lines if name in line and any(c.isdigit() for c in line)]
    return (own or lines or ["unknown"])[0]


class Unionfs(Server):
    """This project's union, with one of its sessions."""

    package = "this project"
    program = "unionfs"

    def __init__(self, name: str, session: str) -> None:
        self.name = name
        self.title = f"this project, {session} session"
        self._session = session

    def missing(self) -> str:
        said = subprocess.run([*_unionfs(), "mount", "--help"], capture_output=True, text=True).stdout
        if self._session not in said:
            return f"this version of unionfs has no {self._session} session"
        return "" if Path("/dev/fuse").exists() else "this kernel offers no /dev/fuse"

    def version(self) -> str:
        from importlib.metadata import version

        return f"unionfs {version('unionfs')}, {self._session} session"

    def options(self) -> str:
        return f"udba=none --session {self._session}"

    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        branches = ":".join([f"{upper}=rw", *(f"{layer}=ro+wh" for layer in room.layers.roots)])
        options = f"br:{branches},udba=none"
        return [*_unionfs(), "mount", "-f", "--session", self._session, "-o", options, str(target)]


def _unionfs() -> list[str]:
    return [sys.executable, "-m", "unionfs.cli"]


class FuseOverlayfs(Server):
    """Container engines' overlay in user space."""

    name = "fuse-overlayfs"
    title = "fuse-overlayfs"
    package = program = "fuse-overlayfs"

    def options(self) -> str:
        return "defaults"

    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        lower = ":".join(map(str, room.layers.roots))
        options = f"lowerdir={lower},upperdir={upper},workdir={room.make('work')}"
        return [self.program, "-f", "-o", options, str(target)]


class UnionfsFuse(Server):
    """Debian's unionfs-fuse; its program has the name of ours, hence the full path."""

    name = "unionfs-fuse"
    title = "unionfs-fuse"
    package = "unionfs-fuse"
    program = "/usr/bin/unionfs"

    def options(self) -> str:
        return "cow,allow_other"

    def version(self) -> str:
        return program_version([self.program, "-V"])

    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        branches = ":".join([f"{upper}=RW", *(f"{layer}=RO" for layer in room.layers.roots)])
        return [self.program, "-f", "-o", self.options(), branches, str(target)]


class Mergerfs(Server):
    """Merges directories; it neither copies up nor hides, so that work on read-only layers does not apply to it."""

    name = "mergerfs"
    title = "mergerfs"
    package = program = "mergerfs"
    features = frozenset[str]()

    def options(self) -> str:
        # minfreespace: its default of 4 GiB makes small filesystems read-only.
        return "category.create=ff,minfreespace=0"

    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        branches = ":".join([f"{upper}=RW", *(f"{layer}=RO" for layer in room.layers.roots)])
        return [self.program, "-f", "-o", self.options(), branches, str(target)]


BASELINE = "overlay2"
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Plain(),
        Overlay(BASELINE),
        Overlay("overlay2-userxattr", "userxattr,"),
        Unionfs("unionfs", "pyfuse3"),
        Unionfs("unionfs-direct", "direct"),
        FuseOverlayfs(),
        UnionfsFuse(),
        Mergerfs(),
        Copied(),
    )
}
QUICK = ("native", BASELINE, "unionfs", "unionfs-direct", "fuse-overlayfs", "unionfs-fuse", "mergerfs")


@dataclass(frozen=True, slots=True)
class Instance:
    """A target under a label of its own, so that one can run against itself; `slowdown` 0.2 makes it 20 % slower."""

    label: str
    target: Target
    slowdown: float = 0.0


def parse_targets(text: str, slow: dict[str, float]) -> list[Instance]:
    """Read `NAME[:LABEL],…`; UserError names what is unknown."""
    chosen: list[Instance] = []
    for word in text.split(","):
        name, _, label = word.partition(":")
        if name not in TARGETS:
            raise UserError(f"unknown target {name!r}", f"known: {', '.join(TARGETS)}", status=2)
        chosen.append(Instance(label or name, TARGETS[name], slow.get(label or name, 0.0)))
    labels = [instance.label for instance in chosen]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"target {label} is given twice", f"give it a name of its own: {label}:again", status=2
            )
    for label in slow.keys() - set(labels):
        raise UserError(
            f"--slow {label}: no such target in this run", f"targets: {', '.join(labels)}", status=2
        )
    return chosen
