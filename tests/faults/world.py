# SPDX-License-Identifier: Apache-2.0
"""A union whose root holds numbered copies of the layout, so that many faults are tried in one mount; and what it leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import signal
import stat
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import layout
from tests.faults.calls import Fault
from tests.faults.forked import Forked
from tests.faults.injector import Trace
from tests.faults.view import OLD, View, differences, look, without_lower_links
from tests.support import syscalls
from tests.support.union import Union, is_mounted
from unionfs.cli.check import check_branch
from unionfs.live import registry

_PATIENCE = 20.0
# Found by `check`, and the next mount's to remove.
SWEPT = ("orphan", "stage", "plink", "commit")


@dataclass(frozen=True)
class Configuration:
    """How the union is mounted."""

    session: str
    form: str
    udba: str

    @property
    def options(self) -> list[str]:
        """Return its mount options."""
        words = ["nowarn_perm"]
        words += ["whiteout=overlay"] if self.form == "overlay" else []
        return words + ([f"udba={self.udba}"] if self.udba != "default" else [])

    def __str__(self) -> str:
        return f"{self.session} {self.form} {self.udba}"


class ForkedUnion(Union):
    """A union whose server's calls are decided over."""

    def start(self) -> None:
        """Start the server and wait until the mount answers."""
        words = [
            "mount",
            "-o",
            self.options,
            "--foreground",
            "--session",
            self.session,
            "none",
            str(self.mnt),
        ]
        with self.log.open("ab") as log:
            self.server = Forked(words, log.fileno())
        self.process = self.server
        self.server.go()
        self._wait_until_ready()
        with registry.find(str(self.mnt)):  # nothing of its start is left to be done
            pass


class World:
    """The branches and the mount over them; `lower` is the lower branch's permission."""

    def __init__(self, root: Path, configuration: Configuration, copies: int, lower: str = "") -> None:
        self.root, self.configuration = root, configuration
        self.branches = {name: root / name for name in ("B0", "B1", "B2")}
        self.mnt = root / "U"
        self.options = ",".join(self._branch_words(lower) + configuration.options)
        self._next = 0
        self.copies = copies
        self._build()
        self._low = look(str(self.branches["B1"]), private=True)
        self.union = ForkedUnion(self.mnt, self.branches, self.options, root / "log", configuration.session)
        self.union.allowed_log = ["."]
        self.union.start()

    def _branch_words(self, lower: str) -> list[str]:
        permission = lower or ("ro+wh+ovl" if self.configuration.form == "overlay" else "ro+wh")
        return [f"br:{self.branches['B0']}=rw:{self.branches['B1']}={permission}"]

    def _build(self) -> None:
        for name, tree in (("B0", layout.UPPER), ("B1", layout.LOWER)):
            for number in range(self.copies):
                layout.make(self.branches[name] / f"d{number}", tree, self.configuration.form)
        layout.make(self.branches["B2"] / "d0", layout.BELOW, "aufs")
        for branch in self.branches.values():
            os.utime(branch, (OLD, OLD))
        self.mnt.mkdir()

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return self.union.pid

    def watching(
        self, calls: Sequence[str], fault: Fault | None = None
    ) -> contextlib.AbstractContextManager[Trace]:
        """See the server's calls for the length of a block, and let a fault happen."""
        return self.union.server.injector.watching(calls, fault)

    @property
    def left(self) -> int:
        """Return how many copies nothing was tried in yet."""
        return self.copies - self._next

    def take(self) -> str:
        """Return a directory that nothing was tried in yet."""
        self._next += 1
        return f"{self.mnt}/d{self._next - 1}"

    def is_alive(self) -> bool:
        """Tell whether the server runs."""
        return self.union.process is not None and self.union.process.poll() is None

    def remount(self) -> str:
        """Unmount and mount again; return what was wrong with that."""
        problem = self.stop()
        self.union.start()
        return problem

    def stop(self) -> str:
        """Unmount; return what was wrong with that."""
        try:
            self.union.stop()
        except (AssertionError, OSError) as error:
            return str(error)[:300]
        return ""

    def kill(self) -> None:
        """End a server that may have been killed already, and detach its mount."""
        if self.union.process is not None:
            self.union.kill()

    def close(self) -> None:
        """End all and remove it."""
        with contextlib.suppress(AssertionError, OSError):
            self.kill()
        if is_mounted(self.mnt):
            syscalls.umount2(str(self.mnt), syscalls.MNT_DETACH)
        shutil.rmtree(self.root, ignore_errors=True)

    def problems(self, *, swept: bool = False) -> list[str]:
        """Return what `check` finds in the branches; with `swept` not what the next mount removes."""
        return [
            f"{problem.kind} {os.path.relpath(problem.path, self.root)}"
            for name in ("B0", "B1")
            for problem in check_branch(str(self.branches[name]))
            if not (swept and problem.kind in SWEPT)
        ]

    def counted(self, view: View, directory: str) -> View:
        """Return what was seen in a directory but for the links of files that are on the lower branch only.

        How many of their names went is known for as long as the file is.
        """
        return without_lower_links(view, self.branches["B0"] / os.path.basename(directory))

    def lower_changes(self) -> list[str]:
        """Return what is different in the lower branch."""
        return differences(self._low, look(str(self.branches["B1"]), private=True))

    def descriptors(self) -> Counter[str]:
        """Return the files of the branches that the server has open, and those that have no name any more."""
        found: Counter[str] = Counter()
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            path = f"/proc/{self.pid}/fd/{name}"
            with contextlib.suppress(OSError):
                target, status = os.readlink(path), os.stat(path)
                ours = target.startswith(str(self.root)) or "/#" in target
                if (
                    ours
                    and not target.endswith("/log")
                    and (stat.S_ISREG(status.st_mode) or "(deleted)" in target)
                ):
                    found[re.sub(r"/d\d+/", "/d/", target)] += 1
        return found

    def log_since(self, position: int) -> str:
        """Return what the server wrote."""
        return self.union.log.read_text(errors="replace")[position:]


def act(operation: Callable[[str], object], path: str) -> str:
    """Do something in a process of its own; return "", the errno's name, or HANG."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            operation(path)
            answer = ""
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode() + b"\n")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        ready, _, _ = select.select([stream], [], [], _PATIENCE)
        line = stream.readline().decode().strip() if ready else "HANG"
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return line


def settled(path: str, wanted: Callable[[View], bool], seconds: float) -> View:
    """Return what is seen at `path`, at once if it is `wanted`, else after what the kernel may cache has run out."""
    end = time.monotonic() + seconds
    while True:
        view = look(path)
        if wanted(view) or time.monotonic() > end:
            return view
        time.sleep(0.05)
