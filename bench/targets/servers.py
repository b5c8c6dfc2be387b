# SPDX-License-Identifier: Apache-2.0
"""Targets with a server: this project's union and its peers in user space."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import unionfs
from bench.machine.client import Figures, MeasurementError, call
from bench.targets.model import COPY_UP, MANY, REPLACE, SERVER, WHITEOUT, Mounted, Room, Target, unmount
from unionfs.options import table

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


class Server(Target):
    """A filesystem in user space; subclasses say how it is started in the foreground."""

    program: str
    features = frozenset({COPY_UP, WHITEOUT, REPLACE, MANY, SERVER})

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
                room.server(self.command(room, upper, target)), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        place = Mounted(target, upper, self.options(), server, log, room.user)
        try:
            _wait_mounted(place)
            yield place
        finally:
            unmount(room, target)
            _stop(server)


def _wait_mounted(place: Mounted) -> None:
    """Wait until the directory is another filesystem than its parent, and answers."""
    deadline = time.monotonic() + _START_SECONDS
    while not _is_mounted(place):
        place.check_alive()
        if time.monotonic() > deadline:
            raise MeasurementError("timeout", f"not mounted after {_START_SECONDS:.0f} s")
        time.sleep(0.001)
    if place.user is not None:
        call(lambda: _answers(place), _START_SECONDS)


def _is_mounted(place: Mounted) -> bool:
    if place.user is not None:
        return place.user.has_mounted(place.directory)
    try:
        return os.stat(place.directory).st_dev != os.stat(place.directory.parent).st_dev
    except OSError:
        return False  # ENOTCONN: it was, and its server is dying, which the caller sees next


def _answers(place: Mounted) -> Figures:
    """Look at the mount from inside: a user's FUSE mount denies itself to everybody else, root included."""
    assert place.user is not None
    place.user.enter()
    os.stat(place.directory)
    return {}


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
    """This project's union, with one of its sessions; `switch` is a mount option that tells variants apart."""

    package = "this project"
    program = "unionfs"

    def __init__(self, name: str, session: str, switch: str = "") -> None:
        self.name = name
        self.title = f"this project, {session} session" + (f", {switch}" if switch else "")
        self.variant = bool(switch) or session != "direct"
        self.features = Server.features - {MANY} if self.variant else Server.features
        self._session = session
        self._switch = switch

    def missing(self) -> str:
        said = subprocess.run([*_unionfs(), "mount", "--help"], capture_output=True, text=True).stdout
        if self._session not in said:
            return f"this version of the project has no {self._session} session"
        if self._switch and self._switch not in table.SWITCHES:
            return f"this version of the project has no mount option {self._switch}"
        return "" if Path("/dev/fuse").exists() else "this kernel offers no /dev/fuse"

    def version(self) -> str:
        return f"unionfs {unionfs.__version__}, {self._session} session"

    def options(self) -> str:
        return f"{self._words()} --session {self._session}"

    def _words(self) -> str:
        return ",".join(["udba=none", *filter(None, [self._switch])])

    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        branches = ":".join([f"{upper}=rw", *(f"{layer}=ro+wh" for layer in room.layers.roots)])
        options = f"br:{branches},{self._words()}"
        return [*_unionfs(), "mount", "-f", "--session", self._session, "-o", options, str(target)]


def _unionfs() -> list[str]:
    return [sys.executable, "-m", "unionfs.cli.main"]


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
    features = frozenset({MANY, SERVER})

    def options(self) -> str:
        # minfreespace: its default of 4 GiB makes small filesystems read-only.
        return "category.create=ff,minfreespace=0"

    def command(self, room: Room, upper: Path, target: Path) -> list[str]:
        branches = ":".join([f"{upper}=RW", *(f"{layer}=RO" for layer in room.layers.roots)])
        return [self.program, "-f", "-o", self.options(), branches, str(target)]
