# SPDX-License-Identifier: Apache-2.0
"""strace: see which calls a process makes, and have the n-th of one fail or kill it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Calls that change something, or that make what changes it possible.
CHANGING = tuple(
    "open openat openat2 link linkat rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat mknod mknodat symlink "
    "symlinkat chown lchown fchown fchownat chmod fchmod fchmodat utimensat utime utimes setxattr lsetxattr fsetxattr "
    "removexattr lremovexattr fremovexattr copy_file_range pwrite64 truncate ftruncate fallocate sync_file_range fdatasync "
    "fsync syncfs".split()
)
OPENING = ("open", "openat", "openat2", "dup", "fcntl")

_LINE = re.compile(r"(\d+)\s+(\w+)\((.*)")


def why_not() -> str:
    """Return why nothing can be traced here, "" if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace cannot trace here: {done.stderr.strip()[:80]}" if done.returncode else ""


@dataclass(frozen=True)
class Fault:
    """The n-th call of one name (of each thread) fails with `error`, and all later ones too if `persistent`; or SIGKILL."""

    call: str
    number: int
    error: str = ""
    persistent: bool = False

    def __str__(self) -> str:
        return f"{self.error or 'KILL'}{'+' if self.persistent else ''} at {self.call} {self.number}"

    @property
    def leaves(self) -> bool:
        """Tell whether it keeps something from being removed: that may be left, out of sight, until the next mount."""
        return self.error != "" and self.call in ("unlink", "unlinkat", "rmdir")

    @property
    def moves_times(self) -> bool:
        """Tell whether it keeps a directory's time from being put back."""
        return self.error != "" and self.call in ("utimensat", "utime", "utimes")

    @property
    def words(self) -> str:
        """Return it in strace's words."""
        what = f"error={self.error}" if self.error else "signal=KILL"
        return f"{self.call}:{what}:when={self.number}{'+' if self.persistent else ''}"


def _options(output: Path, calls: Sequence[str], fault: Fault | None) -> list[str]:
    command = ["strace", "-f", "-o", str(output), "-e", f"trace={','.join(calls)}", "-e", "signal=none"]
    return [*command, "-e", f"inject={fault.words}"] if fault is not None else command


class Trace:
    """The calls that were seen: strace's lines, once it has ended."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def calls(self) -> dict[str, list[str]]:
        """Return the arguments of the calls of each name, of the thread that made most of them: strace counts by thread."""
        by_thread: dict[tuple[str, str], list[str]] = defaultdict(list)
        for line in self.lines:
            match = _LINE.match(line)
            if match and not match[2].startswith("syscall_"):
                by_thread[match[1], match[2]].append(match[3][:150])
        most: dict[str, list[str]] = {}
        for (_, name), arguments in by_thread.items():
            if len(arguments) > len(most.get(name, [])):
                most[name] = arguments
        return most

    def hit(self) -> str:
        """Return the call that failed, "" if none did."""
        return next((line for line in self.lines if "INJECTED" in line), "")


@contextlib.contextmanager
def attached(pid: int, output: Path, calls: Sequence[str], fault: Fault | None = None) -> Iterator[Trace]:
    """Trace a process for the length of the block; the calls are to be looked at after that."""
    trace = Trace()
    tracer = subprocess.Popen(
        [*_options(output, calls, fault), "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    with tracer, tracer.stderr:
        line = tracer.stderr.readline()
        if "attached" not in line:
            raise RuntimeError(line + tracer.stderr.read())
        try:
            yield trace
        finally:
            tracer.send_signal(signal.SIGINT)
            try:
                tracer.wait(3)
            except subprocess.TimeoutExpired:  # with its tracee in an uninterruptible wait
                tracer.kill()
            trace.lines = output.read_text(errors="replace").splitlines()


def run(
    command: Sequence[str], output: Path, calls: Sequence[str], fault: Fault | None, timeout: float
) -> tuple[subprocess.CompletedProcess[str], Trace]:
    """Run a command and trace it."""
    output.write_text("")
    done = subprocess.run(
        [*_options(output, calls, fault), *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    trace = Trace()
    trace.lines = output.read_text(errors="replace").splitlines()
    return done, trace
