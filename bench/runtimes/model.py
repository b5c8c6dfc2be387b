# SPDX-License-Identifier: Apache-2.0
"""What a container runtime is to the benchmark: a target of another kind, which starts containers of one image.

To add one: a Launcher says which command starts a container and which removes it, a Runtime says what it is called and
which package brings it, and the registry in __init__.py names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.machine.client import MeasurementError
from bench.machine.launcher import FEATURES, RUNTIME
from bench.machine.layers import build_plain
from bench.targets.model import Mounted, Room, Target
from bench.targets.servers import program_version
from unionfs.kernel import mount_table
from unionfs.kernel import syscalls as mounts

_MNT_DETACH = 2
_TOPS = ("/mnt", "/media", "/srv")


class Runtime(Target):
    """Something that starts containers."""

    kind = RUNTIME
    program: str
    features = frozenset(FEATURES.values())

    def missing(self) -> str:
        if shutil.which(self.program) is None:
            return f"{self.program} is not installed; apt-get install {self.package}"
        return ""

    def version(self) -> str:
        return program_version([self.program, "--version"])

    @abstractmethod
    def prepare(self, image: Path, room: Room) -> Iterator[Mounted]:
        """Yield it ready to start containers of the root filesystem `image`: a generator.

        `directory` is the image, `upper` is where all that it keeps is, `server` its daemon if it has one.
        """

    def mount(self, room: Room) -> Iterator[Mounted]:
        image = room.make("image")
        build_plain(image, room.builds)
        try:
            yield from self.prepare(image, room)
        finally:
            _unmount_below(room.directory)


@contextmanager
def short_path(directory: Path) -> Iterator[Path]:
    """Yield a short path of a directory: sockets, and podman, have no room for a long one.

    It is a mount in the run's private namespace; unmounting it takes what is mounted below along.
    """
    top = next(Path(name) for name in _TOPS if not directory.is_relative_to(name) and Path(name).is_dir())
    short = top / "unionbench" / f"{directory.stat().st_ino:x}"
    if not short.parent.exists():
        mounts.mount("unionbench", str(top), "tmpfs", 0, "mode=755,size=1m")
    short.mkdir(parents=True)
    mounts.mount(str(directory), str(short), None, mounts.MS_BIND)
    try:
        yield short
    finally:
        mounts.umount2(str(short), _MNT_DETACH)
        short.rmdir()


def _unmount_below(directory: Path) -> None:
    """Unmount what killed containers left below `directory`, the innermost first."""
    for mounted in reversed(mount_table.read()):
        if mounted.target.startswith(f"{directory}/"):
            mounts.umount2(mounted.target, _MNT_DETACH)


def run_checked(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """Run a preparing command and return its output; MeasurementError with its last line when it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=os.environ | (environment or {})
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).split("\n")[-1]
        raise MeasurementError("failed", f"{Path(str(command[0])).name}: {said[:200]}")
    return done.stdout
