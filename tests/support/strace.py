# SPDX-License-Identifier: Apache-2.0
"""Let a server's system calls fail, or kill it at one of them, by strace's injection; count them."""

import collections
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LINE = re.compile(r"^\d+ +(\w+)\(")


class Trace:
    """What a traced server did; complete when the block is left."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def calls(self) -> collections.Counter[str]:
        """Return how often each system call was made."""
        return collections.Counter(match[1] for line in self.lines if (match := _LINE.match(line)))

    @property
    def was_injected(self) -> bool:
        """Tell whether a call failed that would not have."""
        return any("(INJECTED)" in line for line in self.lines)


@contextmanager
def traced(pid: int, calls: str, inject: str = "") -> Iterator[Trace]:
    """Trace `calls` (names with commas) of a process; `inject` is what strace's option of that name takes after them."""
    if shutil.which("strace") is None:
        pytest.skip("this needs strace")
    trace = Trace()
    with tempfile.NamedTemporaryFile("r") as output:
        argv = [
            "strace",
            "-f",
            "-p",
            str(pid),
            "-o",
            output.name,
            "-e",
            f"trace={calls}",
            "-e",
            "signal=none",
        ]
        argv += ["-e", f"inject={calls}:{inject}"] if inject else []
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if b"attached" not in line:
                pytest.skip(f"strace may not attach here: {line.decode().strip()}")
            yield trace
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=3 if "signal=KILL" in inject else 30)
            except subprocess.TimeoutExpired:  # it waits for a dead server that nobody has waited for yet
                process.kill()
                process.communicate()
            trace.lines = Path(output.name).read_text(errors="replace").splitlines()
