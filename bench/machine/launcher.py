# SPDX-License-Identifier: Apache-2.0
"""How containers of one image are started: the commands of a container runtime, as workloads use them."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from unionfs.kernel import syscalls as mounts

FILESYSTEM = "filesystem"  # the kinds of targets
RUNTIME = "runtime"
PLAIN = "plain"  # the kinds of root: a directory as it is, or a writable layer of its own over the image
UNION = "union"
FEATURES = {PLAIN: "containers on a plain directory", UNION: "containers with a writable layer of their own"}
_MNT_DETACH = 2


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay2 root, mounted right before a container whose runtime cannot mount one."""

    target: Path
    options: str

    def mount(self) -> None:
        """Mount it, without a program in between."""
        mounts.mount("overlay", str(self.target), "overlay", 0, self.options)

    def unmount(self) -> None:
        """Unmount it, lazily."""
        mounts.umount2(str(self.target), _MNT_DETACH)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that is ready to start: its command, and the root to mount before."""

    command: list[str]
    overlay: Overlay | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, output: int | IO[bytes], errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """Mount the root and start the command."""
        if self.overlay is not None:
            self.overlay.mount()
        environment = os.environ | self.environment
        return subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment, cwd="/"
        )

    def end(self) -> None:
        """Unmount the root."""
        if self.overlay is not None:
            self.overlay.unmount()


class Launcher(ABC):
    """Starts containers in one prepared directory; their names are unique in it."""

    isolates = True  # false only for what is no container at all
    stays = True  # the command that starts a container stays as long as it: there is no detached form

    ending = signal.SIGTERM  # what ends a container whose command stays

    @abstractmethod
    def container(
        self, name: str, kind: str, arguments: Sequence[str], *, detached: bool = False
    ) -> Container:
        """Prepare a container that runs `arguments` on a root of `kind`; attached, its command ends with it."""

    def removal(self, names: Sequence[str]) -> list[Container]:
        """Return the commands that end and remove detached containers."""
        return []
