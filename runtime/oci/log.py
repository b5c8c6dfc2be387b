# SPDX-License-Identifier: Apache-2.0
"""Messages of the program: to standard error for people, to a file for the engines that call us.

Engines read the reason of a failure from the last error line of that file.
"""

from __future__ import annotations

import os
import sys
import time

from runtime.oci import jsontext
from runtime.oci.failure import Failure, Step, one_line

_LEVELS = {"error": 0, "warning": 1, "warn": 1, "info": 2, "debug": 3}
_PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}  # of syslog
_JOURNAL = "/run/systemd/journal/socket"


class _Sink:
    """Where messages go; one a process."""

    def __init__(self) -> None:
        self.kind = ""  # "", file, syslog, journald
        self.fd = -1
        self.name = ""
        self.json = False
        self.level = _LEVELS["warning"]
        self.program = "unionrt"


_sink = _Sink()


def configure(target: str, form: str, level: str) -> None:
    """Send messages to `target` (a path, or file:, syslog: or journald: and a name) as text or json."""
    if form not in ("", "text", "json"):
        raise Failure(f"--log-format: unknown format {form!r}", "give text or json")
    if level not in ("", *_LEVELS):
        raise Failure(f"--log-level: unknown level {level!r}", f"give {', '.join(_LEVELS)}")
    _sink.json = form == "json"
    _sink.level = _LEVELS[level or "warning"]
    kind, colon, name = target.partition(":")
    if colon and kind in ("syslog", "journald"):
        _sink.kind, _sink.name = kind, name or "unionrt"
    elif target:
        path = name if colon and kind == "file" else target
        with Step("open the log"):
            _sink.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        _sink.kind = "file"


def speak_as(program: str) -> None:
    """Begin messages for people with this name: another program's, which calls our functions."""
    _sink.program = program


def error(text: str) -> None:
    """Say why the command fails; standard error gets it too."""
    if _sink.kind:
        _stderr(f"{_sink.program}: {text}")
    _write("error", text)


def warning(text: str) -> None:
    """Say what the user should know though the command goes on, in one line."""
    _write("warning", " ".join(text.split()))


def info(text: str) -> None:
    """Say what is worth knowing when somebody asks why, in one line."""
    _write("info", " ".join(text.split()))


def debug(text: str) -> None:
    """Say what is being done, for --debug."""
    _write("debug", text)


def is_debug() -> bool:
    """Tell whether debug messages are wanted, so that costly ones need not be made."""
    return _sink.level >= _LEVELS["debug"]


def _write(level: str, text: str) -> None:
    if _LEVELS[level] > _sink.level:
        return
    if _sink.kind == "syslog":
        import syslog

        syslog.openlog(_sink.name, syslog.LOG_PID)
        syslog.syslog(_PRIORITIES[level], text)
    elif _sink.kind == "journald":
        _send_to_journal(level, text)
    elif _sink.kind == "file":
        _append(level, text)
    elif _sink.json:
        _stderr(_line(level, text).decode().rstrip("\n"))
    else:
        _stderr(f"{_sink.program}: {text}" if level == "error" else f"{_sink.program}: {level}: {text}")


def _append(level: str, text: str) -> None:
    try:
        os.write(_sink.fd, _line(level, text))
    except OSError:  # a full disk: what `error` has not told yet goes where it can be read
        if level != "error":
            _stderr(f"{_sink.program}: {level}: {text}")


def _line(level: str, text: str) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _sink.json:
        line = jsontext.dumps({"level": level, "msg": text, "time": now})
    else:
        line = f"time={now} level={level} msg={jsontext.dumps(text)}"
    return line.encode() + b"\n"


def _send_to_journal(level: str, text: str) -> None:
    import _socket

    message = (
        f"MESSAGE={' '.join(text.split())}\nPRIORITY={_PRIORITIES[level]}\nSYSLOG_IDENTIFIER={_sink.name}\n"
    )
    journal = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        journal.sendto(message.encode("utf-8", "surrogateescape"), _JOURNAL)
    except OSError:
        _stderr(f"{_sink.program}: {text}")
    finally:
        journal.close()


def _stderr(text: str) -> None:
    try:
        os.write(2, one_line(text).encode("utf-8", "surrogateescape") + b"\n")
    except OSError:  # closed, or a pipe that nobody reads: the status must do
        pass
    sys.stderr.flush()
