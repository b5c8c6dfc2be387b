# SPDX-License-Identifier: Apache-2.0
"""Two layers that hold up who walks them: the lower one is a mount whose server can be stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.support import syscalls
from tests.support.union import Workshop, eventually


class StuckLayers:
    """A directory `path` with the file `a`, also called `b`, and a mount `below` that is to be the layer below it."""

    def __init__(self, workshop: Workshop, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        (path / "a").write_bytes(b"old\n")
        os.link(path / "a", path / "b")
        self._union = workshop.mount(
            "whiteout=overlay", B0={"file": b"x"}
        )  # so that it may be asked for .wh. names
        self.below = self._union.mnt
        self._number = os.minor(os.stat(self.below).st_dev)
        self._connections = workshop.directory("connections")

    def stop(self) -> None:
        """Hold up the next one who asks anything of the lower layer."""
        os.kill(self._union.pid, signal.SIGSTOP)

    def wait_for_walker(self) -> None:
        """Wait until somebody is held up."""
        syscalls.mount("none", str(self._connections), "fusectl")
        try:
            waiting = self._connections / str(self._number) / "waiting"
            eventually(lambda: int(waiting.read_text()) > 0, "somebody asks")
        finally:
            syscalls.umount2(str(self._connections))

    def go_on(self) -> None:
        """Hold nobody up any longer."""
        os.kill(self._union.pid, signal.SIGCONT)


def wait_for_pending(pid: int, number: signal.Signals, send: Callable[[], object]) -> None:
    """Call `send` until the signal has been sent to a process that cannot take it yet."""

    def pending() -> int:
        send()
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(fields["ShdPnd"], 16) >> (number - 1) & 1

    eventually(pending, f"{number.name} waits for process {pid}")
