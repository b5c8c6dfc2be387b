# SPDX-License-Identifier: Apache-2.0
"""`unionrt kill`: send a signal to a container."""

from __future__ import annotations

import os

from runtime.oci import state
from runtime.oci.failure import Failure
from runtime.oci.options import Command, Option, Options
from runtime.oci.signals import signal as _signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command(
    "kill",
    "send a signal to a container",
    "ID [SIGNAL]",
    (Option("all", "a", "", "to all its processes, not just the first"),),
    least=1,
    most=2,
)
_SIGKILL = 9
_FIRST_REAL_TIME, _LAST_REAL_TIME = 34, 64
_LONGEST = 20
_HINT = "give a name such as TERM, or a number from 1 to 64"


def run(settings: Settings, options: Options) -> int:
    """Send the signal, TERM by default."""
    container = state.open_container(settings.root, options.arguments[0])
    number = signal_number(options.arguments[1] if len(options.arguments) > 1 else "TERM")
    group = container.group() if container.has_group() else None
    if options.flag("all") and group is not None and group.directories():
        group.kill(number)  # perhaps nobody: engines clear up with it
        return 0
    pid = container.pid
    if not pid:
        raise Failure(
            f"container {container.id} is not running: kill has nobody to signal", "it can be deleted"
        )
    _send(container, pid, number)
    if number == _SIGKILL and group is not None and group.frozen():
        group.thaw()  # a frozen process does not die on v1
    return 0


def _send(container: state.Container, pid: int, number: int) -> None:
    """Signal the process; the pidfd makes sure that it still is the one of the record."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise Failure(f"container {container.id} is not running") from None
    try:
        if container.pid != pid:
            raise Failure(f"container {container.id} is not running")
        _signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def signal_number(text: str) -> int:
    """Return the number of a signal given as a number, `TERM`, `SIGTERM`, `RTMIN+3` or `RTMAX-1`."""
    if len(text) > _LONGEST:  # Python refuses to read numbers of some thousand digits
        raise Failure(f"unknown signal {text!r}", _HINT)
    if text.isdecimal() and 0 <= int(text) <= _LAST_REAL_TIME:
        return int(text)
    name = text.upper().removeprefix("SIG")
    for base, number in (("RTMIN", _FIRST_REAL_TIME), ("RTMAX", _LAST_REAL_TIME)):
        offset = name.removeprefix(base)
        if offset != name and (not offset or offset[1:].isdecimal()) and offset[:1] in ("", "+", "-"):
            found = number + int(offset or "0")
            if _FIRST_REAL_TIME <= found <= _LAST_REAL_TIME:
                return found
    found = getattr(_signal, f"SIG{name}", 0) if name.isalnum() else 0
    if not isinstance(found, int) or found <= 0:
        raise Failure(f"unknown signal {text!r}", _HINT)
    return found
