# SPDX-License-Identifier: Apache-2.0
"""`unionrt events`: what a container uses and its processes killed for want of memory, a line of JSON each."""

from __future__ import annotations

import os
import select
import sys
import time

from runtime.oci import jsontext
from runtime.oci.cgroups.oom import Watch
from runtime.oci.cgroups.statistics import collect
from runtime.oci.failure import Failure
from runtime.oci.options import Command, Option, Options
from runtime.oci.state import open_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups import Group
    from runtime.oci.settings import Settings

COMMAND = Command(
    "events",
    "show what a container uses, and kills for want of memory",
    "ID",
    (
        Option("interval", "", "DURATION", "how often (default 5s)"),
        Option("stats", "", "", "what it uses now, and no more"),
    ),
)

_LONGEST = 1e6  # poll(2) counts milliseconds in 31 bits
_UNITS = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0))


def run(settings: Settings, options: Options) -> int:
    """Write events until the container ends."""
    interval = seconds(options.text("interval", "5s"))
    container = open_container(settings.root, options.arguments[0])
    if container.status() == "stopped":
        raise Failure(f"the container {container.id} is stopped", "there is nothing to tell of it")
    group = container.group()
    if not group.directories():
        raise Failure("the container has no cgroup that could count what it uses")
    if options.flag("stats"):
        _write("stats", container.id, collect(group))
        return 0
    _follow(container.id, container.record["pid"], group, interval)
    return 0


def seconds(text: str) -> float:
    """Return a duration such as 5s, 100ms, 1m or 2.5 in seconds."""
    for suffix, factor in _UNITS:
        number = text[: len(text) - len(suffix)]
        if not text.endswith(suffix) or not number.replace(".", "", 1).isdecimal():
            continue
        if 0 < float(number) * factor <= _LONGEST:
            return float(number) * factor
    raise Failure(f"--interval: {text!r} is not a duration", "write 5s or 100ms")


def _follow(identity: str, pid: int, group: Group, interval: float) -> None:
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    watch = Watch(group)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.register(watch.fd, watch.events)
    due = time.monotonic() + interval
    while True:
        woken = {fd for fd, _ in poll.poll(max(due - time.monotonic(), 0) * 1000)}
        is_due = time.monotonic() >= due
        if watch.fd in woken or is_due:
            for _ in range(watch.news()):
                _write("oom", identity, None)
        if end in woken:
            return
        if is_due:
            _write("stats", identity, collect(group))
            due += interval


def _write(kind: str, identity: str, data: object) -> None:
    event = {"type": kind, "id": identity}
    if data is not None:
        event["data"] = data  # type: ignore[assignment]
    sys.stdout.write(jsontext.dumps(event) + "\n")
    sys.stdout.flush()
