# SPDX-License-Identifier: Apache-2.0
"""How a step of the runtime fails: one line for people and engines, one hint what to do, an exit status."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

FAILED = 1


class Failure(Exception):
    """Something that the user is told in one line. `status` is the program's exit status.

    `program` is 126 or 127 if it is the container's program that cannot be executed, whatever `status` says, else 0.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = FAILED, program: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
        self.program = program

    def line(self) -> str:
        """Return what failed and what to do as one line."""
        return one_line(f"{self.message}; {self.hint}" if self.hint else self.message)


def one_line(text: str) -> str:
    """Return a text as one line: what would begin another one, or control a terminal, is escaped. A path may hold anything."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)


class Step:
    """Names what is being done: an `OSError` inside becomes a `Failure` "STEP: PATH: reason".

    The path is the one that the error carries; a path to one of our descriptors tells nobody anything and is left out.
    """

    __slots__ = ("_hint", "_text")

    def __init__(self, text: str, hint: str = "") -> None:
        self._text = text
        self._hint = hint

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise Failure(f"{self._text}: {describe(error)}", self._hint) from error


def describe(error: OSError) -> str:
    """Return "PATH: reason"; engines look for words such as "no such file or directory", in lower case."""
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    where = error.filename
    if isinstance(where, bytes):
        where = os.fsdecode(where)
    if not isinstance(where, str) or not where or where.startswith("/proc/self/fd/"):
        return reason
    return f"{where}: {reason}"
