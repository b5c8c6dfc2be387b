# SPDX-License-Identifier: Apache-2.0
"""What every program of this package does around its work: one line for an error, the right exit code, no traceback."""

import os
import sys
from collections.abc import Callable

from unionfs.errors import UserError


def describe(error: OSError) -> str:
    """Return an OSError as one line with the path that was given."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    text = error.strerror or str(error)
    return f"{name}: {text}" if name else text


def run_command(program: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit code: its own, 1 for what failed, 2 for wrong usage, 130 for an interrupt."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"{program}: {_one_line(error.line())}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"{program}: {_one_line(describe(error))}", file=sys.stderr)
        return 1


def _one_line(text: str) -> str:
    # A path may hold anything; the message stays one line, and what no terminal can show is escaped.
    line = "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)
    return line.encode(errors="backslashreplace").decode()
