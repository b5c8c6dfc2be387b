# SPDX-License-Identifier: Apache-2.0
"""The system calls that are made to fail, what a fault is, and how a call is shown."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

# How arguments are shown, one letter each: descriptor of a directory, string, number.
_CHANGING = {
    "open": "sn", "openat": "dsn", "openat2": "ds", "link": "ss", "linkat": "dsds", "rename": "ss", "renameat": "dsds",
    "renameat2": "dsdsn", "unlink": "s", "unlinkat": "dsn", "rmdir": "s", "mkdir": "sn", "mkdirat": "dsn", "mknod": "snn",
    "mknodat": "dsnn", "symlink": "ss", "symlinkat": "sds", "chown": "snn", "lchown": "snn", "fchown": "nnn",
    "fchownat": "dsnn", "chmod": "sn", "fchmod": "nn", "fchmodat": "dsn", "utimensat": "ds", "utime": "s", "utimes": "s",
    "setxattr": "ss", "lsetxattr": "ss", "fsetxattr": "ns", "removexattr": "ss", "lremovexattr": "ss", "fremovexattr": "ns",
    "copy_file_range": "nnnnn", "pwrite64": "nnnn", "truncate": "sn", "ftruncate": "nn", "fallocate": "nnnn",
    "sync_file_range": "nnnn", "fdatasync": "n", "fsync": "n", "syncfs": "n",
}  # fmt: skip
_OPENING = {"open": "sn", "openat": "dsn", "openat2": "ds", "dup": "n", "fcntl": "nnn"}
SHAPES = _CHANGING | _OPENING
# Calls that change something, or that make what changes it possible; and those that need a descriptor.
CHANGING, OPENING = tuple(_CHANGING), tuple(_OPENING)

_LONGEST = 150
_INT = 1 << 32


@dataclass(frozen=True)
class Fault:
    """The n-th call of one name fails with `error`, and all later ones too if `persistent`; or SIGKILL."""

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

    def hits(self, call: str, number: int) -> bool:
        """Tell whether it is to happen at a call."""
        return call == self.call and (number == self.number or (self.persistent and number > self.number))


def shown(call: str, values: Sequence[int], thread: int) -> str:
    """Return the arguments of a call that a thread is making, as far as they tell something."""
    try:
        memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        words = [_word(letter, value, memory) for letter, value in zip(SHAPES[call], values, strict=False)]
    finally:
        os.close(memory)
    return ", ".join(words)[:_LONGEST]


def _word(letter: str, value: int, memory: int) -> str:
    if letter == "s":
        text = b""
        with contextlib.suppress(OSError, OverflowError):
            text = os.pread(memory, _LONGEST, value).partition(b"\0")[0]
        return f'"{os.fsdecode(text)}"'
    if letter == "d" and value % _INT == _INT - 100:
        return "AT_FDCWD"
    return str(value % _INT) if letter == "d" else str(value)
