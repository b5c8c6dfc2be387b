# SPDX-License-Identifier: Apache-2.0
"""What every program of this package does around its work: one line for an error, the right exit code, no traceback."""

import io
import logging
import os
import sys
from collections.abc import Callable

from unionfs.errors import UserError

_FAILED, _WRONG_USAGE, _INTERRUPTED = 1, 2, 130


def describe(error: OSError) -> str:
    """Return an OSError as one line with the path that was given."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    text = error.strerror or str(error)
    return f"{name}: {text}" if name else text


def one_line(text: str) -> str:
    """Return a text as one line that any terminal can show: what is no text in a path, or would control it, is escaped."""
    line = "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)
    return line.encode(errors="surrogateescape").decode(errors="backslashreplace")


class LogFormatter(logging.Formatter):
    """Writes each message as one line, whatever names of files are in it: clients of a union choose those."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        return one_line(super().formatMessage(record))


def set_up_log(handler: logging.Handler, level: int, form: str) -> None:
    """Send messages of `level` and above to `handler`, and to no other."""
    handler.setFormatter(LogFormatter(form))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def run_command(
    program: str, command: Callable[[], int], *, failed: int = _FAILED, wrong_usage: int = _WRONG_USAGE
) -> int:
    """Run a command and return its exit code: its own, `failed`, `wrong_usage`, what a UserError says, or 130 for an interrupt.

    SystemExit, by which argparse ends after its help or its complaint, goes through.
    """
    _settle_streams()
    try:
        status, lost = _run(program, command, {_FAILED: failed, _WRONG_USAGE: wrong_usage}), _flush()
    except SystemExit as end:
        if not end.code and _say_lost(program, _flush()):
            end.code = failed
        raise
    return failed if _say_lost(program, lost) else status


def _run(program: str, command: Callable[[], int], statuses: dict[int, int]) -> int:
    failed = statuses[_FAILED]
    try:
        return command()
    except UserError as error:
        _say(program, error.line())
        return statuses.get(error.status, error.status)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return failed
    except OSError as error:
        lost = None if error.filename else _flush()
        if not _say_lost(program, lost):
            _say(program, describe(error))
        return failed


def _say(program: str, text: str) -> None:
    print(f"{program}: {one_line(text)}", file=sys.stderr)


def _settle_streams() -> None:
    """Make up for standard streams that the caller has closed: files of ours would take their numbers, and their output.

    What a stream's encoding cannot say, a name that is no text for one, is escaped instead of being an error.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush() -> OSError | None:
    """Write out what was printed; return why that failed. The interpreter would try again at its end, and say so at length."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return error
    return None


def _say_lost(program: str, error: OSError | None) -> bool:
    """Tell whether output was lost. A reader that has gone, such as head(1), knows; others are told."""
    if error is not None and not isinstance(error, BrokenPipeError):
        _say(program, f"standard output: {error.strerror}")
    return error is not None
