# SPDX-License-Identifier: Apache-2.0
"""What a target is: it mounts a writable directory over N read-only layers, all with one signature.

Every server runs in the foreground as our child, so that its death, its processor time and its memory are known.
"""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine.client import MeasurementError
from bench.machine.launcher import FILESYSTEM, Launcher
from bench.machine.layers import Build, Layers
from bench.machine.unprivileged import User

COPY_UP = "copy-up"  # a file of a read-only layer can be written to
WHITEOUT = "whiteout"  # a file of a read-only layer can be removed
REPLACE = "replacing"  # a file can be renamed over one of a read-only layer
SERVER = "server"  # it is a process in user space
MANY = "part in a million files, for the time it would take"


@dataclass(frozen=True, slots=True)
class Room:
    """Directories for one mount: below `directory` everything is the target's own, `layers` are shared and only read.

    `kept` is where a plain tree stays from round to round if nothing writes to it, `user` who mounts if that is not root.
    """

    directory: Path
    layers: Layers
    builds: tuple[Build, ...]
    pin: int | None = None
    user: User | None = None
    kept: Path | None = None

    def make(self, name: str) -> Path:
        """Make and return an own directory."""
        path = self.directory / name
        path.mkdir(parents=True)
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.uid)
        return path

    def command(self, *words: str | Path) -> list[str]:
        """Return a command line that does `words` where and as who the target is mounted."""
        inside = self.user.command() if self.user else []
        return [*inside, *map(str, words)]

    def server(self, words: list[str]) -> list[str]:
        """Return a command line for a server, which is pinned before it starts a thread."""
        pinned = [] if self.pin is None else ["taskset", "-c", str(self.pin)]
        return self.command(*pinned, *words)


@dataclass(slots=True)
class Mounted:
    """A target that is ready; `options` is what to say about how it was mounted, `user` whose mount namespace has it.

    A container runtime has a `launcher`; it is its daemon that is the `server`.
    """

    directory: Path
    upper: Path
    options: str
    server: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    user: User | None = None
    launcher: Launcher | None = None

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
    """One kind of filesystem; `package` is what brings it; a `variant` is measured less often by `unionbench full`."""

    name: str
    title: str
    package: str = ""
    features: frozenset[str] = frozenset({COPY_UP, WHITEOUT, REPLACE, MANY})
    rootless: bool = False
    variant: bool = False
    kind: str = FILESYSTEM

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


def unmount(room: Room, target: Path) -> None:
    """Unmount, if need be lazily."""
    for options in ([], ["-l"]):
        done = subprocess.run(room.command("umount", *options, target), capture_output=True)
        if done.returncode == 0:
            return
